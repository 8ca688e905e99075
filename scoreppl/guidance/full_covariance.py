r"""Laplace's approximation with the full covariance of x_0 given the noisy event."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.arguments import check_count
from scoreppl.guidance.covariance import denoised_and_covariance, positive_part
from scoreppl.guidance.view import Guided, View
from scoreppl.linear_algebra import log_abs_det, solve

# Shares of a Newton step that are tried; the first is to stay.
STEP_LENGTHS = (0.0, 1.0, 0.5, 0.2, 0.05)


@dataclass(frozen=True)
class FullCovariance:
    r"""The most accurate guidance for smooth weights in about ten dimensions or fewer.

    With m = D(u), C = s^2 D'(u) and H the positive part of minus the Hessian of log w, damped
    Newton steps lead to the mode of log w(x) - (x - m) C^{-1} (x - m) / 2,

    .. math::
        v = (I + H C)^{-1} (\nabla \log w(x) + H (x - m)), \qquad x = m + C v,

    without inverting C, and

    .. math::
        \log \hat w = \log w(x) - \tfrac12 v \cdot C v - \tfrac12 \log \det (I + C H), \qquad
        C_+ = C (I + H C)^{-1}.

    1 + 2 d evaluations a step.

    Parameters
    ----------
    num_newton_steps
        Newton steps, each with a backtracking search.

    Raises
    ------
    ValueError
        If there is no Newton step.
    """

    num_newton_steps: int = 2

    needs_gradient = True

    def __post_init__(self) -> None:
        """Check the number of steps."""
        check_count("num_newton_steps", self.num_newton_steps, 1)

    def __call__(self, u: Array, view: View) -> Guided:
        """Find the mode and the curvature there."""
        denoised, covariance = denoised_and_covariance(u, view)
        identity = jnp.eye(u.size, dtype=denoised.dtype)

        def value(v: Array) -> Array:
            shift = covariance @ v
            return view.log_weight(denoised + shift) - 0.5 * jnp.vdot(v, shift)

        def curvature(x: Array) -> Array:
            return positive_part(-jax.hessian(view.log_weight)(x))

        def newton(v: Array, _: None) -> tuple[Array, None]:
            x = denoised + covariance @ v
            bend = curvature(x)
            pulled = jax.grad(view.log_weight)(x) + bend @ (x - denoised)
            goal = solve(identity + bend @ covariance, pulled)
            tried = v + jnp.asarray(STEP_LENGTHS)[:, None] * (goal - v)
            values = jax.vmap(value)(tried)
            # What is not a number is never better than to stay.
            best = jnp.argmax(jnp.where(jnp.isfinite(values), values, -jnp.inf))
            return jnp.where(best == 0, v, tried[best]), None

        v, _ = jax.lax.scan(newton, jnp.zeros_like(denoised), length=self.num_newton_steps)
        system = identity + curvature(denoised + covariance @ v) @ covariance
        log_twist = value(v) - 0.5 * log_abs_det(system)
        narrowed = positive_part(solve(system.T, covariance))
        return Guided(denoised, denoised + covariance @ v, log_twist, covariance, narrowed)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1 + 2 * size
