"""How draws are judged against the truth."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from case_studies.composition.truth import NUM_CLASSES, Truth, classify


class Judged(NamedTuple):
    """Numbers of one set of draws.

    Attributes
    ----------
    log_likelihood
        Mean log density of the draws under the target, in nats.
    covariance_error
        Frobenius norm of the difference of covariances.
    wasserstein
        W2 between the draws and as many exact ones, by optimal assignment.
    in_bulk
        Share of draws where 99 % of the exact ones are.
    mode_distance
        Total variation of the masses near the eight modes, in the rest of the bar and elsewhere.
    """

    log_likelihood: float
    covariance_error: float
    wasserstein: float
    in_bulk: float
    mode_distance: float


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Return W2 between two equally large sets of points: the root of a mean over all of them."""
    costs = cdist(x, y, "sqeuclidean")
    return float(np.sqrt(costs[linear_sum_assignment(costs)].mean()))


def judge(truth: Truth, draws: np.ndarray, exact: np.ndarray) -> Judged:
    """Judge draws, shape ``(n, 2)``, beside as many exact ones."""
    draws = np.asarray(draws, np.float64)
    log_prob = truth.log_prob(draws)
    shares = np.bincount(classify(draws), minlength=NUM_CLASSES) / len(draws)
    return Judged(
        float(log_prob.mean()),
        float(np.linalg.norm(np.cov(draws.T) - truth.covariance)),
        wasserstein(draws, exact),
        float(np.mean(log_prob > truth.bulk_level)),
        float(0.5 * np.abs(shares - truth.masses).sum()),
    )
