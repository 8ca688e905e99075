"""Independent draws of many posteriors by one kernel, warmed up once and compiled once."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from numpyro.infer import MCMC

Report = Callable[[str], None]


class Draws(NamedTuple):
    """Draws of every posterior.

    Attributes
    ----------
    values
        By site, shape ``(observations, draws, *site)``.
    evaluations
        Of the network, of one draw and for each event of a score site.
    seconds
        Of wall time, an observation, without the compilation.
    """

    values: dict[str, np.ndarray]
    evaluations: float
    seconds: float


def independent_draws(
    kernel: Any, num_draws: int, arguments: tuple, pilot: Array, observations: Array,
    key: Array, report: Report, sites: Sequence[str],
) -> Draws:  # fmt: skip
    """Draw from each posterior, with a warm-up on one observation apart.

    Parameters
    ----------
    kernel
        A kernel of independent draws whose blocks are `num_draws` long: a resumed chain then
        begins with a block of its own.
    num_draws
        Draws of each posterior.
    arguments
        Of the model, before the observation.
    pilot
        The observation that the warm-up sees.
    observations
        What to draw the posteriors of, along the first axis.
    key
        PRNG key.
    report
        Told what has been done.
    sites
        Which to keep.
    """
    mcmc = MCMC(
        kernel, num_warmup=num_draws, num_samples=num_draws, progress_bar=False,
        jit_model_args=True,
    )  # fmt: skip
    fields = ("num_score_evaluations",)

    def run(y: Array) -> dict[str, np.ndarray]:
        mcmc.run(key, *arguments, y, extra_fields=fields)
        # A resumed chain goes on with keys of its own.
        mcmc.post_warmup_state = mcmc.last_state
        found = mcmc.get_samples()
        return {site: np.asarray(found[site]) for site in sites}

    run(pilot)
    # Without the warm-up it is another program, which is compiled here.
    run(pilot)
    start = time.perf_counter()
    found = [run(y) for y in counted(observations, report)]
    seconds = (time.perf_counter() - start) / max(len(found), 1)
    evaluations = float(np.mean(mcmc.get_extra_fields()["num_score_evaluations"]))
    values = {site: np.stack([draws[site] for draws in found]) for site in sites}
    return Draws(values, evaluations, seconds)


def counted(observations: Array, report: Report) -> Iterator[Array]:
    """Give the observations one after another, and say how many are done."""
    start = time.perf_counter()
    for index, y in enumerate(observations):
        yield y
        report(f"{index + 1} of {len(observations)}, {time.perf_counter() - start:.0f} s")
