r"""The Feynman-Kac loop: particles that move, are weighted, and are resampled where that pays.

Any sequential Monte Carlo method over noise levels is a `FeynmanKac`: how a population looks at a
level, which may change its weights, and how it moves to the next one, which may, too. This loop
does the rest: it keeps weights, resamples, and estimates the evidence, whose mean stays exact
however often particles are resampled (Del Moral, 2004). Weights are summed with compensation, so
that hundreds of levels cost single precision nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from blackjax.smc.resampling import systematic
from jax import Array
from jax.scipy.special import logsumexp

Scheme = Callable[[Array, Array, int], Array]


class Resampling(NamedTuple):
    """When particles are resampled, and how.

    Attributes
    ----------
    threshold
        Below this share of effective particles.
    first_log_snr
        Only at levels with more signal than this: twists at high noise are unreliable, and
        resampling by them loses modes.
    scheme
        ``scheme(key, weights, num_samples) -> indices`` for normalised weights: one of
        `blackjax.smc.resampling`, or `scoreppl.samplers.ssp`.
    """

    threshold: float = 0.5
    first_log_snr: float = 0.0
    scheme: Scheme = systematic


class Look(NamedTuple):
    """How a population stands at a level.

    Attributes
    ----------
    seen
        What the move needs, a pytree with leading axis over the particles.
    log_increment
        Added to the log weights, shape ``(num_particles,)``.
    log_twist
        Steers resampling only: what a resampled particle owes to it, it gives back.
    """

    seen: Any
    log_increment: Array
    log_twist: Array


class FeynmanKac(Protocol):
    """A method over levels, on whole populations."""

    def look(self, keys: Array, particles: Any, level: Any) -> Look:
        """Look at a level, before resampling."""
        ...

    def move(
        self, keys: Array, particles: Any, seen: Any, log_weight: Array, level: Any
    ) -> tuple[Any, Array]:
        """Move to the next level; return the particles and what is added to the log weights."""
        ...


class Trace(NamedTuple):
    """What happened at each level, leading axis over the levels.

    Attributes
    ----------
    ess
        Effective particles by weight and twist, before resampling.
    is_resampled
        Whether the level resampled.
    num_ancestors
        How many particles of the start have descendants.
    """

    ess: Array
    is_resampled: Array
    num_ancestors: Array


class Population(NamedTuple):
    """Weighted particles after the last level.

    Attributes
    ----------
    particles
        Pytree with leading axis over the particles.
    log_weight
        Shape ``(num_particles,)``.
    log_evidence
        Log of the product of the mean weights of the resamplings so far; add the log mean of what
        the particles weigh now.
    ancestor
        Which particle of the start each comes from.
    trace
        By level.
    """

    particles: Any
    log_weight: Array
    log_evidence: Array
    ancestor: Array
    trace: Trace


def effective_sample_size(log_weight: Array) -> Array:
    """(sum w)^2 / sum w^2 of log weights along the last axis."""
    return jnp.exp(2 * logsumexp(log_weight, -1) - logsumexp(2 * log_weight, -1))


def run_levels(
    keys: Array,
    particles: Any,
    log_weight: Array,
    method: FeynmanKac,
    levels: Any,
    log_snr: Array,
    resampling: Resampling | None,
) -> Population:
    """Take a population through all levels.

    Parameters
    ----------
    keys
        One key a particle; without resampling a particle depends on its own key alone.
    particles
        Pytree with leading axis over the particles.
    log_weight
        Log weights at the start.
    method
        The Feynman-Kac method.
    levels
        What the method wants to know of each level: a pytree with leading axis over the levels.
    log_snr
        Of each level.
    resampling
        When and how to resample; None for independent particles.
    """
    size = len(log_weight)

    def level(carry: tuple, inputs: tuple) -> tuple[tuple, Trace]:
        particles, weight, evidence, ancestor = carry
        index, log_snr, at = inputs
        level_keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
        look = method.look(level_keys, particles, at)
        weight = _add(weight, look.log_increment)
        twisted = weight[0] + look.log_twist
        ess = effective_sample_size(twisted)
        seen, is_due = look.seen, jnp.zeros((), bool)
        if resampling is not None:
            total = logsumexp(twisted)
            is_due = (ess < resampling.threshold * size) & (log_snr > resampling.first_log_snr)
            is_due &= jnp.isfinite(total)
            share = jnp.exp(twisted - jnp.where(jnp.isfinite(total), total, 0.0))
            key = jax.random.fold_in(level_keys[0], 0)
            chosen = jnp.where(is_due, resampling.scheme(key, share, size), jnp.arange(size))
            particles, seen, ancestor = jax.tree.map(
                lambda v: v[chosen], (particles, seen, ancestor)
            )
            # What remains of a resampled particle's weight is what its twist must give back.
            owed = (-look.log_twist[chosen], jnp.zeros(size))
            weight = jax.tree.map(lambda new, old: jnp.where(is_due, new, old), owed, weight)
            evidence = _add(evidence, jnp.where(is_due, total - jnp.log(size), 0.0))
        particles, increment = method.move(level_keys, particles, seen, weight[0], at)
        trace = Trace(ess, is_due, _num_distinct(ancestor))
        return (particles, _add(weight, increment), evidence, ancestor), trace

    zero = jnp.zeros(())
    start = (particles, (log_weight, jnp.zeros(size)), (zero, zero), jnp.arange(size))
    (particles, weight, evidence, ancestor), trace = jax.lax.scan(
        level, start, (jnp.arange(len(log_snr)), log_snr, levels)
    )
    return Population(particles, weight[0], evidence[0], ancestor, trace)


def _add(total: tuple[Array, Array], value: Array) -> tuple[Array, Array]:
    """Add to a sum with its rounding error kept beside it (Kahan); infinities stay."""
    # A weight that is not a number counts as none.
    value = jnp.where(jnp.isnan(value), -jnp.inf, value) - total[1]
    new = total[0] + value
    lost = (new - total[0]) - value
    return new, jnp.where(jnp.isfinite(lost), lost, 0.0)


def _num_distinct(ancestor: Array) -> Array:
    return jnp.sum(jnp.zeros_like(ancestor).at[ancestor].set(1))


def lineage_variance(log_weight: Array, ancestor: Array, num_resamplings: Array | int = 0) -> Array:
    r"""Estimate the relative variance of the evidence from one run's lineages.

    With W_i the normalised weights and E_i the ancestors at the start (Lee and Whiteley,
    arXiv:1509.00394, equation 11; adaptive resampling counts the resamplings that happened),

    .. math::
        V = 1 - \Big(\frac{N}{N - 1}\Big)^{r + 1}
            \Big(1 - \sum_e \big(\sum_{i : E_i = e} W_i\big)^2\Big).

    With r the number of resamplings it is unbiased, times the squared evidence, under multinomial
    resampling. Schemes that keep as many copies as they can lose no lineages where weights are
    equal; for these r = 0 is the better estimate. It is too small once few ancestors are left.

    Parameters
    ----------
    log_weight
        Log weights of the last population.
    ancestor
        Which particle of the start each comes from.
    num_resamplings
        r, how often the run resampled by a multinomial scheme.
    """
    size = len(log_weight)
    share = jax.nn.softmax(log_weight)
    families = jnp.zeros(size).at[ancestor].add(share)
    # 1 - (1 + a)(1 - b) without subtracting nearly equal numbers.
    grown = jnp.expm1((num_resamplings + 1) * -jnp.log1p(-1.0 / size))
    together = jnp.sum(families**2)
    return jnp.maximum(together - grown * (1.0 - together), 0.0)
