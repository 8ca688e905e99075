"""DPS: the weight at the denoised mean (Chung et al., arXiv:2209.14687)."""

import math
from dataclasses import dataclass

import jax
from jax import Array

from scoreppl.guidance.view import Guided, View


@dataclass(frozen=True)
class Tweedie:
    r"""Replace the mean of w by w at the mean.

    .. math::
        \log \hat w(u) = \lambda \log w(D(u)), \qquad
        \text{shift of } D = s^2 \nabla_u \log \hat w(u)

    Three evaluations a step. With a sharp weight the shift is far too long at high noise, and path
    weights collapse: use `LineSearch` unless you need this for comparison.

    Parameters
    ----------
    strength
        The factor lambda.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite.
    """

    strength: float = 1.0

    needs_gradient = True

    def __post_init__(self) -> None:
        """Check the strength."""
        if not 0.0 <= self.strength < math.inf:
            raise ValueError(f"`strength={self.strength}` must be finite and not negative.")

    def __call__(self, u: Array, view: View) -> Guided:
        """Shift the denoiser along the gradient through the network."""
        denoised, pull = jax.vjp(view.denoise, u)
        log_weight, gradient = jax.value_and_grad(view.log_weight)(denoised)
        shift = self.strength * view.scale**2 * pull(gradient)[0]
        return Guided(denoised, denoised + shift, self.strength * log_weight)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 3
