r"""Regression on functions of known mean: less variance, and standard errors that stay true.

With functions h of mean zero under the target, f - b h has the mean of f for every fixed b. The
coefficients are fitted on other draws than those they are applied to (cross-fitting), so that they
are fixed for those, the estimate stays as unbiased as it was, and its error is that of a mean of
residuals. A penalty chosen among a few by the residuals on the draws left out keeps many functions
from fitting noise; the largest leaves f as it is.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from scoreppl.estimators.draws import WeightedDraws

_NUM_FOLDS = 5
# Of the standardised functions' covariance.
_PENALTIES = (1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)


class ControlVariates(Protocol):
    """Functions of mean zero under the target, such as `Stein`."""

    def __call__(self, draws: WeightedDraws, is_train: np.ndarray) -> np.ndarray:
        """Evaluate them at all draws, shape ``(n, m)``.

        Parameters
        ----------
        draws
            The draws.
        is_train
            Those that the functions may be chosen by, a boolean vector ``(n,)``.
        """
        ...


Controls = ControlVariates | ArrayLike


class Reduced(NamedTuple):
    """Terms of a weighted mean after the regression.

    Attributes
    ----------
    terms
        f - b h at each draw, shape ``(n, J)``.
    penalty
        The one chosen for each of the J functions; infinite where none of the controls helps.
    """

    terms: np.ndarray
    penalty: np.ndarray


def reduce(
    terms: np.ndarray, draws: WeightedDraws, controls: Controls, is_normalised: bool
) -> Reduced:
    """Subtract from functions what control variates explain of them.

    Parameters
    ----------
    terms
        The functions at the draws, shape ``(n, J)``.
    draws
        The draws; whole clusters are left out together.
    controls
        Functions of mean zero, or their values, shape ``(n, m)``.
    is_normalised
        Whether the mean is divided by the mean weight, which decides what varies.
    """
    weights = np.exp(draws.log_weight - draws.log_weight.max())[:, None]
    intercept = weights if is_normalised else np.ones_like(weights)
    fold = _folds(draws)
    tried = np.zeros((len(_PENALTIES), *terms.shape))
    for number in range(fold.max() + 1):
        is_train = fold != number
        found = _evaluated(controls, draws, is_train)
        coefficients = _ridge(
            weights[is_train] * found[is_train],
            intercept[is_train],
            weights[is_train] * terms[is_train],
        )
        tried[:, ~is_train] = terms[~is_train] - found[~is_train] @ coefficients
    weighted = weights * tried
    means = np.sum(weighted, axis=1, keepdims=True) / np.sum(intercept)
    spread = np.sum((weighted - intercept * means) ** 2, axis=1)
    # Among equals the largest penalty: no control where none helps.
    best = len(_PENALTIES) - 1 - np.argmin(spread[::-1], axis=0)
    columns = np.arange(terms.shape[1])
    return Reduced(tried[best, :, columns].T, np.asarray(_PENALTIES)[best])


def _folds(draws: WeightedDraws) -> np.ndarray:
    """Return the fold of each draw: clusters in their order, cut into parts of about one size."""
    count = draws.cluster.max() + 1
    num_folds = min(_NUM_FOLDS, int(count))
    if num_folds < 2:
        raise ValueError(
            "`control_variates` need draws of at least two independent clusters, to be fitted on "
            "some and applied to others; run more chains, or several runs."
        )
    return draws.cluster * num_folds // count


def _evaluated(controls: Controls, draws: WeightedDraws, is_train: np.ndarray) -> np.ndarray:
    """Return the controls at all draws, checked."""
    found = np.asarray(controls(draws, is_train) if callable(controls) else controls, np.float64)
    count = len(draws.log_weight)
    if found.ndim != 2 or len(found) != count:
        raise ValueError(
            f"`control_variates` have shape {found.shape}; they must be a matrix with one row for "
            f"each of the {count} draws."
        )
    if not np.all(np.isfinite(found)):
        raise ValueError("`control_variates` have values that are not finite.")
    return found


def _ridge(controls: np.ndarray, intercept: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Regress terms on controls and an intercept; return coefficients ``(penalties, m, J)``."""
    square = np.sum(intercept**2)

    def without_intercept(columns: np.ndarray) -> np.ndarray:
        return columns - intercept * (np.sum(intercept * columns, 0) / square)

    columns = without_intercept(controls)
    size = np.sqrt(np.mean(columns**2, axis=0))
    # A function that is constant, or all but so, has nothing to explain.
    scale = np.where(size > 1e-12 * np.sqrt(np.mean(controls**2, axis=0)), size, np.inf)
    columns = columns / scale
    values, vectors = np.linalg.eigh(columns.T @ columns)
    along = vectors.T @ (columns.T @ without_intercept(terms))
    penalty = np.asarray(_PENALTIES)[:, None] * len(controls)
    share = 1.0 / (np.maximum(values, 0.0) + penalty)
    return (vectors @ (share[:, :, None] * along)) / scale[:, None]
