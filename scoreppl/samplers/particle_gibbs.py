r"""Conditional SMC over the diffusion path, with ancestor sampling.

A path u_K, ..., u_1, x_0 of the reverse diffusion is kept as one of N particles while the others
are drawn by guided steps, resampled and weighed as ever; a path is then drawn from all N by its
weight. This leaves the law of paths under the discretised prior times the weight invariant **for
any N** (Andrieu, Doucet and Holenstein, 2010). At each resampling the kept path's past is drawn
anew, too, from the particles' weights times the reference's density of its next event (Lindsten,
Jordan and Schön, arXiv:1401.0604), so that paths change at high noise although few lineages last.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.guidance import Guidance, Guided
from scoreppl.samplers.guided import GuidedPaths, LadderLevel, trapezoid, usable
from scoreppl.samplers.reference import Reference, score_values
from scoreppl.samplers.smc import completed
from scoreppl.samplers.step_law import StepLaw, step_law
from scoreppl.target import Position, Target


class PathUpdate(NamedTuple):
    """A new path.

    Attributes
    ----------
    path
        Flat events from the noisiest level down to data, shape ``(num_levels + 1, d)``.
    is_new
        Which of them changed, shape ``(num_levels + 1,)``.
    ess
        Effective particles by the last weights.
    """

    path: Array
    is_new: Array
    ess: Array


def update_path(
    key: Array,
    path: Array | None,
    position: Position,
    target: Target,
    ladder: Array,
    reference: Reference,
    guidance: Guidance,
    *,
    num_particles: int,
    max_shift: float,
    first_log_snr: float = 0.0,
) -> PathUpdate:
    """Draw a new path given the old one and the ordinary latents, which stay.

    Parameters
    ----------
    key
        PRNG key.
    path
        The path, shape ``(num_levels + 1, d)``; None for a start by SMC without one.
    position
        Values of all sites; those of score sites are read for their shapes alone.
    target, ladder, reference, guidance, max_shift
        As of `scoreppl.samplers.guided.guide`.
    num_particles
        Particles, the kept path among them; at least 2.
    first_log_snr
        Resample at every level with more signal than this.
    """
    shapes = score_values(position, target)
    ordinary = {name: v for name, v in position.items() if name not in shapes}
    following = jnp.concatenate([ladder[1:], jnp.full(1, jnp.inf)])
    levels = LadderLevel(
        jnp.arange(len(ladder)), ladder, following, trapezoid(ladder),
        reference.denoising_variance, reference.factor,
    )  # fmt: skip
    key_start, key_levels, key_last = jax.random.split(key, 3)
    keys = jax.random.split(key_start, num_particles)
    method = GuidedPaths(target, reference, guidance, shapes, max_shift, None, keys)
    first, _ = method.start(keys, position, jax.tree.map(lambda v: v[0], levels))
    kept = jnp.zeros((len(ladder) + 1, first.shape[1])) if path is None else path
    is_kept = path is not None
    if is_kept:
        first = first.at[0].set(kept[0])

    def level(carry: tuple[Array, Array], inputs: tuple) -> tuple[tuple, tuple]:
        u, log_weight = carry
        key, at, next_kept = inputs
        key_resample, key_kept, key_move = jax.random.split(key, 3)
        view = method.view(at.log_snr, at.variance, ordinary)
        guided: Guided = jax.vmap(lambda u: usable(guidance(u, view), u.shape))(u)
        there = method.view(at.next_log_snr, at.variance, ordinary).scale
        there = jnp.where(jnp.isinf(at.next_log_snr), 0.0, there)
        ratio = (there / view.scale) ** 2

        def law(u: Array, guided: Guided) -> StepLaw:
            return step_law(u, ratio, there, at.variance, guided, at.factor, max_shift)

        laws = jax.vmap(law)(u, guided)
        log_twist = completed(guided.log_twist, log_weight)
        twisted = log_weight + log_twist
        chosen = jax.random.categorical(key_resample, twisted, shape=(num_particles,))
        if is_kept:
            past = log_weight + jax.vmap(lambda law: law.log_reference(next_kept))(laws)
            chosen = chosen.at[0].set(jax.random.categorical(key_kept, past))
        is_due = (at.log_snr > first_log_snr) & jnp.any(jnp.isfinite(twisted))
        chosen = jnp.where(is_due, chosen, jnp.arange(num_particles))
        laws = jax.tree.map(lambda v: v[chosen], laws)
        log_weight = jnp.where(is_due, -log_twist[chosen], log_weight)
        z = jax.random.normal(key_move, u.shape, u.dtype)
        moved = jax.vmap(lambda law, z: law.draw(z))(laws, z)
        if is_kept:
            moved = moved.at[0].set(next_kept)
        log_weight = log_weight + jax.vmap(lambda law, event: law.log_ratio(event))(laws, moved)
        return (moved, _numbers(log_weight)), (u, chosen)

    level_keys = jax.random.split(key_levels, len(ladder))
    (last, log_weight), (events, ancestors) = jax.lax.scan(
        level, (first, jnp.zeros(num_particles)), (level_keys, levels, kept[1:])
    )
    weigh = jax.vmap(lambda u: target.log_weight(method.position((u, ordinary))))
    log_weight = _numbers(log_weight + weigh(last))
    end = jax.random.categorical(key_last, log_weight)

    def trace(index: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        events, ancestors = inputs
        index = ancestors[index]
        return index, events[index]

    _, past = jax.lax.scan(trace, end, (events, ancestors), reverse=True)
    new = jnp.concatenate([past, last[end][None]])
    share = jax.nn.softmax(log_weight)
    return PathUpdate(new, jnp.any(new != kept, axis=1), 1.0 / jnp.sum(share**2))


def _numbers(log_weight: Array) -> Array:
    """Let a weight that is not a number count as none."""
    return jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
