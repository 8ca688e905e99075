r"""Linear observations with Gaussian noise, by matching two moments of x_0 given u."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.sparse.linalg import cg

from scoreppl.arguments import check_count
from scoreppl.guidance.view import Guided, View
from scoreppl.linear_algebra import log_abs_det
from scoreppl.noise import is_concrete


@dataclass(frozen=True)
class MomentMatched:
    r"""The weight N(y; A x_0, r^2 I) under the Gaussian N(m, C) of x_0 given u, matrix-free.

    .. math::
        \text{guided} = m + C A^T (r^2 I + A C A^T)^{-1} (y - A m), \qquad C = s^2 D'(u)

    (Boys et al., arXiv:2310.06721), the linear system solved by conjugate gradients on products
    with C, one vector-Jacobian product each: 1 + 2 (iterations + 2) evaluations a step. The log
    determinant of the twist takes C as the level's mean variance times the identity.

    Parameters
    ----------
    operator
        The linear map x -> A x of a flat event.
    observation
        The observation y, shape ``(m,)``.
    noise_scale
        The noise standard deviation r.
    num_iterations
        Iterations of conjugate gradients.

    Raises
    ------
    ValueError
        If `num_iterations` is below 1, or `noise_scale` not positive and finite.
    """

    operator: Callable[[Array], Array]
    observation: Array
    noise_scale: Array | float
    num_iterations: int = 3

    def __post_init__(self) -> None:
        """Check the number of iterations."""
        check_count("num_iterations", self.num_iterations, 1)
        if is_concrete(self.noise_scale) and not 0.0 < float(self.noise_scale) < math.inf:
            raise ValueError(f"`noise_scale={self.noise_scale}` must be positive and finite.")

    def __call__(self, u: Array, view: View) -> Guided:
        """Condition the Gaussian on the observation."""
        denoised, pull = jax.vjp(view.denoise, u)
        seen, back = jax.vjp(self.operator, denoised)
        residual = self.observation - seen

        def spread(v: Array) -> Array:
            return view.scale**2 * pull(back(v)[0])[0]

        def system(v: Array) -> Array:
            return self.noise_scale**2 * v + self.operator(spread(v))

        v, _ = cg(system, residual, maxiter=self.num_iterations, tol=0.0)
        usable = jnp.all(jnp.isfinite(v)) & (jnp.vdot(residual, v) > 0)
        v = jnp.where(usable, v, 0.0)
        rows = jax.vmap(lambda row: back(row)[0])(jnp.eye(residual.size, dtype=residual.dtype))
        mean_system = jnp.eye(residual.size) + rows * view.denoising_variance @ rows.T / (
            self.noise_scale**2
        )
        log_twist = -0.5 * (jnp.vdot(residual, v) + log_abs_det(mean_system))
        return Guided(denoised, denoised + spread(v), log_twist)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1 + 2 * (self.num_iterations + 2)
