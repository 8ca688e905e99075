r"""Correctors: weights that make reverse diffusions with composed scores right.

The path of laws is the product of noised models with a tilt,
:math:`F_s = \sum_i \gamma_i \log q_{i,s} + \beta_s r`, in data units, where the noise standard
deviation s alone says which level it is. With lambda = -log s as time, S = grad F without the
tilt, Gamma the sum of the exponents, and

.. math::
    L = s^2 \nabla \cdot S, \quad Q = s^2 \sum_i \gamma_i |s_i|^2, \quad
    H = L + s^2 S \cdot (S + \beta \nabla r)

particles move with drift :math:`s^2 ((c + \zeta^2) S + \zeta^2 \beta \nabla r)` and noise of
variance :math:`2 s^2 \zeta^2` per unit of lambda, and their log weights grow by

.. math:: \beta' r - L - Q + c H

for any c and zeta: H has mean zero under the law at the level (Stein), so that c trades drift
against weight. Any other drift b may be added with its :math:`\nabla \cdot b + b \cdot \nabla F`.
Each method is a choice:

* c = 1: no Laplacian is left. These are the Feynman-Kac correctors (Skreta et al.,
  arXiv:2503.02819), with zeta = 1 their "target score" and zeta^2 = 1 / Gamma their "tempered
  noise".
* c = 1 / Gamma: only the Laplacian is left, and how far the models disagree. Where models are
  Gaussians of one shape, as at high noise, all weights are equal.
* c and a drift along the average denoised event, both fitted to the population so that weights
  vary least: the VCG of DriftLite (Ren et al., arXiv:2509.21655) with this basis.

The weight is integrated by the trapezoid rule, at no evaluations of its own, and the noise of a
step is that which maps Gaussians to Gaussians: left out, either costs an order in the step size.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.compose.members import exponents, has_open_mixture, num_members
from scoreppl.mcmc import mala
from scoreppl.mcmc.trajectory import ScoreState
from scoreppl.samplers.control import (
    Control,
    Corrector,
    Fields,
    rate,
)
from scoreppl.samplers.divergence import alternating_signs, score_fields
from scoreppl.samplers.guided import Particles
from scoreppl.samplers.log_densities import LogDensities, at_start, followed
from scoreppl.samplers.parts import combined, factor_log_densities, parts
from scoreppl.samplers.smc import Look, Moves, Resampling, run_levels
from scoreppl.score import ScoreModel
from scoreppl.target import Position, Target

# A step keeps this share of its noise where the variance that suits Gaussians is less.
_LEAST_SHARE = 0.02
# These weights are as reliable at high noise as at low.
# Resampling early costs ancestors, and spares modes that start with few particles large weights.
ANY_LEVEL = Resampling(0.9, -jnp.inf)


class CorrectedLevel(NamedTuple):
    """A level: its number, log-SNR and tilt, and those of its neighbours."""

    index: Array
    log_snr: Array
    previous_log_snr: Array
    next_log_snr: Array
    tilt: Array
    previous_tilt: Array
    next_tilt: Array


class CorrectedParticle(NamedTuple):
    """A noisy event in data units, and what belongs to it.

    Attributes
    ----------
    u
        The event, flat, shape ``(d,)``.
    ordinary
        Ordinary latents.
    signs
        Of its probes.
    control
        Of the last step.
    known
        Log densities of the models where the last step began; None where nothing asks for them.
    """

    u: Array
    ordinary: Position
    signs: Array
    control: Control
    known: LogDensities | None


@dataclass(frozen=True)
class CorrectedPaths:
    """Reverse diffusion of a composition as a Feynman-Kac method."""

    target: Target
    corrector: Corrector
    num_probes: int | None

    @property
    def name(self) -> str:
        """The score site."""
        return next(iter(self.target.score_models))

    @property
    def model(self) -> ScoreModel:
        """Its composition."""
        return self.target.score_models[self.name]

    @property
    def follows_densities(self) -> bool:
        """Whether log densities are carried along."""
        return has_open_mixture(self.model) or getattr(self.corrector, "needs_log_density", False)

    def position(self, u: Array, ordinary: Position) -> Position:
        """Return values of all sites."""
        return ordinary | {self.name: u.reshape(tuple(self.model.event_shape))}

    def start(self, keys: Array, ordinary: Position, log_snr: Array, spread: Array) -> tuple:
        """Draw from the product of Gaussians that the models are at high noise.

        Returns particles and the log of the integral of that product.

        Parameters
        ----------
        keys
            One a particle.
        ordinary
            Ordinary latents.
        log_snr
            Of the first level.
        spread
            Standard deviation of the data.
        """
        size = max(1, jnp.zeros(tuple(self.model.event_shape)).size)
        powers, power = exponents(self.model), jnp.sum(exponents(self.model))
        time = self.target.times(log_snr)[self.name]
        noise = _noise_variance(self.target, self.name, log_snr)
        found = parts(self.model, jnp.zeros(size), time, jnp.zeros((1, size)))
        nothing = jnp.zeros(num_members(self.model))
        means = combined(self.model, found, noise, nothing).denoised
        variance = noise + spread**2
        mean = powers @ means / power

        def draw(key: Array) -> tuple[Array, Array]:
            key_event, key_signs = jax.random.split(key)
            z = jax.random.normal(key_event, (size,))
            signs = jax.random.rademacher(key_signs, (size,), z.dtype)
            return mean + jnp.sqrt(variance / power) * z, signs

        u, signs = jax.vmap(draw)(keys)
        apart = jnp.sum(powers @ (means - mean) ** 2) / variance
        log_integral = 0.5 * size * ((1 - power) * jnp.log(2 * jnp.pi * variance))
        log_integral += -0.5 * size * jnp.log(power) - 0.5 * apart
        none = Control(jnp.zeros(len(keys)), jnp.zeros(len(keys)), jnp.zeros_like(u))
        known = None
        if self.follows_densities:
            known = jax.vmap(lambda u: at_start(u, found.denoised, variance))(u)
        return CorrectedParticle(u, ordinary, signs, none, known), log_integral

    def look(self, keys: Array, particles: CorrectedParticle, level: CorrectedLevel) -> Look:
        """Evaluate the fields, and close the trapezoid of the step that led here."""
        width = 0.5 * (level.log_snr - level.previous_log_snr)
        fields, known = jax.vmap(lambda p: self._fields(p, level, width))(particles)
        closing = 0.5 * width * jax.vmap(rate)(fields, particles.control)
        closing += 0.5 * (level.tilt - level.previous_tilt) * fields.tilt
        return Look((fields, known), closing, jnp.zeros(len(keys)))

    def move(
        self,
        keys: Array,
        particles: CorrectedParticle,
        seen: tuple[Fields, LogDensities | None],
        log_weight: Array,
        level: CorrectedLevel,
    ) -> tuple[CorrectedParticle, Array]:
        """Step to the next level with the first half of its weight."""
        fields, known = seen
        power = jnp.sum(exponents(self.model))
        control = self.corrector.control(fields, log_weight, power)
        zeta = self.corrector.noise_share(power)
        is_last = jnp.isinf(level.next_log_snr)
        variance = _noise_variance(self.target, self.name, level.log_snr)
        gain = -jnp.expm1(level.log_snr - level.next_log_snr)
        drift = 0.5 * (control.score + zeta)
        # Towards data rates fall like s^2, and their integrals over lambda are half of them.
        width = jnp.where(is_last, 0.5, 0.5 * (level.next_log_snr - level.log_snr))

        def step(key: Array, u: Array, fields: Fields) -> Array:
            share = zeta + drift**2 * gain * fields.laplacian / u.size
            share = jnp.maximum(share, _LEAST_SHARE * zeta)
            z = jax.random.normal(key, u.shape, u.dtype)
            pulled = drift * fields.pull + 0.5 * zeta * variance * fields.tilt_gradient
            pushed = width * control.denoised * (fields.denoised - control.centre)
            return u + gain * pulled + pushed + jnp.sqrt(variance * gain * share) * z

        u = jax.vmap(step)(keys, particles.u, fields)
        # Half of a rate is the trapezoid's; towards data there is no other end.
        opening = jnp.where(is_last, width, 0.5 * width) * rate(fields, control)
        opening += 0.5 * (level.next_tilt - level.tilt) * fields.tilt
        control = jax.tree.map(lambda v: jnp.broadcast_to(v, (len(keys), *v.shape)), control)
        return particles._replace(u=u, control=control, known=known), opening

    def renew(
        self,
        keys: Array,
        particles: CorrectedParticle,
        seen: tuple[Fields, LogDensities | None],
        level: CorrectedLevel,
        moves: Moves,
    ) -> tuple[CorrectedParticle, tuple[Fields, LogDensities | None], Array]:
        """Run Langevin chains under the law of the level, with the line integral of its score."""
        fields, known = seen
        variance = _noise_variance(self.target, self.name, level.log_snr)
        # The law's precision, from the middle of the population; as a number of the level it
        # leaves each chain reversible.
        size = particles.u.shape[1]
        precision = jnp.median(-fields.laplacian) / size
        spread = variance / jnp.where(precision > 0, precision, 1.0)
        step_size = 0.5 * (moves.step_size * size ** (-1 / 6)) ** 2 * spread
        time = self.target.times(level.log_snr)[self.name]

        def chain(key: Array, u: Array, ordinary: Position) -> tuple[Array, Array]:
            kernel: Any = mala(
                lambda u: self._prior_pull(u, time) / variance,
                lambda u: level.tilt * self.target.log_weight(self.position(u, ordinary)),
                step_size=step_size,
            )

            def step(state: ScoreState, key: Array) -> tuple[ScoreState, tuple[Array, Array]]:
                state, info = kernel.step(key, state)
                return state, (state.position, info.acceptance_rate)

            _, (events, rates) = jax.lax.scan(
                step, kernel.init(u), jax.random.split(key, moves.num_steps)
            )
            return jnp.concatenate([u[None], events]), jnp.mean(rates)

        events, rates = jax.vmap(chain)(keys, particles.u, particles.ordinary)
        # A straight line leads from where log densities are known to each state of the chain.
        states = jax.vmap(
            lambda p, k, events: jax.vmap(lambda u: p._replace(u=u, known=k))(events)
        )(particles, known, events)
        still = jnp.zeros(())
        seen = jax.vmap(jax.vmap(lambda p: self._fields(p, level, still)))(states)
        return states, seen, jnp.mean(rates)

    def _prior_pull(self, u: Array, time: Array) -> Array:
        alpha, _ = self.model.noise(time)
        shape = tuple(self.model.event_shape)
        found = self.model.denoise(alpha * u.reshape(shape), time)
        return found.reshape(-1) - u

    def _fields(
        self, particle: CorrectedParticle, level: CorrectedLevel, width: Array
    ) -> tuple[Fields, LogDensities | None]:
        u = particle.u
        variance = _noise_variance(self.target, self.name, level.log_snr)
        probes = None
        if self.num_probes is not None:
            probes = alternating_signs(particle.signs, level.index, self.num_probes)
        time = self.target.times(level.log_snr)[self.name]
        found, known = parts(self.model, u, time, probes), particle.known
        log_density = jnp.zeros(())
        if known is not None:
            known = followed(known, u, found, variance, width)
            found = combined(self.model, found, variance, known.value)
            each = factor_log_densities(self.model, known.value)
            log_density = variance * (exponents(self.model) @ each)
        prior = score_fields(self.model, u, found, variance)

        def tilt(u: Array) -> Array:
            return self.target.log_weight(self.position(u, particle.ordinary))

        value, gradient = jax.value_and_grad(tilt)(u)
        # Where the tilt has no gradient, it leads nowhere, but weighs.
        gradient = jnp.where(jnp.all(jnp.isfinite(gradient)), level.tilt * gradient, 0.0)
        score, power = prior.pull / variance + gradient, jnp.sum(exponents(self.model))
        fields = Fields(
            *prior,
            score=score,
            stein=prior.laplacian + prior.pull @ score,
            denoised=u + prior.pull / power,
            divergence=u.size + prior.laplacian / power,
            tilt=value,
            tilt_gradient=gradient,
            u=u,
            log_density=log_density,
        )
        return fields, known


def _noise_variance(target: Target, name: str, log_snr: Array) -> Array:
    return target.scales(target.times(log_snr))[name] ** 2


def corrected(
    keys: Array,
    ordinary: Position,
    target: Target,
    ladder: Array,
    spread: Array,
    corrector: Corrector,
    *,
    num_probes: int | None = None,
    resampling: Resampling | None = ANY_LEVEL,
    moves: Moves | None = None,
) -> Particles:
    r"""Draw weighted particles of a composition with a tilt, :math:`w \prod_i p_i^{\gamma_i}`.

    Parameters
    ----------
    keys
        One key a particle.
    ordinary
        Ordinary latents, drawn from a law that `target.log_weight` is divided by; leading axis
        over the particles. Empty if there are none.
    target
        One score site, a composition or any score model, and the weight: its tilt r, which rises
        from nothing at noise to all of it at data as (spread^2 / (spread^2 + s^2))^2.
    ladder
        Log-SNR of the levels, noisiest first; from the last one a step leads to data.
    spread
        Standard deviation of the data.
    corrector
        `LaplacianOnly`, `FeynmanKac` or `VarianceControl`.
    num_probes
        Probes of Hutchinson's estimate of the divergence; None: exact.
    resampling
        When and how to resample.
    moves
        What resampled particles do; not if a mixture's ratios are followed.

    Returns
    -------
    Particles
        ``log_evidence`` estimates the log of the integral of the composition times the weight.
    """
    method = CorrectedPaths(target, corrector, num_probes)
    variances = jax.vmap(lambda v: _noise_variance(target, method.name, v))(ladder)
    tilts = (spread**2 / (spread**2 + variances)) ** 2
    levels = CorrectedLevel(
        jnp.arange(len(ladder)),
        ladder,
        jnp.concatenate([ladder[:1], ladder[:-1]]),
        jnp.concatenate([ladder[1:], jnp.full(1, jnp.inf)]),
        tilts,
        jnp.concatenate([tilts[:1], tilts[:-1]]),
        jnp.concatenate([tilts[1:], jnp.ones(1)]),
    )
    start, log_integral = method.start(keys, ordinary, ladder[0], spread)
    weigh = jax.vmap(lambda u, z: target.log_weight(method.position(u, z)))
    first = tilts[0] * weigh(start.u, ordinary)
    found = run_levels(keys, start, first, method, levels, ladder, resampling, moves)
    position = jax.vmap(method.position)(found.particles.u, found.particles.ordinary)
    closing = 0.5 * (1.0 - tilts[-1]) * jax.vmap(target.log_weight)(position)
    log_weight = found.log_weight + closing
    log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
    log_evidence = log_integral + found.log_evidence
    log_evidence += jax.scipy.special.logsumexp(log_weight) - jnp.log(len(log_weight))
    return Particles(position, log_weight, log_evidence, found.ancestor, found.trace)
