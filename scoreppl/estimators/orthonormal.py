"""Functions made orthonormal in L2(p) by draws of p, and the Christoffel weight they define."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Basis = Callable[[Any], Array]

# Singular values below this share of the largest are rounding errors of functions in float32.
_RANK_TOLERANCE = 1e-5


class OrthonormalBasis(NamedTuple):
    """Functions b_1, ..., b_m that are orthonormal under weighted draws; see `orthonormalise`.

    Attributes
    ----------
    basis
        The given functions: of one draw, shape ``(m,)``.
    transform
        Shape ``(m, m)``; b(x) = basis(x) @ transform.
    condition
        Condition number of the Gram matrix of the given functions, each scaled to norm one.
    """

    basis: Basis
    transform: np.ndarray
    condition: float

    def __call__(self, draw: Any) -> Array:
        """Return b_1, ..., b_m at one draw, shape ``(m,)``."""
        return jnp.asarray(self.basis(draw)) @ jnp.asarray(self.transform)

    def christoffel_log_weight(self, draw: Any) -> Array:
        """Return log(k(x, x) / m) at one draw, with k(x, x) = sum_j b_j(x)^2.

        As the log weight of a model with prior p it makes the Christoffel law k(x, x) p(x) / m,
        whose normalising constant is one, of which points for a fit are best drawn.
        """
        return jnp.log(jnp.sum(self(draw) ** 2) / len(self.transform))


class Columns(NamedTuple):
    """What `orthonormalise` finds on the draws that have weight.

    Attributes
    ----------
    kept
        Numbers of these draws, shape ``(N,)``.
    weights
        Their normalised weights v, shape ``(N,)``.
    values
        The given functions at them, shape ``(N, m)``.
    columns
        Orthonormal columns sqrt(v) b, shape ``(N, m)``; their squares sum to v k along a row.
    """

    kept: np.ndarray
    weights: np.ndarray
    values: np.ndarray
    columns: np.ndarray


def orthonormalise(
    basis: Basis, draws: Any, log_weight: ArrayLike | None = None
) -> OrthonormalBasis:
    """Make functions orthonormal in L2(p), by draws of p.

    Parameters
    ----------
    basis
        The functions: ``basis(draw)`` returns their values at one draw, shape ``(m,)``, in JAX.
    draws
        Draws of p: an array or a pytree of arrays (such as a dictionary by site) whose leading
        axis runs over the draws.
    log_weight
        Log weights of the draws, shape ``(N,)``; -inf for draws without weight. None: all weigh
        the same.

    Returns
    -------
    OrthonormalBasis
        Orthonormal under the weighted draws, and in L2(p) as their number grows.

    Raises
    ------
    ValueError
        If the functions are linearly dependent on the draws, or fewer draws than functions have
        weight, or a function is not finite at one of them.
    """
    return on_draws(basis, draws, log_weight)[0]


def on_draws(
    basis: Basis, draws: Any, log_weight: ArrayLike | None
) -> tuple[OrthonormalBasis, Columns]:
    """Return the orthonormal functions and their columns on the draws, as `orthonormalise`."""
    kept, weights = _normalised(draws, log_weight)
    values = _values(basis, jax.tree.map(lambda v: jnp.asarray(v)[kept], draws))
    if len(kept) < values.shape[1]:
        raise ValueError(
            f"`draws` has {len(kept)} draws with weight and `basis` {values.shape[1]} functions; "
            "use many more draws than functions."
        )
    rows = np.sqrt(weights)[:, None] * values
    scale = np.linalg.norm(rows, axis=0)
    # The singular values of the rows are the roots of the Gram matrix's, which would lose half of
    # the digits.
    left, singular, right = np.linalg.svd(rows / np.where(scale > 0, scale, 1), full_matrices=False)
    rank = int(np.sum(singular > _RANK_TOLERANCE * singular[0]))
    if rank < len(scale):
        raise ValueError(
            f"The {len(scale)} functions of `basis` span only {rank} dimensions on the draws: "
            "some are repeated, zero, or sums of others; leave these out."
        )
    transform = right.T / singular / scale[:, None]
    condition = float((singular[0] / singular[-1]) ** 2)
    return (
        OrthonormalBasis(basis, transform, condition),
        Columns(kept, weights, values, left),
    )


def _normalised(draws: Any, log_weight: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the draws that have weight, and their normalised weights."""
    lengths = {np.shape(value)[0] if np.ndim(value) else 0 for value in jax.tree.leaves(draws)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"`draws` has leading axes of {sorted(lengths)}; all of its arrays must have the same, "
            "over the draws."
        )
    count = lengths.pop()
    values = np.zeros(count) if log_weight is None else np.asarray(log_weight, np.float64)
    if values.shape != (count,):
        raise ValueError(f"`log_weight` has shape {values.shape}; it must be ({count},).")
    if np.any(np.isnan(values)) or np.any(values == np.inf):
        raise ValueError(
            "`log_weight` has values that are not a number or infinite; a draw that has no "
            "weight should have -inf."
        )
    if np.all(values == -np.inf):
        raise ValueError("`log_weight` is -inf for every draw; there is nothing to fit on.")
    kept = np.flatnonzero(values > -np.inf)
    weights = np.exp(values[kept] - values.max())
    return kept, weights / weights.sum()


def _values(basis: Basis, draws: Any) -> np.ndarray:
    """Return the functions at all draws in double precision, shape ``(N, m)``."""
    values = np.asarray(jax.vmap(basis)(draws), np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(
            f"`basis` returned shape {values.shape[1:]} for one draw; it must be a vector of the "
            "values of all functions."
        )
    broken = np.flatnonzero(~np.all(np.isfinite(values), axis=1))
    if len(broken):
        raise ValueError(
            f"`basis` is NaN or infinite at {len(broken)} of {len(values)} draws; every function "
            "must be finite wherever p has draws."
        )
    return values
