r"""Guided reverse diffusion with exact path weights for the discretised prior.

Particles start from noise and move down a ladder of noise levels by the reference kernel of
`scoreppl.samplers.reference` with the guided denoiser in place of the denoiser. A path's weight

.. math::
    W = w(x_0) \prod_i \frac{\text{reference}(u_{i-1} | u_i)}{\text{proposal}(u_{i-1} | u_i)}

has the discretised prior's E[w(x_0)] as its mean, whatever the guidance, and no score needs to be
conservative. Resampling, where it is asked for, divides the product into factors with the
guidance's twist in between, and keeps the mean: twisted diffusion (Wu et al., arXiv:2306.17775).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from blackjax.smc.resampling import systematic
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from scoreppl.guidance import Guidance, Guided, View
from scoreppl.linear_algebra import solve_lower
from scoreppl.samplers.low_rank import step_roots
from scoreppl.samplers.reference import Reference, cholesky_root, score_values
from scoreppl.target import Position, Target

# A proposal narrower than this share of the reference's variance would have unbounded weights.
_LEAST_SHARE = 0.02


class Particles(NamedTuple):
    """Weighted draws of the target.

    Attributes
    ----------
    position
        Values of all sites, leading axis over the particles.
    log_weight
        Log weight of each, shape ``(num_particles,)``.
    log_evidence
        Log of the estimate of E[w], whose mean is exact for the discretised prior.
    ancestor
        Which particle of the start each comes from, shape ``(num_particles,)``.
    """

    position: Position
    log_weight: Array
    log_evidence: Array
    ancestor: Array


class Resampling(NamedTuple):
    """When particles are resampled.

    Attributes
    ----------
    threshold
        Below this share of effective particles.
    first_log_snr
        Only at levels with more signal than this: twists at high noise are unreliable, and
        resampling by them loses modes.
    """

    threshold: float = 0.5
    first_log_snr: float = 0.0


def effective_sample_size(log_weight: Array) -> Array:
    """(sum w)^2 / sum w^2 of log weights along the last axis."""
    return jnp.exp(2 * logsumexp(log_weight, -1) - logsumexp(2 * log_weight, -1))


def guide(
    keys: Array,
    position: Position,
    log_proposal: Array,
    target: Target,
    ladder: Array,
    reference: Reference,
    guidance: Guidance,
    resampling: Resampling | None = None,
    max_shift: float = jnp.inf,
) -> Particles:
    """Draw weighted particles by guided reverse diffusion.

    Parameters
    ----------
    keys
        One key a particle; without resampling a particle depends on its own key alone.
    position
        Values of all sites, leading axis over the particles; those of score sites are ignored.
    log_proposal
        Log density of the law that the ordinary latents were drawn from, shape
        ``(num_particles,)``; zeros if there are none.
    target
        Score models and weight.
    ladder
        Log-SNR of the levels, noisiest first; from the last one a step leads to data.
    reference
        Of the same ladder.
    guidance
        Gives the guided denoiser.
    resampling
        When to resample; None for independent particles.
    max_shift
        Longest shift of a step by a guidance without a covariance of its own, root mean square
        over coordinates, in standard deviations of the step; a longer one is shortened. The weight
        of a path varies by exp(r z), z standard normal, for a shift of length r: the few longest,
        where such a guidance overshoots, make the tail.
    """
    size = len(log_proposal)
    shapes = jax.tree.map(lambda v: v[0], score_values(position, target))
    flat, unravel = ravel_pytree(shapes)

    def look(log_snr: Array, variance: Array, ordinary: Position) -> View:
        times = target.times(log_snr)
        scales = {name: jnp.full_like(shapes[name], s) for name, s in target.scales(times).items()}
        return View(
            lambda u: ravel_pytree(target.denoise(unravel(u), times))[0],
            lambda x: target.log_weight(ordinary | unravel(x)),
            ravel_pytree(scales)[0],
            variance,
            reference.data_scale,
        )

    def advance(
        key: Array, u: Array, ordinary: Position, guided: Guided, inputs: tuple
    ) -> tuple[Array, Array]:
        log_snr, next_log_snr, variance, factor = inputs
        view = look(log_snr, variance, ordinary)
        there = look(next_log_snr, variance, ordinary).scale
        there = jnp.where(jnp.isinf(next_log_snr), 0.0, there)
        ratio = (there / view.scale) ** 2
        return _step(key, u, ratio, there, variance, guided, factor, max_shift)

    def number(key: Array) -> Array:
        return jax.random.normal(key, flat.shape, flat.dtype)

    first = look(ladder[0], reference.denoising_variance[0], position)
    u = first.scale * jax.vmap(number)(keys)

    def level(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
        u, ordinary, log_weight, log_evidence, ancestor = carry
        index, log_snr, next_log_snr, variance, _ = inputs
        level_keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
        guided = jax.vmap(lambda u, z: _usable(guidance(u, look(log_snr, variance, z)), u.shape))(
            u, ordinary
        )
        if resampling is not None:
            twisted = log_weight + guided.log_twist
            few = effective_sample_size(twisted) < resampling.threshold * size
            is_due = few & (log_snr > resampling.first_log_snr)
            total = logsumexp(twisted)
            share = jnp.exp(twisted - jnp.where(jnp.isfinite(total), total, 0.0))
            chosen = jnp.where(
                is_due,
                systematic(jax.random.fold_in(level_keys[0], 0), share, size),
                jnp.arange(size),
            )
            u, ordinary, guided, ancestor = jax.tree.map(
                lambda v: v[chosen], (u, ordinary, guided, ancestor)
            )
            # What remains of a resampled particle's weight is what its twist must give back.
            log_weight = jnp.where(is_due, -guided.log_twist, log_weight)
            log_evidence += jnp.where(is_due, total - jnp.log(size), 0.0)
        moved, ratio = jax.vmap(lambda k, u, z, g: advance(k, u, z, g, inputs[1:]))(
            level_keys, u, ordinary, guided
        )
        return (moved, ordinary, log_weight + ratio, log_evidence, ancestor), None

    following = jnp.concatenate([ladder[1:], jnp.full(1, jnp.inf)])
    start = (u, position, -log_proposal, jnp.zeros(()), jnp.arange(size))
    levels = (jnp.arange(len(ladder)), ladder, following)
    (u, ordinary, log_weight, log_evidence, ancestor), _ = jax.lax.scan(
        level, start, (*levels, reference.denoising_variance, reference.factor)
    )
    position = jax.vmap(lambda z, u: z | unravel(u))(ordinary, u)
    log_weight = log_weight + jax.vmap(target.log_weight)(position)
    # A weight that is not a number counts as none.
    log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
    log_evidence = log_evidence + logsumexp(log_weight) - jnp.log(size)
    return Particles(position, log_weight, log_evidence, ancestor)


def _usable(guided: Guided, shape: tuple[int, ...]) -> Guided:
    """Check a guidance's answer; what is not a number in it guides by nothing.

    Otherwise paths through where the guidance fails would have no weight, although the prior
    passes there, and the evidence would lack their share.
    """
    if not isinstance(guided, Guided):
        raise ValueError(
            f"The guidance returned a {type(guided).__name__}; it must return sp.guidance.Guided("
            "denoised, guided, log_twist)."
        )
    square = shape + shape
    wanted = {"denoised": shape, "guided": shape, "log_twist": ()}
    if guided.covariance is not None or guided.guided_covariance is not None:
        wanted |= {"covariance": square, "guided_covariance": square}
    if guided.narrowing is not None:
        wanted["narrowing"] = shape + jnp.shape(guided.narrowing)[1:2]
    for name, expected in wanted.items():
        value = getattr(guided, name)
        found = None if value is None else jnp.shape(value)
        if found != expected:
            raise ValueError(
                f"The guidance's `{name}` has shape {found}; for this event it must be {expected}."
            )
    free = [v for v in (guided.guided, guided.guided_covariance, guided.narrowing) if v is not None]
    usable = jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in free]))
    twist = jnp.asarray(guided.log_twist)

    def or_else(value: Array | None, other: Array | None) -> Array | None:
        return None if value is None or other is None else jnp.where(usable, value, other)

    return guided._replace(
        guided=jnp.where(usable, guided.guided, guided.denoised),
        log_twist=jnp.where(jnp.isnan(twist) | (twist == jnp.inf), 0.0, twist),
        guided_covariance=or_else(guided.guided_covariance, guided.covariance),
        narrowing=or_else(guided.narrowing, jnp.zeros(())),
    )


def _step(
    key: Array,
    u: Array,
    ratio: Array,
    scale: Array,
    variance: Array,
    guided: Guided,
    factor: Array | None,
    max_shift: float,
) -> tuple[Array, Array]:
    """Propose the next event; return it and the log ratio of reference and proposal."""
    gain = 1.0 - ratio
    mean = gain * guided.denoised + ratio * u
    shift = gain * (guided.guided - guided.denoised)
    floor = scale**2 * gain
    z = jax.random.normal(key, u.shape, u.dtype)
    if guided.covariance is None or guided.guided_covariance is None:
        spread = jnp.sqrt(floor + gain**2 * variance)
        if factor is not None or guided.narrowing is not None:
            return _low_rank_step(
                z, mean, shift, gain, spread, floor, factor, guided.narrowing, max_shift
            )
        shift = _shortened(shift, shift / spread, max_shift)
        # Both have this variance: log N(z + shift / spread) - log N(z).
        return mean + shift + spread * z, -jnp.sum(shift / spread * (z + 0.5 * shift / spread))
    reference = cholesky_root(floor, gain, guided.covariance)
    proposal = cholesky_root(floor, gain, guided.guided_covariance)
    # No root: it was no covariance.
    proposal = jnp.where(jnp.all(jnp.isfinite(proposal)), proposal, reference)
    moved = shift + proposal @ z
    whitened = solve_lower(reference, moved)
    log_volumes = jnp.sum(jnp.log(jnp.diagonal(proposal)) - jnp.log(jnp.diagonal(reference)))
    return mean + moved, 0.5 * jnp.sum(z**2 - whitened**2) + log_volumes


def _shortened(shift: Array, whitened: Array, max_shift: float) -> Array:
    length = jnp.sqrt(jnp.mean(whitened**2))
    return shift * jnp.minimum(1.0, max_shift / jnp.where(length > 0, length, 1.0))


def _low_rank_step(
    z: Array,
    mean: Array,
    shift: Array,
    gain: Array,
    spread: Array,
    floor: Array,
    factor: Array | None,
    narrowing: Array | None,
    max_shift: float,
) -> tuple[Array, Array]:
    added, removed = (
        None if part is None else gain[:, None] * part for part in (factor, narrowing)
    )
    least = jnp.maximum(jnp.min(floor / spread**2), _LEAST_SHARE)
    reference, proposal = step_roots(spread, added, removed, least)
    shift = _shortened(shift, reference.whiten(shift), max_shift)
    moved = shift + proposal.apply(z)
    whitened = reference.whiten(moved)
    log_volumes = proposal.log_volume - reference.log_volume
    return mean + moved, 0.5 * jnp.sum(z**2 - whitened**2) + log_volumes
