"""Independent draws of many posteriors by one kernel, warmed up once and compiled once."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from numpyro.util import is_prng_key
from tqdm import tqdm


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
    key: Array, title: str, sites: Sequence[str],
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
    title
        Of the progress bar.
    sites
        Which to keep.
    """
    collect = collector(kernel, num_draws, sites, "num_score_evaluations")
    state = kernel.init(key, num_draws, None, (*arguments, pilot), {})
    found = []
    with tqdm(total=len(observations) + 1, desc=f"{title}, with a warm-up") as bar:
        state, (_, cost) = collect(state, (*arguments, pilot))
        bar.update()
        start = time.perf_counter()
        for y in observations:
            # A chain goes on with keys of its own.
            state, (values, cost) = collect(state, (*arguments, y))
            found.append(jax.tree.map(np.asarray, values))
            bar.update()
    seconds = (time.perf_counter() - start) / max(len(found), 1)
    values = {site: np.stack([draws[site] for draws in found]) for site in sites}
    return Draws(values, float(np.mean(cost)), seconds)


Collect = Callable[[Any, tuple], tuple[Any, tuple[dict[str, Array], Array]]]


def collector(kernel: Any, num_draws: int, sites: Sequence[str], cost: str) -> Collect:
    """Return a compiled function that draws from the posterior given a model's arguments.

    `MCMC.run` without a progress bar compiles for every observation anew, which takes longer than
    the draws.

    Parameters
    ----------
    kernel
        A kernel of NumPyro.
    num_draws
        How often it moves.
    sites
        Whose constrained values are wanted.
    cost
        Name of the state's field that counts what a draw costs.

    Returns
    -------
    callable
        ``collect(state, arguments)`` returns the state afterwards and, with a leading axis of
        draws, values by site and the cost.
    """

    @jax.jit
    def collect(state: Any, arguments: tuple) -> tuple[Any, tuple[dict[str, Array], Array]]:
        def step(state: Any, _: None) -> tuple[Any, tuple[dict[str, Array], Array]]:
            state = kernel.sample(state, arguments, {})
            constrain = kernel.postprocess_fn(arguments, {})
            is_one = is_prng_key(state.rng_key)
            values = (constrain if is_one else jax.vmap(constrain))(state.z)
            return state, ({site: values[site] for site in sites}, getattr(state, cost))

        return jax.lax.scan(step, state, None, length=num_draws)

    return collect
