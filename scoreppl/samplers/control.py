"""What a corrector chooses: how its drift is traded against its weight.

The formulas are in `scoreppl.samplers.correctors`.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.noise import register_part

# Of the regression's correlation matrix.
_RIDGE = 1e-4


class Fields(NamedTuple):
    """What the weight and the drift are made of, for one particle or a population.

    Attributes
    ----------
    pull
        s^2 S, shape ``(d,)``.
    laplacian
        L, the score's divergence in units of s^2.
    disagreement
        Q, the models' squared scores in units of s^2.
    score
        S + beta grad r, shape ``(d,)``.
    stein
        H, of mean zero under the law of the level.
    denoised
        Average of the denoised events by exponents, shape ``(d,)``, with its divergence.
    divergence
        Divergence of that.
    tilt
        r.
    tilt_gradient
        beta grad r, shape ``(d,)``.
    u
        The noisy event in data units, shape ``(d,)``.
    log_density
        s^2 sum_i gamma_i log q_i up to a constant, whose gradient is the pull; zero unless the
        corrector has a true ``needs_log_density``.
    """

    pull: Array
    laplacian: Array
    disagreement: Array
    score: Array
    stein: Array
    denoised: Array
    divergence: Array
    tilt: Array
    tilt_gradient: Array
    u: Array
    log_density: Array


class Control(NamedTuple):
    """How drift is traded against weight: c, and the pull away from `centre` of denoised events."""

    score: Array
    denoised: Array
    centre: Array


class Corrector(Protocol):
    """A choice of c, of a further drift, and of zeta."""

    def control(self, fields: Fields, log_weight: Array, power: Array) -> Control:
        """Return the choice for a population; `power` is Gamma."""
        ...

    def noise_share(self, power: Array) -> Array:
        """Return zeta^2."""
        ...


def _score_alone(fields: Fields, share: Array) -> Control:
    return Control(share, jnp.zeros(()), jnp.zeros(fields.pull.shape[-1]))


@register_part
@dataclass(frozen=True)
class LaplacianOnly:
    """Weights by the score's divergence alone, c = 1 / Gamma: the default.

    Attributes
    ----------
    noise
        zeta^2; None for 1 / Gamma, the noise of the composition's own reverse diffusion.
    """

    noise: float | None = None

    def control(self, fields: Fields, log_weight: Array, power: Array) -> Control:
        """Return c = 1 / Gamma."""
        return _score_alone(fields, 1.0 / power)

    def noise_share(self, power: Array) -> Array:
        """Return zeta^2."""
        return _share(self.noise, power)


@register_part
@dataclass(frozen=True)
class FeynmanKac:
    """Feynman-Kac correctors, c = 1 (Skreta et al., arXiv:2503.02819).

    Attributes
    ----------
    noise
        zeta^2: 1 for their "target score", None for 1 / Gamma, their "tempered noise".
    """

    noise: float | None = 1.0

    def control(self, fields: Fields, log_weight: Array, power: Array) -> Control:
        """Return c = 1."""
        return _score_alone(fields, jnp.ones(()))

    def noise_share(self, power: Array) -> Array:
        """Return zeta^2."""
        return _share(self.noise, power)


@register_part
@dataclass(frozen=True)
class VarianceControl:
    """The drift by which weights vary least in the population (VCG, arXiv:2509.21655).

    Its basis is the score and the average denoised event. As the drift is fitted to the particles
    that it moves, the evidence has a bias of the order of one over their number.

    Attributes
    ----------
    noise
        zeta^2; None for 1 / Gamma.
    """

    noise: float | None = None

    def control(self, fields: Fields, log_weight: Array, power: Array) -> Control:
        """Return the coefficients by which the rate varies least, from c = 1 / Gamma on."""
        share = jax.nn.softmax(log_weight)
        centre = share @ fields.denoised
        pushed = outward(fields, centre)
        varying = fields.stein / power - fields.laplacian - fields.disagreement
        columns = jnp.stack([fields.stein, pushed])
        columns, varying = columns - (columns @ share)[:, None], varying - share @ varying
        fitted = -_solved((columns * share) @ columns.T, columns @ (share * varying))
        return Control(
            1.0 / power + fitted[0], fitted[1], jnp.where(jnp.isfinite(centre), centre, 0)
        )

    def noise_share(self, power: Array) -> Array:
        """Return zeta^2."""
        return _share(self.noise, power)


@register_part
@dataclass(frozen=True)
class EnergyControl:
    r"""The drift that carries weight to where it is missing (ECG, arXiv:2509.21655).

    The drift b that makes all weights equal is the gradient of a potential A with
    :math:`\nabla \cdot (q \nabla A) = -q g`, g the rate less its mean. Its best approximation among
    potentials :math:`A = \sum_i \theta_i a_i` solves
    :math:`\sum_j E[\nabla a_i \cdot \nabla a_j] \theta_j = E[g a_i]`. The basis is the log density
    of the prior, which is followed along the particles' paths, and half the squared distance from
    their mean.

    Attributes
    ----------
    noise
        zeta^2; None for 1 / Gamma.
    """

    noise: float | None = None

    needs_log_density: ClassVar[bool] = True

    def control(self, fields: Fields, log_weight: Array, power: Array) -> Control:
        """Return the coefficients of the population's potential, from c = 1 / Gamma on."""
        share = jax.nn.softmax(log_weight)
        centre = share @ fields.u
        varying = fields.stein / power - fields.laplacian - fields.disagreement
        potentials = jnp.stack([fields.log_density, 0.5 * jnp.sum((fields.u - centre) ** 2, -1)])
        gradients = jnp.stack([fields.pull, fields.u - centre])
        gram = jnp.einsum("n,ind,jnd->ij", share, gradients, gradients)
        fitted = _solved(gram, potentials @ (share * (varying - share @ varying)))
        # u = denoised - pull / Gamma.
        return Control(
            (1.0 - fitted[1]) / power + fitted[0],
            fitted[1],
            jnp.where(jnp.isfinite(centre), centre, 0),
        )

    def noise_share(self, power: Array) -> Array:
        """Return zeta^2."""
        return _share(self.noise, power)


def _solved(gram: Array, right: Array) -> Array:
    """Solve normal equations with a ridge on their correlations; zeros where there is no answer."""
    scale = jnp.sqrt(jnp.diagonal(gram))
    scale = jnp.where(scale > 0, scale, 1.0)
    ridged = gram / jnp.outer(scale, scale) + _RIDGE * jnp.eye(len(gram))
    found = jnp.linalg.solve(ridged, right / scale) / scale
    return jnp.where(jnp.all(jnp.isfinite(found)), found, 0.0)


def _share(noise: float | None, power: Array) -> Array:
    return 1.0 / power if noise is None else jnp.asarray(noise, float)


def outward(fields: Fields, centre: Array) -> Array:
    """Stein field of the drift along denoised events, away from `centre`."""
    return fields.divergence + jnp.sum(fields.score * (fields.denoised - centre), -1)


def rate(fields: Fields, control: Control) -> Array:
    """Rate of the log weight per unit of -log s, the rise of the tilt left out."""
    fixed = fields.laplacian + fields.disagreement
    pushed = control.denoised * outward(fields, control.centre)
    return control.score * fields.stein + pushed - fixed
