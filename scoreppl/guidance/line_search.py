r"""A Newton step length along the posterior covariance times the weight's gradient."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.guidance.view import Guided, View


@dataclass(frozen=True)
class LineSearch:
    r"""One vector-Jacobian product a step, for any smooth weight in any dimension.

    With m = D(u), C = s^2 D'(u) the covariance of x_0 given u, g the gradient and -H the
    Hessian of log w at m,

    .. math::
        \delta = C g, \quad q = g \cdot \delta, \quad h = \delta \cdot H \delta, \quad
        a = \frac{q}{q + h}, \qquad
        \text{guided} = m + a \delta, \quad
        \log \hat w = \log w(m + a \delta) - \tfrac12 a^2 q - \tfrac12 \log(1 + h / q):

    Laplace's approximation of E[w(x_0) | u] on the line along delta, exact there for a Gaussian.
    Where a network's Jacobian gives q <= 0 there is no guidance. Three evaluations a step.
    """

    needs_gradient = True

    def __call__(self, u: Array, view: View) -> Guided:
        """Take the step."""
        denoised, pull = jax.vjp(view.denoise, u)
        gradient_of = jax.grad(view.log_weight)
        gradient = gradient_of(denoised)
        shift = view.scale**2 * pull(gradient)[0]
        curvature = -jax.jvp(gradient_of, (denoised,), (shift,))[1]
        slope = jnp.vdot(gradient, shift)
        bend = jnp.maximum(jnp.vdot(shift, curvature), 0.0)
        is_usable = (slope > 0) & jnp.isfinite(slope + bend)
        slope, bend = jnp.where(is_usable, slope, 1.0), jnp.where(is_usable, bend, 0.0)
        length = jnp.where(is_usable, slope / (slope + bend), 0.0)
        guided = denoised + jnp.where(is_usable, length * shift, 0.0)
        spread = 0.5 * length**2 * slope + 0.5 * jnp.log1p(bend / slope)
        return Guided(denoised, guided, view.log_weight(guided) - spread)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 3
