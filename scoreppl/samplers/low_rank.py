r"""Normal steps whose covariance differs from a diagonal one in a few directions.

With S a diagonal of standard deviations and Q a basis of the directions,

.. math:: \text{covariance} = S (I + Q (L L^T - I) Q^T) S,

so that drawing, whitening and the determinant cost d k for k directions, in any dimension.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from scoreppl.linear_algebra import cholesky, eigh, orthonormal_basis, solve_lower


class LowRankRoot(NamedTuple):
    """A root of such a covariance.

    Attributes
    ----------
    spread
        The diagonal of S, shape ``(d,)``.
    basis
        Q, orthonormal columns, shape ``(d, k)``.
    core
        L, lower triangular, shape ``(k, k)``.
    """

    spread: Array
    basis: Array
    core: Array

    def apply(self, z: Array) -> Array:
        """Return the root times standard normal numbers."""
        inside = self.basis.T @ z
        return self.spread * (z + self.basis @ (self.core @ inside - inside))

    def whiten(self, x: Array) -> Array:
        """Return the inverse of the root times `x`."""
        y = x / self.spread
        inside = self.basis.T @ y
        solved = solve_lower(self.core, inside)
        return y + self.basis @ (solved - inside)

    @property
    def log_volume(self) -> Array:
        """Log determinant of the root."""
        return jnp.sum(jnp.log(self.spread)) + jnp.sum(jnp.log(jnp.diagonal(self.core)))


def step_roots(
    spread: Array, added: Array | None, removed: Array | None, least: Array
) -> tuple[LowRankRoot, LowRankRoot]:
    """Return the roots of a reference step and of a proposal that is narrower in some directions.

    Parameters
    ----------
    spread
        Standard deviations, shape ``(d,)``.
    added
        Columns F of the reference's covariance beyond the diagonal, F F^T, shape ``(d, k)``.
    removed
        Columns N of what the proposal's covariance lacks, N N^T, shape ``(d, k)``.
    least
        The proposal's variances are at least this share of the diagonal's.
    """
    parts = [part / spread[:, None] for part in (added, removed) if part is not None]
    basis = orthonormal_basis(jnp.concatenate(parts, 1))
    core = jnp.eye(basis.shape[1], dtype=spread.dtype)
    if added is not None:
        inside = basis.T @ parts[0]
        core = core + inside @ inside.T
    reference = LowRankRoot(spread, basis, cholesky(core))
    if removed is None:
        return reference, reference
    inside = basis.T @ parts[-1]
    values, vectors = eigh(core - inside @ inside.T)
    kept = (vectors * jnp.maximum(values, least)) @ vectors.T
    return reference, LowRankRoot(spread, basis, cholesky(kept))
