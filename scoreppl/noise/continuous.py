"""Schedules in closed form."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise.schedule import as_float, is_concrete, register_part


@register_part
@dataclass(frozen=True)
class VPLinear:
    """Variance-preserving schedule with a rate linear in time.

    alpha_t = exp(-B_t / 2) and sigma_t = sqrt(1 - exp(-B_t)), where
    B_t = beta_min t + (beta_max - beta_min) t^2 / 2 (Song et al., arXiv:2011.13456, appendix C).

    Parameters
    ----------
    beta_min, beta_max
        Rates at t = 0 and t = 1, with ``0 < beta_min <= beta_max``.

    Raises
    ------
    ValueError
        If the rates are not positive, finite and in order.
    """

    beta_min: ArrayLike = 0.1
    beta_max: ArrayLike = 20.0

    def __post_init__(self) -> None:
        """Check the rates."""
        _check_ordered("beta_min", self.beta_min, "beta_max", self.beta_max, equal=True)

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return ``(alpha, sigma)`` at time `t`."""
        integral = self._integral(t)
        return jnp.exp(-integral / 2), jnp.sqrt(-jnp.expm1(-integral))

    def log_snr(self, t: ArrayLike) -> Array:
        """Return 2 log(alpha / sigma) at time `t`."""
        integral = self._integral(t)
        return -(integral + jnp.log(-jnp.expm1(-integral)))

    def time(self, log_snr: ArrayLike) -> Array:
        """Return the time of a log signal-to-noise ratio, clipped to [0, 1]."""
        # Capped at its value at t = 1, where an infinite one would give infinity over infinity.
        end = as_float(jnp.add(self.beta_min, self.beta_max)) / 2
        integral = jnp.minimum(jax.nn.softplus(-as_float(log_snr)), end)
        slope = jnp.subtract(self.beta_max, self.beta_min)
        # The quadratic formula in the form whose denominator has no cancellation.
        root = jnp.sqrt(jnp.square(self.beta_min) + 2 * slope * integral)
        return jnp.clip(2 * integral / (self.beta_min + root), 0.0, 1.0)

    def _integral(self, t: ArrayLike) -> Array:
        t = as_float(t)
        return as_float(self.beta_min) * t + jnp.subtract(self.beta_max, self.beta_min) * t**2 / 2


@register_part
@dataclass(frozen=True)
class VPCosine:
    """Variance-preserving schedule with an angle linear in time.

    alpha_t = cos(phi_t) and sigma_t = sin(phi_t), phi_t running linearly between the angles of
    the two end log-SNRs (the cosine schedule of Nichol and Dhariwal, arXiv:2102.09672, truncated
    as by Salimans and Ho, arXiv:2202.00512).

    Parameters
    ----------
    log_snr_min, log_snr_max
        Log-SNR at t = 1 and t = 0; infinite values give the untruncated schedule.

    Raises
    ------
    ValueError
        If the two are not in order.
    """

    log_snr_min: ArrayLike = -10.0
    log_snr_max: ArrayLike = 10.0

    def __post_init__(self) -> None:
        """Check the order of the ends."""
        _check_ordered(
            "log_snr_min", self.log_snr_min, "log_snr_max", self.log_snr_max, positive=False
        )

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return ``(alpha, sigma)`` at time `t`."""
        angle, complement = self._angles(t)
        return jnp.sin(complement), jnp.sin(angle)

    def log_snr(self, t: ArrayLike) -> Array:
        """Return 2 log(alpha / sigma) at time `t`."""
        angle, complement = self._angles(t)
        return 2 * (jnp.log(jnp.sin(complement)) - jnp.log(jnp.sin(angle)))

    def time(self, log_snr: ArrayLike) -> Array:
        """Return the time of a log signal-to-noise ratio, clipped to [0, 1]."""
        low, high = _angle(self.log_snr_max), _angle(self.log_snr_min)
        return jnp.clip((_angle(log_snr) - low) / (high - low), 0.0, 1.0)

    def _angles(self, t: ArrayLike) -> tuple[Array, Array]:
        # phi and pi/2 - phi, both interpolated: cos(phi) near pi/2 would lose digits.
        t = as_float(t)
        angle = (1 - t) * _angle(self.log_snr_max) + t * _angle(self.log_snr_min)
        complement = (1 - t) * _angle(jnp.negative(self.log_snr_max)) + t * _angle(
            jnp.negative(self.log_snr_min)
        )
        return angle, complement


@register_part
@dataclass(frozen=True)
class VE:
    """Variance-exploding schedule: alpha_t = 1, sigma_t geometric (Song et al., arXiv:2011.13456).

    Parameters
    ----------
    sigma_min, sigma_max
        Noise standard deviations at t = 0 and t = 1, in the units of the data.

    Raises
    ------
    ValueError
        If the two are not positive, finite and in order.
    """

    sigma_min: ArrayLike
    sigma_max: ArrayLike

    def __post_init__(self) -> None:
        """Check the noise levels."""
        _check_ordered("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return ``(alpha, sigma)`` at time `t`."""
        sigma = jnp.exp(self._log_sigma(t))
        return jnp.ones_like(sigma), sigma

    def log_snr(self, t: ArrayLike) -> Array:
        """Return 2 log(alpha / sigma) at time `t`."""
        return -2 * self._log_sigma(t)

    def time(self, log_snr: ArrayLike) -> Array:
        """Return the time of a log signal-to-noise ratio, clipped to [0, 1]."""
        low, high = jnp.log(self.sigma_min), jnp.log(self.sigma_max)
        return jnp.clip((-as_float(log_snr) / 2 - low) / (high - low), 0.0, 1.0)

    def _log_sigma(self, t: ArrayLike) -> Array:
        t = as_float(t)
        return (1 - t) * jnp.log(self.sigma_min) + t * jnp.log(self.sigma_max)


@register_part
@dataclass(frozen=True)
class EDM:
    """Schedule of Karras et al. (arXiv:2206.00364): alpha_t = 1, sigma_t^(1/rho) linear in time.

    Parameters
    ----------
    sigma_min, sigma_max
        Noise standard deviations at t = 0 and t = 1, in the units of the data.
    rho
        Exponent; larger values spend more of [0, 1] at low noise.

    Raises
    ------
    ValueError
        If the noise levels are not positive, finite and in order, or `rho` is not positive.
    """

    sigma_min: ArrayLike = 0.002
    sigma_max: ArrayLike = 80.0
    rho: ArrayLike = 7.0

    def __post_init__(self) -> None:
        """Check the noise levels and the exponent."""
        _check_ordered("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        if is_concrete(self.rho) and not np.all(np.asarray(self.rho) > 0):
            raise ValueError(f"`rho={self.rho}` must be positive; Karras et al. use 7.")

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return ``(alpha, sigma)`` at time `t`."""
        sigma = self._root(t) ** self.rho
        return jnp.ones_like(sigma), sigma

    def log_snr(self, t: ArrayLike) -> Array:
        """Return 2 log(alpha / sigma) at time `t`."""
        return -2 * as_float(self.rho) * jnp.log(self._root(t))

    def time(self, log_snr: ArrayLike) -> Array:
        """Return the time of a log signal-to-noise ratio, clipped to [0, 1]."""
        low, high = self._ends()
        root = jnp.exp(-as_float(log_snr) / (2 * self.rho))
        return jnp.clip((root - low) / (high - low), 0.0, 1.0)

    def _ends(self) -> tuple[Array, Array]:
        exponent = 1 / as_float(self.rho)
        return as_float(self.sigma_min) ** exponent, as_float(self.sigma_max) ** exponent

    def _root(self, t: ArrayLike) -> Array:
        t = as_float(t)
        low, high = self._ends()
        return (1 - t) * low + t * high


@register_part
@dataclass(frozen=True)
class FlowMatching:
    """Straight-line schedule alpha_t = 1 - t, sigma_t = t (Lipman et al., arXiv:2210.02747)."""

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return ``(alpha, sigma)`` at time `t`."""
        t = as_float(t)
        return 1 - t, t

    def log_snr(self, t: ArrayLike) -> Array:
        """Return 2 log(alpha / sigma) at time `t`."""
        t = as_float(t)
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    def time(self, log_snr: ArrayLike) -> Array:
        """Return the time of a log signal-to-noise ratio, clipped to [0, 1]."""
        return jax.nn.sigmoid(-as_float(log_snr) / 2)


def _angle(log_snr: ArrayLike) -> Array:
    # arctan(sigma / alpha)
    return jnp.arctan(jnp.exp(-as_float(log_snr) / 2))


def _check_ordered(
    low_name: str,
    low: ArrayLike,
    high_name: str,
    high: ArrayLike,
    *,
    positive: bool = True,
    equal: bool = False,
) -> None:
    if not is_concrete(low, high):
        return
    below, above = np.asarray(low, np.float64), np.asarray(high, np.float64)
    ordered = np.all(below <= above) if equal else np.all(below < above)
    in_range = np.all(below > 0) and np.all(above < np.inf) if positive else True
    if not (ordered and in_range):
        sign = "<=" if equal else "<"
        rule = f"{low_name} {sign} {high_name}"
        rule = f"0 < {rule}, both finite" if positive else rule
        raise ValueError(f"`{low_name}={low}` and `{high_name}={high}` must obey {rule}.")
