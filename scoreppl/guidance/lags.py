r"""LAGS: guidance without back-propagation through the network (arXiv:2502.04646)."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.guidance.view import Guided, View

_PRODUCTS = ("finite_difference", "none")


@dataclass(frozen=True)
class LAGS:
    r"""First-order guidance with a schedule of its strength.

    With v the gradient of log w at D(u), the shift of the denoiser is

    .. math::
        \tau(s) \, s^2 \, \frac{D(u + h v) - D(u)}{h}, \qquad \tau(s) = \frac{1}{1 + c s^4},

    equations 13 and 17 of the paper in data units; ``hvp="none"`` takes s^2 v without the
    denoiser's derivative.

    Parameters
    ----------
    hvp
        ``"finite_difference"``, two evaluations a step, or ``"none"``, one evaluation.
    c
        Strength of the schedule for data of standard deviation one. The published constant, 10,
        has the unit data^-4.
    rescale
        Divide `c` by the fourth power of the data's standard deviation, so that rescaling the
        data changes nothing. False is the published form.
    step
        Length of the finite difference as a share of the noise standard deviation.

    Raises
    ------
    ValueError
        If an argument is not as above.
    """

    hvp: str = "finite_difference"
    c: float = 10.0
    rescale: bool = True
    step: float = 1e-2

    needs_gradient = True

    def __post_init__(self) -> None:
        """Check the choices."""
        if self.hvp not in _PRODUCTS:
            known = " or ".join(map(repr, _PRODUCTS))
            raise ValueError(f"`hvp={self.hvp!r}` is not known; use {known}.")
        if not 0.0 <= self.c < math.inf:
            raise ValueError(f"`c={self.c}` must be finite and not negative.")
        if not 0.0 < self.step < math.inf:
            raise ValueError(f"`step={self.step}` must be positive and finite.")

    def __call__(self, u: Array, view: View) -> Guided:
        """Shift the denoiser along the weight's gradient."""
        denoised = view.denoise(u)
        log_weight, gradient = jax.value_and_grad(view.log_weight)(denoised)
        scale = view.scale / view.data_scale if self.rescale else view.scale
        strength = 1.0 / (1.0 + self.c * scale**4)
        direction = view.scale**2 * gradient
        if self.hvp == "finite_difference":
            # A step that is a share of the noise stays where the denoiser varies smoothly.
            norm = jnp.linalg.norm(direction / view.scale)
            length = self.step * jnp.sqrt(u.size) / jnp.where(norm > 0, norm, 1.0)
            direction = (view.denoise(u + length * direction) - denoised) / length
        shift = strength * direction
        return Guided(denoised, denoised + shift, jnp.mean(strength) * log_weight)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1 if self.hvp == "none" else 2
