r"""Ways to draw from the reward tilt, all of one discretised prior.

The prior is the reverse process of `scoreppl.samplers.reference`, with one ladder and one fit for
all methods, so that their weights have one target,

.. math:: \pi(x) \propto e^{\lambda r(x)} p(x).

Particles of the same number start from the same noise under every method.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.sdxl_latent.model import Reward, tilted
from scoreppl.guidance import LAGS, Guidance, Guided, Lookahead, Tweedie, Unguided, View
from scoreppl.samplers.guided import Resampling, guide
from scoreppl.samplers.reference import Reference, fit_reference
from scoreppl.samplers.smc import lineage_variance

# Steps of the fast solver that makes draws ahead.
STEPS_AHEAD = 8


class Law(NamedTuple):
    """A prior with the ladder and variances of its discretised reverse process."""

    prior: Any
    ladder: Array
    reference: Reference


class Ahead(NamedTuple):
    """Draws made ahead, flat, and their rewards."""

    draws: Array
    reward: Array


class Draws(NamedTuple):
    """What a method drew.

    Attributes
    ----------
    events
        Shape ``(n, *event)``.
    reward
        Shape ``(n,)``.
    tilt
        The factor lambda of the reward in the weight.
    log_weight
        Log weights that make the draws those of the tilt, shape ``(n,)``.
    cluster
        Particles of one number descend from one.
    log_evidence, log_evidence_error
        Of a run with resampling; NaN where the weights say it.
    evaluations
        Score evaluations of one draw.
    seconds
        Of all draws, compilation left out.
    """

    events: np.ndarray
    reward: np.ndarray
    tilt: float
    log_weight: np.ndarray
    cluster: np.ndarray
    log_evidence: float
    log_evidence_error: float
    evaluations: float
    seconds: float


# How to guide at a tilt, given draws made ahead.
Make = Callable[[Any, Any], Guidance]


class Method(NamedTuple):
    """A way to draw.

    Attributes
    ----------
    make
        Its guidance.
    resampling
        When particles are resampled; None: independent paths.
    has_backward
        Whether it differentiates the network.
    needs_gradient
        Whether it differentiates the reward.
    """

    make: Make
    resampling: Resampling | None = None
    has_backward: bool = False
    needs_gradient: bool = False


def steer(u: Array, view: View) -> Guided:
    """Follow the prior; resampling sees the reward of the denoised event.

    Particles so resampled are what is known as Feynman-Kac steering (Singhal et al.,
    arXiv:2501.06848), with the exact weight at the end. One evaluation, no derivative.
    """
    denoised = view.denoise(u)
    return Guided(denoised, denoised, view.log_weight(denoised))


PLAIN = "plain draws"
WITHOUT_PRODUCT, LAGS_NAME = 'LAGS(hvp="none")', "LAGS"
DPS, LIDAR, STEERED = "DPS", "LiDAR", "SMC, steered"
METHODS = {
    PLAIN: Method(lambda tilt, ahead: Unguided()),
    WITHOUT_PRODUCT: Method(lambda tilt, ahead: LAGS(hvp="none"), needs_gradient=True),
    LAGS_NAME: Method(lambda tilt, ahead: LAGS(), needs_gradient=True),
    DPS: Method(lambda tilt, ahead: Tweedie(), has_backward=True, needs_gradient=True),
    LIDAR: Method(lambda tilt, ahead: Lookahead(ahead.draws, ahead.reward, tilt=tilt)),
    STEERED: Method(lambda tilt, ahead: steer, Resampling()),
}


@partial(jax.jit, static_argnames=("num_steps", "num_pilots"))
def fit_law(key: Array, prior: Any, *, num_steps: int, num_pilots: int) -> Law:
    """Fit the reverse process on pilot draws."""
    target = sp.Target({"x": prior}, {"x": jnp.zeros(())}, lambda z: jnp.zeros(()))
    nothing = {"x": jnp.zeros(prior.event_shape)}
    found = fit_reference(key, nothing, target, num_levels=num_steps, num_pilots=num_pilots)
    return Law(prior, *found)


@partial(jax.jit, static_argnames=("reward", "count", "block"))
def draw_ahead(key: Array, prior: Any, reward: Reward, count: int, block: int) -> Ahead:
    """Make draws by few steps of a fast solver, and look at their rewards."""

    def one(key: Array) -> tuple[Array, Array]:
        x = prior.sample(key, num_steps=STEPS_AHEAD)
        return x.ravel(), reward(prior, x)

    return Ahead(*jax.lax.map(one, jax.random.split(key, count), batch_size=block))


@partial(jax.jit, static_argnames=("method", "reward", "max_shift"))
def _paths(
    keys: Array, law: Law, ahead: Ahead | None, tilt: Array, method: Method, reward: Reward,
    max_shift: float,
) -> tuple[Array, ...]:  # fmt: skip
    target = sp.Target(
        {"x": law.prior}, {"x": jnp.zeros(())}, sp.log_weight(tilted, law.prior, reward, tilt)
    )
    found = guide(
        keys, {"x": jnp.zeros((len(keys), *law.prior.event_shape))}, jnp.zeros(len(keys)), target,
        law.ladder, law.reference, method.make(tilt, ahead), method.resampling, max_shift,
    )  # fmt: skip
    events = found.position["x"]
    rewards = jax.vmap(lambda x: reward(law.prior, x))(events)
    variance = lineage_variance(found.log_weight, found.ancestor)
    return events, rewards, found.log_weight, found.ancestor, found.log_evidence, variance


def draw(
    key: Array,
    law: Law,
    reward: Reward,
    method: Method,
    tilts: Sequence[float],
    count: int,
    *,
    block: int,
    ahead: Ahead | None = None,
    max_shift: float = np.inf,
) -> list[Draws]:
    """Draw `count` events at each tilt, `block` at a time, or all at once with resampling.

    Shifts are not shortened unless asked: every guidance is as published.

    Raises
    ------
    ValueError
        If `count` is no multiple of `block`.
    """
    size = count if method.resampling is not None else min(block, count)
    if count % size:
        raise ValueError(f"`count={count}` must be a multiple of `block={block}`.")
    # Those of the first draws do not depend on how many there are.
    blocks = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count)).reshape(-1, size)
    compiled = _paths.lower(
        blocks[0], law, ahead, jnp.zeros(()), method, reward, max_shift
    ).compile()
    each = getattr(method.make(1.0, ahead), "num_score_evaluations", lambda size: 1)
    evaluations = each(int(np.prod(law.prior.event_shape))) * len(law.ladder)
    found = []
    for tilt in tilts:
        start = time.perf_counter()
        parts = [
            jax.device_get(compiled(block, law, ahead, jnp.asarray(tilt, float)))
            for block in blocks
        ]
        seconds = time.perf_counter() - start
        events, rewards, log_weight, ancestor = (
            np.concatenate([part[i] for part in parts]) for i in range(4)
        )
        evidence = error = np.nan
        if method.resampling is None:
            ancestor = np.arange(count)
        else:
            evidence, error = float(parts[0][4]), float(np.sqrt(parts[0][5]))
        found.append(
            Draws(
                events, rewards.astype(float), tilt, log_weight.astype(float), ancestor, evidence,
                error, evaluations, seconds,
            )
        )  # fmt: skip
    return found
