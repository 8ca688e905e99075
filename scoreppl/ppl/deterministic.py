"""Deterministic sites of stored draws, one draw at a time: for sites too large to be kept."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpyro.handlers import seed, substitute, trace

from scoreppl.arguments import check_count
from scoreppl.ppl.flat import flat_scores
from scoreppl.ppl.potential import Model


class SiteMoments(NamedTuple):
    """Moments of a deterministic site over draws.

    Attributes
    ----------
    mean, sd
        Entry by entry, in double precision; the mean's error is `sd` over the square root of the
        effective number of draws.
    """

    mean: np.ndarray
    sd: np.ndarray


def deterministic_sites(
    model: Model,
    samples: Mapping[str, ArrayLike],
    *args: Any,
    store: str | int = "moments",
    sites: Sequence[str] | None = None,
    log_weight: ArrayLike | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Compute deterministic sites from stored draws, and keep no more of them than is asked for.

    NumPyro keeps every deterministic site of every draw: a decoded image is 48 times its latent.
    Hide it from the run, ``MCMC(sp.GuidedDiffusion(numpyro.handlers.block(model,
    hide=["image"])), ...)``, and compute it here afterwards: one draw at a time is in memory. What
    is random in the model besides its latents is drawn anew for each, as `numpyro.infer.Predictive`
    does.

    Parameters
    ----------
    model
        The NumPyro model, with the sites.
    samples
        Constrained draws of its latent sites, leading axis over the draws, as
        ``mcmc.get_samples()`` returns them; other entries are not looked at.
    *args, **kwargs
        Of the model.
    store
        ``"moments"``: mean and standard deviation; a number k: every k-th draw; ``"all"``.
    sites
        Names of deterministic sites; None: all of the model.
    log_weight
        Log weights of the draws, shape ``(n,)``, for the moments.

    Returns
    -------
    dict
        `SiteMoments` by site, or arrays with a leading axis over the draws that are kept.

    Raises
    ------
    ValueError
        If a latent site has no draws, lengths differ, the model has no such site, `store` is none
        of these, or weights are NaN, all zero, or given without ``store="moments"``.
    """
    flat, key = flat_scores(model), jax.random.key(0)
    found = trace(seed(flat, key)).get_trace(*args, **kwargs)
    draws, count = _draws(found, samples)
    known = [name for name, site in found.items() if site["type"] == "deterministic"]
    wanted = known if sites is None else list(sites)
    if not wanted or set(wanted) - set(known):
        raise ValueError(
            f"`sites={wanted}` must be deterministic sites of the model; it has {known}."
        )
    every = 1 if isinstance(store, str) else check_count("store", store, 1)
    if isinstance(store, str) and store not in ("moments", "all"):
        raise ValueError(f'`store={store!r}` must be "moments", "all" or every how many draws.')
    if log_weight is not None and store != "moments":
        raise ValueError(
            f'`log_weight` is for store="moments", and `store={store!r}` keeps draws: '
            "they keep their weights."
        )
    weight = _weights(log_weight, count)

    # As in NumPyro's kernels the model's arguments are what they are: numbers of plates, functions.
    @jax.jit
    def at(draw: dict[str, Any], key: Array) -> dict[str, Any]:
        seeded = seed(substitute(flat, data=draw), key)
        computed = trace(seeded).get_trace(*args, **kwargs)
        return {name: computed[name]["value"] for name in wanted}

    def computed(index: int) -> dict[str, np.ndarray]:
        draw = {name: value[index] for name, value in draws.items()}
        values = at(draw, jax.random.fold_in(key, index))
        return {name: np.asarray(value) for name, value in values.items()}

    if store != "moments":
        kept = [computed(index) for index in range(0, count, every)]
        return {name: np.stack([each[name] for each in kept]) for name in wanted}
    mean = {name: np.zeros(()) for name in wanted}
    squares = {name: np.zeros(()) for name in wanted}
    total = 0.0
    for index in np.flatnonzero(weight):
        total += weight[index]
        for name, value in computed(int(index)).items():
            # West's update: no difference of large sums.
            change = np.asarray(value, np.float64) - mean[name]
            mean[name] = mean[name] + change * (weight[index] / total)
            squares[name] = squares[name] + weight[index] * change * (value - mean[name])
    return {name: SiteMoments(mean[name], np.sqrt(squares[name] / total)) for name in wanted}


def _draws(
    found: Mapping[str, Any], samples: Mapping[str, ArrayLike]
) -> tuple[dict[str, np.ndarray], int]:
    latents = [
        name for name, site in found.items() if site["type"] == "sample" and not site["is_observed"]
    ]
    draws = {}
    for name in latents:
        if name not in samples:
            raise ValueError(f"`samples` has no draws of site '{name}'; it has {list(samples)}.")
        draws[name] = np.asarray(samples[name])
        shape = np.shape(found[name]["value"])
        if draws[name].shape[1:] != shape or draws[name].ndim == 0:
            raise ValueError(
                f"`samples['{name}']` has shape {draws[name].shape}; it must be (n, *{shape}), "
                "with chains one after another (group_by_chain=False)."
            )
    lengths = {name: len(value) for name, value in draws.items()}
    count = next(iter(lengths.values()), 0)
    if count == 0 or len(set(lengths.values())) > 1:
        raise ValueError(f"`samples` must have equally many draws of each site, not {lengths}.")
    return draws, count


def _weights(log_weight: ArrayLike | None, count: int) -> np.ndarray:
    if log_weight is None:
        return np.ones(count)
    logs = np.asarray(log_weight, np.float64)
    if logs.shape != (count,):
        raise ValueError(f"`log_weight` has shape {logs.shape}; it must be ({count},).")
    if np.any(np.isnan(logs)) or not np.isfinite(np.max(logs)):
        raise ValueError(
            "`log_weight` holds NaN or +inf, or no draw has a weight: leave such draws out."
        )
    return np.exp(logs - logs.max())
