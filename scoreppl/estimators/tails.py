"""Pareto smoothed importance sampling, by ArviZ."""

import numpy as np
from numpy.typing import ArrayLike

from scoreppl.estimators.draws import check_log_weight

# Different values that a tail is fitted to.
MIN_TAIL = 30


def psis(log_weight: ArrayLike) -> tuple[np.ndarray, float]:
    """Smooth the largest weights by a Pareto law (Vehtari et al., arXiv:1507.02646).

    Parameters
    ----------
    log_weight
        Log weights, shape ``(n,)``.

    Returns
    -------
    tuple
        Smoothed log weights with the mean weight kept, and the shape k of the tail.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite, or none is finite.
    """
    values = check_log_weight(log_weight)
    known = np.isfinite(values)
    smoothed = np.full_like(values, -np.inf)
    found, pareto_k = pareto_smoothed(values[known] - values[known].max())
    total = np.logaddexp.reduce(values)
    smoothed[known] = found - np.logaddexp.reduce(found) + total
    return smoothed, pareto_k


def pareto_smoothed(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Call ArviZ's implementation, wherever the version has it."""
    import arviz as az  # costs a second, which importing the package should not

    # Too few draws, or too many equal ones, have no tail that a Pareto law could be fitted to.
    log_weight = np.array(log_weight, np.float64)  # ArviZ writes to it.
    if len(np.unique(log_weight)) < MIN_TAIL:
        return log_weight, -np.inf
    if hasattr(az, "psislw"):
        found, pareto_k = az.psislw(log_weight)
    else:
        from arviz_stats.base import array_stats  # type: ignore[import-not-found]

        found, pareto_k = array_stats.psislw(log_weight)
    return np.array(found, np.float64), float(pareto_k)
