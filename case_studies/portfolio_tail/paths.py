r"""Losses under the network's law: plain paths, and paths guided to the tail with their ratios.

The law is that of a reverse diffusion of `NUM_STEPS` steps with the network as denoiser
(`scoreppl.samplers.reference`). Plain paths draw from it. Guided ones follow the weight

.. math:: w(x) = \frac{1}{1 + e^{-\lambda (L(x) - a)}},

an exponential tilt by the loss L up to a, and nothing more beyond. They come with the density
ratio v of plain to guided paths: a mean of v f(x) over them estimates that of f over plain ones.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from scoreppl.guidance import Guidance, LimitState, LineSearch, LowRank, Unguided
from scoreppl.samplers.guided import guide
from scoreppl.samplers.reference import Reference, fit_reference
from scoreppl.target import Target

NUM_STEPS, NUM_PILOTS, PILOT_RANK = 50, 512, 5
# Paths made at a time.
BLOCK = 500
# As in `sp.GuidedDiffusion`.
MAX_SHIFT = 0.2


class Law(NamedTuple):
    """A network with the ladder and variances of its discretised reverse process."""

    network: sp.ScoreNetwork
    ladder: Array
    reference: Reference


class Tilt(NamedTuple):
    """Slope lambda and end a of the tilt, in the loss's units."""

    slope: float
    end: float


class Losses(NamedTuple):
    """Losses of paths, shape ``(n,)``, and the log density ratio of plain paths to them."""

    loss: np.ndarray
    log_ratio: np.ndarray


def line_search(slopes: Array, tilt: Tilt) -> Guidance:
    """Guide by one gradient a step."""
    return LineSearch()


def low_rank(slopes: Array, tilt: Tilt) -> Guidance:
    """Guide by Newton steps along the loss, and narrow the steps in its direction."""
    return LowRank(slopes[None])


def limit_state(slopes: Array, tilt: Tilt) -> Guidance:
    """Guide by values of the limit state alone.

    Beyond two slopes before the end: paths beyond the end itself would tell of no quantile that is
    below it.
    """
    return LimitState(lambda x: slopes @ x - tilt.end + 2 / tilt.slope)


def unguided(slopes: Array, tilt: Tilt) -> Guidance:
    """Do not guide."""
    return Unguided()


def fit_law(key: Array, network: sp.ScoreNetwork, num_steps: int = NUM_STEPS) -> Law:
    """Fit the discretised reverse process on pilot draws of the network."""
    nothing = {"x": jnp.zeros(network.event_shape)}

    @jax.jit
    def fit(key: Array, network: sp.ScoreNetwork) -> tuple[Array, Reference]:
        target = Target({"x": network}, {"x": 0.0}, lambda z: jnp.zeros(()))
        return fit_reference(
            key, nothing, target, num_levels=num_steps, num_pilots=NUM_PILOTS, rank=PILOT_RANK
        )

    return Law(network, *fit(key, network))


@partial(jax.jit, static_argnames=("guidance", "size"))
def _block(
    key: Array, law: Law, slopes: Array, tilt: Tilt, guidance, size: int
) -> tuple[Array, Array]:
    """Return events and log ratios of `size` paths."""

    def log_weight(x: Array) -> Array:
        return jax.nn.log_sigmoid(tilt.slope * (slopes @ x - tilt.end))

    target = Target({"x": law.network}, {"x": 0.0}, lambda z: log_weight(z["x"]))
    found = guide(
        jax.random.split(key, size), {"x": jnp.zeros((size, *law.network.event_shape))},
        jnp.zeros(size), target, law.ladder, law.reference, guidance(slopes, tilt),
        max_shift=MAX_SHIFT,
    )  # fmt: skip
    events = found.position["x"]
    return events, found.log_weight - jax.vmap(log_weight)(events)


def plain_events(key: Array, law: Law, num_draws: int, block: int = 5_000) -> np.ndarray:
    """Draw events of the law, shape ``(num_draws, d)``."""
    slopes, tilt = jnp.zeros(law.network.event_shape), Tilt(0.0, 0.0)
    parts = [
        np.asarray(_block(jax.random.fold_in(key, i), law, slopes, tilt, unguided, block)[0])
        for i in range(-(-num_draws // block))
    ]
    return np.concatenate(parts)[:num_draws]


def guided_losses(
    key: Array, law: Law, slopes: np.ndarray, tilt: Tilt, guidance, num_draws: int
) -> Losses:
    """Draw losses of guided paths; the loss of an event x is ``slopes @ x``."""
    rows = jnp.asarray(slopes, jnp.float32)
    tilt = Tilt(*(jnp.float32(v) for v in tilt))
    losses, ratios = [], []
    size = min(BLOCK, num_draws)
    for index in range(-(-num_draws // size)):
        part = _block(jax.random.fold_in(key, index), law, rows, tilt, guidance, size)
        events, ratio = (np.asarray(value, np.float64) for value in part)
        losses.append(events @ slopes)
        ratios.append(ratio)
    return Losses(np.concatenate(losses)[:num_draws], np.concatenate(ratios)[:num_draws])


def evaluations(guidance, num_draws: int, size: int = 20) -> int:
    """Return how many network evaluations so many paths take."""
    part = guidance(np.ones(size), Tilt(1.0, 0.0))
    return NUM_STEPS * num_draws * part.num_score_evaluations(size)
