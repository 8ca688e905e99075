r"""Laplace's approximation for weights that see the event through a few numbers."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoreppl.arguments import check_count, check_finite
from scoreppl.guidance.covariance import positive_part, square_root
from scoreppl.guidance.full_covariance import STEP_LENGTHS
from scoreppl.guidance.view import Guided, View
from scoreppl.linear_algebra import cholesky, solve, solve_lower
from scoreppl.noise.schedule import register_part


@register_part
@dataclass(frozen=True)
class LowRank:
    r"""`FullCovariance` for weights that depend on x through r numbers B x, in any dimension.

    With m = D(u), C = s^2 D'(u), P = C B^T by r vector-Jacobian products, S = B P, and D the
    positive part of minus the Hessian of log w as a function of B x, Newton steps lead to

    .. math::
        x = m + P v, \qquad v = (I + D S)^{-1} (\nabla_{Bx} \log w(x) + D S v'), \qquad
        \log \hat w = \log w(x) - \tfrac12 v \cdot S v - \tfrac12 \log \det (I + D S),

    with v' the last v. The proposal is narrower than the reference by
    P D^{1/2} (I + D^{1/2} S D^{1/2})^{-1} D^{1/2} P^T. 1 + 2 r evaluations a step.

    Parameters
    ----------
    rows
        B, shape ``(r, d)``, of full row rank, for the event of all score sites, flat. Weights that
        depend on more than B x are guided less well, and weighted exactly all the same.
    num_newton_steps
        Newton steps.

    Raises
    ------
    ValueError
        If `rows` is no finite matrix with at least as many columns as rows, or there is no Newton
        step.
    """

    rows: Array | np.ndarray | tuple[tuple[float, ...], ...]
    num_newton_steps: int = field(default=2, metadata={"static": True})

    needs_gradient = True

    def __post_init__(self) -> None:
        """Check the shapes and that all rows are numbers."""
        shape = np.shape(self.rows)
        if len(shape) != 2 or not 1 <= shape[0] <= shape[1]:
            raise ValueError(f"`rows` has shape {shape}; it must be (r, d) with 1 <= r <= d.")
        check_finite("rows", self.rows)
        check_count("num_newton_steps", self.num_newton_steps, 1)

    def __call__(self, u: Array, view: View) -> Guided:
        """Find the mode and the curvature there."""
        rows = jnp.asarray(self.rows, u.dtype)
        if rows.shape[1] != u.size:
            raise ValueError(
                f"`rows` has {rows.shape[1]} columns, but events have {u.size} numbers."
            )
        denoised, pull = jax.vjp(view.denoise, u)
        spread = jax.vmap(lambda row: view.scale**2 * pull(row)[0])(rows).T
        inner = positive_part(rows @ spread)
        right_inverse = jnp.linalg.pinv(rows)
        gradient_of = jax.grad(view.log_weight)
        identity = jnp.eye(len(rows), dtype=u.dtype)

        def curvature(x: Array) -> Array:
            push = jax.vmap(lambda column: jax.jvp(gradient_of, (x,), (column,))[1])
            return positive_part(-push(right_inverse.T) @ right_inverse)

        def value(v: Array) -> Array:
            return view.log_weight(denoised + spread @ v) - 0.5 * jnp.vdot(v, inner @ v)

        def newton(v: Array, _: None) -> tuple[Array, None]:
            x = denoised + spread @ v
            bend = curvature(x)
            pulled = right_inverse.T @ gradient_of(x) + bend @ (inner @ v)
            goal = solve(identity + bend @ inner, pulled)
            tried = v + jnp.asarray(STEP_LENGTHS)[:, None] * (goal - v)
            values = jax.vmap(value)(tried)
            best = jnp.argmax(jnp.where(jnp.isfinite(values), values, -jnp.inf))
            return jnp.where(best == 0, v, tried[best]), None

        v, _ = jax.lax.scan(newton, jnp.zeros(len(rows), u.dtype), length=self.num_newton_steps)
        bend = square_root(curvature(denoised + spread @ v))
        core = cholesky(identity + bend.T @ inner @ bend)
        log_twist = value(v) - jnp.sum(jnp.log(jnp.diagonal(core)))
        narrowing = solve_lower(core, (spread @ bend).T).T
        narrowing = jnp.where(jnp.all(jnp.isfinite(narrowing)), narrowing, 0.0)
        return Guided(denoised, denoised + spread @ v, log_twist, narrowing=narrowing)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1 + 2 * np.shape(self.rows)[0]
