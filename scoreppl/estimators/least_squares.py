"""Weighted least squares from optimal random designs: a function's projection from few values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.arguments import check_count
from scoreppl.estimators.designs import DESIGNS, Design
from scoreppl.estimators.orthonormal import Basis, on_draws

# Where leaving out points keeps less than this share of their residuals, these are rounding errors.
_NO_SLACK = 1e-8


class LeastSquares(NamedTuple):
    """A function's approximation by a weighted least-squares fit; see `least_squares`.

    Attributes
    ----------
    basis
        The given functions: of one draw, shape ``(m,)``.
    coefficients
        Their coefficients, shape ``(m,)``.
    standard_error
        Of the coefficients, as estimates of those of the projection in L2(p), shape ``(m,)``; NaN
        where no residual is left.
    error
        Estimate of the root mean square of f minus its approximation under p, what no coefficients
        can fit included; from points that a fit had not seen. NaN if there are none.
    gram_condition
        Condition number of the design's weighted Gram matrix in an orthonormal basis: 1 is best.
    indices
        Numbers of the draws in the design, with repetitions, shape ``(n,)``.
    weights
        Their weights m / k(x, x) in the fit, shape ``(n,)``.
    num_evaluations
        Evaluations of f: the different draws of the design.
    """

    basis: Basis
    coefficients: np.ndarray
    standard_error: np.ndarray
    error: float
    gram_condition: float
    indices: np.ndarray
    weights: np.ndarray
    num_evaluations: int

    def predict(self, draw: Any) -> Array:
        """Return the approximation at one draw, a scalar."""
        return jnp.asarray(self.basis(draw)) @ jnp.asarray(self.coefficients)


def least_squares(
    key: Array,
    fn: Callable[[Any], ArrayLike],
    basis: Basis,
    draws: Any,
    log_weight: ArrayLike | None = None,
    *,
    num_evaluations: int,
    design: str = "volume",
) -> LeastSquares:
    r"""Approximate an expensive function in the span of given ones, from few evaluations.

    With functions b that are orthonormal under the draws, k(x, x) = sum_j b_j(x)^2 and a design
    x_1, ..., x_n chosen among the draws, the coefficients minimise

    .. math:: \sum_i \frac{m}{k(x_i, x_i)} \bigl(f(x_i) - \sum_j c_j b_j(x_i)\bigr)^2

    (Nouy and Michel, arXiv:2312.14057). The designs, of which each point has the law
    k(x, x) p(x) / m on its own:

    - ``"volume"``: m points by the projection determinantal process of k, which keeps them apart,
      and n - m independent ones. The coefficients are unbiased for every n;
    - ``"repeated"``: independent repetitions of that process, more accurate from two on, and
      unbiased for one;
    - ``"independent"``: independent points; nearly as good once n is large against m log m.

    Unbiased means: for the projection under the weighted draws, given these. That tends to the
    projection in L2(p) as draws are added, at the cost of draws alone: use many.

    Parameters
    ----------
    key
        PRNG key.
    fn
        The function: ``fn(draw)`` is a number. It is called outside of JAX's transformations, once
        for each different point of the design.
    basis
        The given functions: ``basis(draw)`` returns their values at one draw, shape ``(m,)``, in
        JAX.
    draws
        Draws of p: an array or a pytree of arrays (such as a dictionary by site) whose leading
        axis runs over the draws.
    log_weight
        Log weights of the draws, shape ``(N,)``. None: all weigh the same. Draws of the
        Christoffel law have minus the `OrthonormalBasis.christoffel_log_weight` that made them.
    num_evaluations
        Points n of the design, at least m.
    design
        ``"volume"``, ``"repeated"`` (n a multiple of m) or ``"independent"``.

    Returns
    -------
    LeastSquares
        The approximation and its errors.

    Raises
    ------
    ValueError
        If `fn` or `basis` is not finite at a draw, the functions are dependent on the draws, there
        are fewer draws or evaluations than functions, or an independent design does not
        determine all coefficients.

    Notes
    -----
    ``error`` squared is the mean of m / k times squared residuals of left-out points: unbiased for
    the mean square error under the draws of a design without one point, or without one repetition.
    The standard errors are a jackknife's, plus the effect of the draws being finite, which takes
    them as independent: thin a chain before. They are roughly right for ``"volume"`` from
    n = 2 m on, for ``"repeated"`` from eight repetitions (with four they are a fifth too small),
    and for ``"independent"`` from n = 8 m; docs/least_squares.md has the z-scores.
    """
    num_evaluations = check_count("num_evaluations", num_evaluations, 1)
    if design not in DESIGNS:
        known = ", ".join(map(repr, DESIGNS))
        raise ValueError(f"`design={design!r}` is not known; use one of {known}.")
    orthonormal, found = on_draws(basis, draws, log_weight)
    size = found.columns.shape[1]
    if num_evaluations < size:
        raise ValueError(
            f"`num_evaluations={num_evaluations}` must be at least the {size} functions of `basis`."
        )
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    chosen = DESIGNS[design](rng, found.columns, num_evaluations)
    numbers = found.kept[chosen.rows]
    outcomes, num_calls = _evaluated(fn, draws, numbers)

    # Rows of sqrt(m / k) b have length sqrt(m), whatever the weights of the draws.
    shares = found.weights[chosen.rows]
    columns = found.columns[chosen.rows] / np.sqrt(shares)[:, None]
    weights = size / np.sum(columns**2, axis=1)
    rows = np.sqrt(weights)[:, None] * columns
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    if singular[-1] <= 1e-10 * singular[0]:
        raise ValueError(
            f"The independent design of {num_evaluations} points does not determine the {size} "
            "coefficients; use more `num_evaluations` or design='volume'."
        )
    target = np.sqrt(weights) * outcomes
    inverse = (right.T / singular) @ left.T  # the fit is linear: c = inverse @ target
    fitted = inverse @ target
    residual = target - rows @ fitted
    transform = orthonormal.transform
    slack = 1 - np.sum(rows * inverse.T, axis=1)  # one less the leverages
    if np.all(slack > _NO_SLACK):
        variance = _jackknife(rows, inverse, residual, chosen, transform @ inverse)
        # By how much other draws would change the projection under them.
        spread = shares * residual**2 / slack
        variance += np.mean(spread[:, None] * (columns @ transform.T) ** 2, axis=0)
    else:
        variance = np.full(size, np.nan)
    return LeastSquares(
        basis,
        transform @ fitted,
        np.sqrt(variance),
        _error(rows, inverse, residual, chosen),
        float((singular[0] / singular[-1]) ** 2),
        numbers,
        weights,
        num_calls,
    )


def _evaluated(
    fn: Callable[[Any], ArrayLike], draws: Any, numbers: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return the function at the numbered draws, and how often it was called."""
    different, position = np.unique(numbers, return_inverse=True)
    values = np.empty(len(different))
    for i, number in enumerate(different):
        value = np.asarray(fn(jax.tree.map(lambda v, j=number: v[j], draws)), np.float64)
        if value.shape != ():
            raise ValueError(
                f"`fn` returned shape {value.shape} for one draw; it must return a number."
            )
        if not np.isfinite(value):
            raise ValueError(
                f"`fn` is {value} at draw {number}; it must be finite wherever p has draws."
            )
        values[i] = value
    return values[position], len(different)


def _jackknife(
    rows: np.ndarray, inverse: np.ndarray, residual: np.ndarray, design: Design, linear: np.ndarray
) -> np.ndarray:
    """Return the variances of ``linear @ target`` by leaving out points.

    Points of one determinantal process keep their distance, so that a jackknife by points
    overstates the variances of its repetitions. It is scaled to the jackknife by blocks, summed
    over the coefficients, since few blocks say little of a single one.
    """
    single = residual / (1 - np.sum(rows * inverse.T, axis=1))
    variance = np.sum((linear * single) ** 2, axis=1)
    if design.block[0] < 0 or len(np.unique(design.block)) == len(design.block):
        return variance
    moves = [
        inverse[:, mine] @ unseen for mine, unseen in _left_out(rows, inverse, residual, design)
    ]
    by_blocks = np.sum(np.square(moves)) * (len(moves) - 1) / len(moves)
    return variance * by_blocks / np.sum((inverse * single) ** 2)


def _error(rows: np.ndarray, inverse: np.ndarray, residual: np.ndarray, design: Design) -> float:
    """Return the root mean square residual of left-out points; NaN if none can be left out."""
    unseen = [values for _, values in _left_out(rows, inverse, residual, design)]
    return float(np.sqrt(np.mean(np.concatenate(unseen) ** 2))) if unseen else np.nan


def _left_out(
    rows: np.ndarray, inverse: np.ndarray, residual: np.ndarray, design: Design
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return which points are in each block, and their residuals from the fit to all others.

    These are (I - H_BB)^-1 e_B with H = rows @ inverse; the coefficients differ by `inverse`_B
    times them. NaN where a fit without the block is not determined.
    """
    found = []
    for block in np.unique(design.block[design.block >= 0]):
        mine = design.block == block
        slack = np.eye(mine.sum()) - rows[mine] @ inverse[:, mine]
        is_determined = np.linalg.svd(slack, compute_uv=False)[-1] > _NO_SLACK
        unseen = (
            np.linalg.solve(slack, residual[mine]) if is_determined else np.nan * residual[mine]
        )
        found.append((mine, unseen))
    return found
