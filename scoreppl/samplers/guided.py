r"""Guided reverse diffusion with exact path weights for the discretised prior.

Particles start from noise and move down a ladder of noise levels by the reference kernel of
`scoreppl.samplers.reference` with the guided denoiser in place of the denoiser. A path's weight

.. math::
    W = w(x_0) \prod_i \frac{\text{reference}(u_{i-1} | u_i)}{\text{proposal}(u_{i-1} | u_i)}

has the discretised prior's E[w(x_0)] as its mean, whatever the guidance, and no score needs to be
conservative. Resampling, where it is asked for, divides the product into factors with the
guidance's twist in between, and keeps the mean: twisted diffusion (Wu et al., arXiv:2306.17775).

A share a of the paths may follow the reference itself, as a defence against guidances that are too
narrow or lead astray (Hesterberg, 1995). All paths then count as draws of the mixture,

.. math::
    W = \frac{w(x_0)}{a + (1 - a) \prod_i \text{proposal} / \text{reference}} \le w(x_0) / a.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from scoreppl.guidance import Guidance, Guided, View
from scoreppl.samplers.divergence import leading_integral, leading_rate
from scoreppl.samplers.reference import Reference, score_values
from scoreppl.samplers.smc import Look, Resampling, Trace, run_levels
from scoreppl.samplers.step_law import step_law
from scoreppl.target import Position, Target

# Folded into a particle's key for its signs, and for whether it is guided; levels fold their
# numbers.
_SIGNS, _DEFENCE = 2**30, 2**30 + 1


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
    trace
        What happened at each level.
    """

    position: Position
    log_weight: Array
    log_evidence: Array
    ancestor: Array
    trace: Trace


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
    num_probes: int | None = None,
    unguided_share: float = 0.0,
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
    num_probes
        Probes of the Laplacians that weigh compositions (`scoreppl.compose.Leading` sites), at 2
        evaluations each; None: exact, at 2 d.
    unguided_share
        Probability that a path follows the reference; paths are weighted as draws of the mixture.
        Without resampling and `Leading` sites.
    """
    shapes = jax.tree.map(lambda v: v[0], score_values(position, target))
    is_unguided = jax.vmap(
        lambda key: jax.random.uniform(jax.random.fold_in(key, _DEFENCE)) < unguided_share
    )(keys)
    method = GuidedPaths(
        target, reference, guidance, shapes, max_shift, num_probes, keys,
        is_unguided if unguided_share else None,
    )  # fmt: skip
    levels = LadderLevel(
        jnp.arange(len(ladder)),
        ladder,
        jnp.concatenate([ladder[1:], jnp.full(1, jnp.inf)]),
        trapezoid(ladder),
        reference.denoising_variance,
        reference.factor,
    )
    start = method.start(keys, position, jax.tree.map(lambda v: v[0], levels))
    found = run_levels(keys, start, -log_proposal, method, levels, ladder, resampling)
    position = jax.vmap(method.position)(found.particles)
    log_paths = found.log_weight
    if unguided_share:
        log_ratio = log_paths + log_proposal
        log_paths = log_mixture_ratio(log_ratio, unguided_share) - log_proposal
    log_weight = log_paths + jax.vmap(target.log_weight)(position)
    # A weight that is not a number counts as none.
    log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
    log_evidence = found.log_evidence + logsumexp(log_weight) - jnp.log(len(log_weight))
    log_evidence += leading_integral(shapes, target, ladder[0], reference.data_scale)
    return Particles(position, log_weight, log_evidence, found.ancestor, found.trace)


class LadderLevel(NamedTuple):
    """A level of the ladder.

    Attributes
    ----------
    index
        Its number.
    log_snr, next_log_snr
        Its log-SNR and that of the next.
    width
        Its share of an integral over -log s, by the trapezoid rule.
    variance, factor
        Of the reference.
    """

    index: Array
    log_snr: Array
    next_log_snr: Array
    width: Array
    variance: Array
    factor: Array | None


@dataclass(frozen=True)
class GuidedPaths:
    """Guided reverse diffusion as a Feynman-Kac method; particles are noisy events and latents."""

    target: Target
    reference: Reference
    guidance: Guidance
    shapes: Position
    max_shift: float
    num_probes: int | None
    keys: Array
    is_unguided: Array | None = None

    def start(self, keys: Array, position: Position, level: LadderLevel) -> tuple[Array, Position]:
        """Draw noise at the first level."""
        flat, _ = ravel_pytree(self.shapes)

        def number(key: Array) -> Array:
            return jax.random.normal(key, flat.shape, flat.dtype)

        scale = self.view(level.log_snr, level.variance, {}).scale
        return scale * jax.vmap(number)(keys), position

    def position(self, particle: tuple[Array, Position]) -> Position:
        """Return a particle as values of all sites."""
        u, ordinary = particle
        return ordinary | ravel_pytree(self.shapes)[1](u)

    def look(self, keys: Array, particles: tuple[Array, Position], level: LadderLevel) -> Look:
        """Guide every particle."""

        def guided(u: Array, ordinary: Position) -> Guided:
            view = self.view(level.log_snr, level.variance, ordinary)
            return usable(self.guidance(u, view), u.shape)

        def rate(key: Array, u: Array) -> Array:
            # A particle has the same signs at every level, which alternates them.
            flat = jax.random.rademacher(jax.random.fold_in(key, _SIGNS), u.shape, u.dtype)
            unravel = ravel_pytree(self.shapes)[1]
            return leading_rate(
                unravel(u), self.target, level.log_snr, level.index, unravel(flat), self.num_probes
            )

        found = jax.vmap(guided)(*particles)
        increment = level.width * jax.vmap(rate)(self.keys, particles[0])
        return Look(found, increment, found.log_twist)

    def move(
        self,
        keys: Array,
        particles: tuple[Array, Position],
        seen: Guided,
        log_weight: Array,
        level: LadderLevel,
    ) -> tuple[tuple[Array, Position], Array]:
        """Step to the next level; the increment is the log ratio of reference and proposal."""
        scale = self.view(level.log_snr, level.variance, {}).scale
        there = self.view(level.next_log_snr, level.variance, {}).scale
        there = jnp.where(jnp.isinf(level.next_log_snr), 0.0, there)
        ratio = (there / scale) ** 2

        def step(
            key: Array, u: Array, guided: Guided, is_unguided: Array | None
        ) -> tuple[Array, Array]:
            return _step(
                key, u, ratio, there, level.variance, guided, level.factor, self.max_shift,
                is_unguided,
            )  # fmt: skip

        u, ordinary = particles
        moved, increment = jax.vmap(step)(keys, u, seen, self.is_unguided)
        return (moved, ordinary), increment

    def view(self, log_snr: Array, variance: Array, ordinary: Position) -> View:
        """Return what a guidance sees at a level."""
        unravel = ravel_pytree(self.shapes)[1]
        times = self.target.times(log_snr)
        scales = self.target.scales(times)
        spread = {name: jnp.full_like(v, scales[name]) for name, v in self.shapes.items()}
        return View(
            lambda u: ravel_pytree(self.target.denoise(unravel(u), times))[0],
            lambda x: self.target.log_weight(ordinary | unravel(x)),
            ravel_pytree(spread)[0],
            variance,
            self.reference.data_scale,
        )


def log_mixture_ratio(log_ratio: Array, share: float) -> Array:
    """Log ratio of the reference and of its mixture with a proposal, from that of the two."""
    return -jnp.logaddexp(jnp.log(share), jnp.log1p(-share) - log_ratio)


def trapezoid(ladder: Array) -> Array:
    """Widths in -log s; below the last level, to data, what is integrated falls like s^2."""
    steps = 0.5 * jnp.diff(ladder)
    return 0.5 * jnp.concatenate([jnp.zeros(1), steps]) + 0.5 * jnp.concatenate(
        [steps, jnp.ones(1)]
    )


def usable(guided: Guided, shape: tuple[int, ...]) -> Guided:
    """Check a guidance's answer; what is not a number in it guides by nothing.

    Otherwise paths through where the guidance fails would have no weight, although the prior
    passes there, and the evidence would lack their share. Twists are completed where particles
    are resampled (`scoreppl.samplers.smc.completed`).
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

    def or_else(value: Array | None, other: Array | None) -> Array | None:
        return None if value is None or other is None else jnp.where(usable, value, other)

    return guided._replace(
        guided=jnp.where(usable, guided.guided, guided.denoised),
        log_twist=jnp.asarray(guided.log_twist),
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
    is_unguided: Array | None,
) -> tuple[Array, Array]:
    """Propose the next event; return it and the log ratio of reference and proposal."""
    law = step_law(u, ratio, scale, variance, guided, factor, max_shift)
    z = jax.random.normal(key, u.shape, u.dtype)
    moved = law.draw(z)
    if is_unguided is None:
        return moved, law.log_ratio(moved, z)
    moved = jnp.where(is_unguided, law.mean + law.reference.apply(z), moved)
    return moved, law.log_ratio(moved)
