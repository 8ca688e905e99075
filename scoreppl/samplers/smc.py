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


class Moves(NamedTuple):
    """Metropolis moves of resampled particles under the law of their level.

    Attributes
    ----------
    num_steps
        Langevin steps after each resampling, with the line integral of the score in the
        acceptance.
    step_size
        In standard deviations of the level's law, times d^(-1/6).
    waste_free
        Resample fewer particles and keep every state of their chains (Dau and Chopin,
        arXiv:2011.02328): ``num_particles / (num_steps + 1)`` chains.
    """

    num_steps: int
    step_size: float = 0.7
    waste_free: bool = False


class Look(NamedTuple):
    """How a population stands at a level.

    Attributes
    ----------
    seen
        What the move needs, a pytree with leading axis over the particles.
    log_increment
        Added to the log weights, shape ``(num_particles,)``.
    log_twist
        Steers resampling only: what a resampled particle owes to it, it gives back. Where it is
        not finite it counts as unknown (`completed`).
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


class Renewing(FeynmanKac, Protocol):
    """A method whose law at a level is known, so that particles can move under it."""

    def renew(
        self, keys: Array, particles: Any, seen: Any, level: Any, moves: Moves
    ) -> tuple[Any, Any, Array]:
        """Run a chain from each particle.

        Returns particles and what is seen of them, with leading axes over the chains and their
        ``num_steps + 1`` states, the start among them, and the mean acceptance probability.
        """
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
    step_variance
        Variance over the particles of what the step to this level added to weight and twist.
    acceptance_rate
        Of the moves; NaN where there were none.
    """

    ess: Array
    is_resampled: Array
    num_ancestors: Array
    step_variance: Array
    acceptance_rate: Array


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


def completed(log_twist: Array, log_weight: Array) -> Array:
    """Give particles whose twist is not finite the mean twist of the others, by weight.

    Minus infinity is no judgement, either: a guidance says so where the weight vanishes at its
    estimate of x_0, and a path from there may end where it does not. Resampling by it would lose
    all such paths, and the evidence their share. With the mean they keep the share of copies that
    their weights give them, and the mean of the evidence stays exact, as for any twists above zero.

    Parameters
    ----------
    log_twist, log_weight
        Shape ``(num_particles,)``.
    """
    known = jnp.isfinite(log_twist) & jnp.isfinite(log_weight)
    mean = logsumexp(jnp.where(known, log_twist + log_weight, -jnp.inf))
    mean -= logsumexp(jnp.where(known, log_weight, -jnp.inf))
    return jnp.where(jnp.isfinite(log_twist), log_twist, jnp.where(jnp.any(known), mean, 0.0))


def run_levels(
    keys: Array,
    particles: Any,
    log_weight: Array,
    method: FeynmanKac,
    levels: Any,
    log_snr: Array,
    resampling: Resampling | None,
    moves: Moves | None = None,
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
    moves
        What resampled particles do, of a `Renewing` method; None for nothing.
    """
    size = len(log_weight)

    def level(carry: tuple, inputs: tuple) -> tuple[tuple, Trace]:
        particles, weight, before, evidence, ancestor = carry
        index, log_snr, at = inputs
        level_keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
        look = method.look(level_keys, particles, at)
        weight = _add(weight, look.log_increment)
        log_twist = completed(look.log_twist, weight[0])
        twisted = weight[0] + log_twist
        step_variance = _variance(twisted - before)
        ess = effective_sample_size(twisted)
        seen, is_due = look.seen, jnp.zeros((), bool)
        acceptance = jnp.full((), jnp.nan)
        if resampling is not None:
            rule = resampling
            total = logsumexp(twisted)
            is_due = (ess < rule.threshold * size) & (log_snr > rule.first_log_snr)
            is_due &= jnp.isfinite(total)
            share = jnp.exp(twisted - jnp.where(jnp.isfinite(total), total, 0.0))

            def chosen_anew() -> tuple:
                return _resampled(level_keys, share, particles, seen, at, method, rule, moves)

            def kept() -> tuple:
                return jnp.arange(size), particles, seen, jnp.full((), jnp.nan)

            chosen, particles, seen, acceptance = jax.lax.cond(is_due, chosen_anew, kept)
            ancestor = ancestor[chosen]
            # What remains of a resampled particle's weight is what its twist must give back.
            owed = (-log_twist[chosen], jnp.zeros(size))
            weight = jax.tree.map(lambda new, old: jnp.where(is_due, new, old), owed, weight)
            twisted = jnp.where(is_due, 0.0, twisted)
            evidence = _add(evidence, jnp.where(is_due, total - jnp.log(size), 0.0))
        particles, increment = method.move(level_keys, particles, seen, weight[0], at)
        trace = Trace(ess, is_due, _num_distinct(ancestor), step_variance, acceptance)
        return (particles, _add(weight, increment), twisted, evidence, ancestor), trace

    zero = jnp.zeros(())
    weight = (log_weight, jnp.zeros(size))
    start = (particles, weight, log_weight, (zero, zero), jnp.arange(size))
    (particles, weight, _, evidence, ancestor), trace = jax.lax.scan(
        level, start, (jnp.arange(len(log_snr)), log_snr, levels)
    )
    return Population(particles, weight[0], evidence[0], ancestor, trace)


def _resampled(
    keys: Array,
    share: Array,
    particles: Any,
    seen: Any,
    level: Any,
    method: Any,
    resampling: Resampling,
    moves: Moves | None,
) -> tuple[Array, Any, Any, Array]:
    """Resample and move; return whom each particle comes from, the particles, and the rest."""
    size, key = len(share), jax.random.fold_in(keys[0], 0)
    copies = 1 if moves is None or not moves.waste_free else moves.num_steps + 1
    chosen = resampling.scheme(key, share, size // copies).astype(jnp.arange(0).dtype)
    particles, seen = jax.tree.map(lambda v: v[chosen], (particles, seen))
    if moves is None:
        return chosen, particles, seen, jnp.full((), jnp.nan)
    chains, seen, acceptance = method.renew(keys[: len(chosen)], particles, seen, level, moves)
    if moves.waste_free:
        flat = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), (chains, seen))
        return jnp.repeat(chosen, copies), *flat, acceptance
    return chosen, *jax.tree.map(lambda v: v[:, -1], (chains, seen)), acceptance


def _variance(change: Array) -> Array:
    """Variance over the particles that have a weight."""
    known = jnp.isfinite(change)
    count = jnp.maximum(jnp.sum(known), 1)
    mean = jnp.sum(jnp.where(known, change, 0.0)) / count
    return jnp.sum(jnp.where(known, (change - mean) ** 2, 0.0)) / count


def respaced(ladder: Array, step_variance: Array) -> Array:
    """Move levels to where weights vary: equal steps of the average of place and deviation.

    Parameters
    ----------
    ladder
        Log-SNR of the levels of a pilot run, noisiest first.
    step_variance
        Of its steps, averaged over runs if there are several; the ends of the ladder stay.
    """
    deviation = jnp.sqrt(step_variance[1:])
    total = jnp.sum(deviation)
    even = jnp.full(len(deviation), 1.0 / len(deviation))
    share = 0.5 * even + 0.5 * jnp.where(total > 0, deviation / total, even)
    travelled = jnp.concatenate([jnp.zeros(1), jnp.cumsum(share)])
    return jnp.interp(jnp.linspace(0.0, travelled[-1], len(ladder)), travelled, ladder)


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
