"""One step of guided reverse diffusion: the reference's normal law and the proposal's."""

from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from scoreppl.guidance import Guided
from scoreppl.linear_algebra import solve_lower
from scoreppl.samplers.low_rank import step_roots
from scoreppl.samplers.reference import cholesky_root

# A proposal narrower than this share of the reference's variance would have unbounded weights.
_LEAST_SHARE = 0.02


class Root(Protocol):
    """A root of a covariance."""

    def apply(self, z: Array) -> Array:
        """Return the root times `z`."""
        ...

    def whiten(self, x: Array) -> Array:
        """Return the inverse of the root times `x`."""
        ...

    @property
    def log_volume(self) -> Array:
        """Log determinant."""
        ...


class DiagonalRoot(NamedTuple):
    """Standard deviations."""

    spread: Array

    def apply(self, z: Array) -> Array:
        """Return the root times `z`."""
        return self.spread * z

    def whiten(self, x: Array) -> Array:
        """Return the inverse of the root times `x`."""
        return x / self.spread

    @property
    def log_volume(self) -> Array:
        """Log determinant."""
        return jnp.sum(jnp.log(self.spread))


class CholeskyRoot(NamedTuple):
    """A lower triangular matrix."""

    matrix: Array

    def apply(self, z: Array) -> Array:
        """Return the root times `z`."""
        return self.matrix @ z

    def whiten(self, x: Array) -> Array:
        """Return the inverse of the root times `x`."""
        return solve_lower(self.matrix, x)

    @property
    def log_volume(self) -> Array:
        """Log determinant."""
        return jnp.sum(jnp.log(jnp.diagonal(self.matrix)))


class StepLaw(NamedTuple):
    """Laws of the next event.

    Attributes
    ----------
    mean
        Of the reference.
    shift
        Of the proposal's mean from that.
    reference, proposal
        Roots of their covariances.
    """

    mean: Array
    shift: Array
    reference: Root
    proposal: Root

    def draw(self, z: Array) -> Array:
        """Return the proposal's event for standard normal numbers."""
        return self.mean + self.shift + self.proposal.apply(z)

    def log_reference(self, event: Array) -> Array:
        """Log density of an event under the reference, up to a number that depends on d alone."""
        whitened = self.reference.whiten(event - self.mean)
        return -0.5 * jnp.sum(whitened**2) - self.reference.log_volume

    def log_ratio(self, event: Array, z: Array | None = None) -> Array:
        """Log density ratio of reference and proposal at an event, drawn by `z` if known."""
        moved = event - self.mean
        if z is None:
            z = self.proposal.whiten(moved - self.shift)
        whitened = self.reference.whiten(moved)
        # The difference of squares without cancellation.
        squares = 0.5 * jnp.sum((z - whitened) * (z + whitened))
        return squares + self.proposal.log_volume - self.reference.log_volume


def step_law(
    u: Array,
    ratio: Array,
    scale: Array,
    variance: Array,
    guided: Guided,
    factor: Array | None,
    max_shift: float,
) -> StepLaw:
    """Return the laws of the step from `u`.

    Parameters
    ----------
    u
        Noisy event, shape ``(d,)``.
    ratio
        Variance of the next level's noise over that of this one, by coordinate.
    scale
        Standard deviation of the next level's noise.
    variance, factor
        Of the reference at this level.
    guided
        The guidance's answer at `u`.
    max_shift
        Longest shift of a guidance without a covariance.
    """
    gain = 1.0 - ratio
    mean = gain * guided.denoised + ratio * u
    shift = gain * (guided.guided - guided.denoised)
    floor = scale**2 * gain
    if guided.covariance is None or guided.guided_covariance is None:
        spread = jnp.sqrt(floor + gain**2 * variance)
        reference = proposal = DiagonalRoot(spread)
        if factor is not None or guided.narrowing is not None:
            added, removed = (
                None if part is None else gain[:, None] * part
                for part in (factor, guided.narrowing)
            )
            least = jnp.maximum(jnp.min(floor / spread**2), _LEAST_SHARE)
            reference, proposal = step_roots(spread, added, removed, least)
        return StepLaw(
            mean, _shortened(shift, reference.whiten(shift), max_shift), reference, proposal
        )
    reference = cholesky_root(floor, gain, guided.covariance)
    proposal = cholesky_root(floor, gain, guided.guided_covariance)
    # No root: it was no covariance.
    proposal = jnp.where(jnp.all(jnp.isfinite(proposal)), proposal, reference)
    return StepLaw(mean, shift, CholeskyRoot(reference), CholeskyRoot(proposal))


def _shortened(shift: Array, whitened: Array, max_shift: float) -> Array:
    length = jnp.sqrt(jnp.mean(whitened**2))
    return shift * jnp.minimum(1.0, max_shift / jnp.where(length > 0, length, 1.0))
