"""R-hat and effective sample sizes of a run, over every number that is worth a line.

Sites of many entries, such as images, are represented by the mean of their entries and by a
random subset of them.
"""

from typing import NamedTuple

import numpy as np

MAX_ENTRIES = 32
"""Sites of more entries than this are represented by their mean and a subset."""

SUBSET = 16


class Convergence(NamedTuple):
    """Worst cases over all quantities, with the quantity's name.

    Attributes
    ----------
    max_r_hat
        Rank-normalised split R-hat; None for one chain.
    min_ess_bulk, min_ess_tail
        Effective sample sizes; None for fewer than 4 draws.
    num_quantities
        How many numbers were looked at.
    num_not_finite
        Draws in which a site is not finite.
    summarised
        Sites that are represented by their mean and a subset.
    """

    max_r_hat: tuple[str, float] | None
    min_ess_bulk: tuple[str, float] | None
    min_ess_tail: tuple[str, float] | None
    num_quantities: int
    num_not_finite: int
    summarised: tuple[str, ...]


def convergence(samples: dict[str, np.ndarray]) -> Convergence:
    """Compute the worst R-hat and effective sample sizes.

    Parameters
    ----------
    samples
        Values by site, leading axes chain and draw.
    """
    import arviz as az  # costs a second, which importing the package should not

    quantities, summarised = _quantities(samples)
    chains, draws = next(iter(samples.values())).shape[:2]
    not_finite = np.zeros((chains, draws), bool)
    for value in samples.values():
        not_finite |= ~np.all(np.isfinite(value), axis=tuple(range(2, value.ndim)))
    # Numbers that never change have neither.
    varying = {
        name: value
        for name, value in quantities.items()
        if np.all(np.isfinite(value)) and np.ptp(value) > 0
    }
    enough = draws >= 4 and bool(varying)
    return Convergence(
        max_r_hat=_worst(az.rhat(varying), max) if enough and chains > 1 else None,
        min_ess_bulk=_worst(az.ess(varying, method="bulk"), min) if enough else None,
        min_ess_tail=_worst(az.ess(varying, method="tail"), min) if enough else None,
        num_quantities=len(varying),
        num_not_finite=int(not_finite.sum()),
        summarised=summarised,
    )


def _quantities(samples: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    found, summarised = {}, []
    for site, value in samples.items():
        shape = value.shape[2:]
        size = int(np.prod(shape))
        entries = value.reshape(*value.shape[:2], size)
        chosen = np.arange(size)
        if size > MAX_ENTRIES:
            summarised.append(site)
            found[f"mean of {site}"] = entries.mean(-1, dtype=np.float64)
            chosen = np.sort(np.random.default_rng(0).choice(size, SUBSET, replace=False))
        for index in chosen:
            place = ", ".join(str(i) for i in np.unravel_index(index, shape)) if shape else ""
            found[f"{site}[{place}]" if shape else site] = entries[..., index]
    return found, tuple(summarised)


def _worst(dataset, choose) -> tuple[str, float] | None:
    values = {name: float(value) for name, value in dataset.data_vars.items()}
    finite = {name: value for name, value in values.items() if np.isfinite(value)}
    if not finite:
        return None
    name = choose(finite, key=finite.__getitem__)
    return str(name), finite[name]
