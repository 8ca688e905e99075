"""The posterior and the evidence by quadrature over tau: given tau everything is normal."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import halfcauchy, multivariate_normal, norm

from case_studies.eight_schools.model import (
    ERRORS,
    MEAN_SD,
    NUM_SCHOOLS,
    SCORES,
    SPREAD_SCALE,
)

QUANTILES = (0.05, 0.5, 0.95)


class Truth(NamedTuple):
    """What is known of the posterior of the effects, in points of the test.

    Attributes
    ----------
    mean, sd
        Shape ``(8,)``.
    quantiles
        Of `QUANTILES`, shape ``(3, 8)``.
    log_evidence
        Log density of the scores.
    """

    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray
    log_evidence: float


def posterior(num_nodes: int = 4001) -> Truth:
    """Integrate over log tau by the trapezoid rule, and over mu and the effects exactly."""
    log_spread = np.linspace(-12.0, 20.0, num_nodes)
    spread = np.exp(log_spread)
    common = np.full((NUM_SCHOOLS, NUM_SCHOOLS), MEAN_SD**2)
    means, variances, log_likelihood = [], [], []
    for tau in spread:
        prior = common + tau**2 * np.eye(NUM_SCHOOLS)
        whole = prior + np.diag(ERRORS**2)
        gain = np.linalg.solve(whole, prior).T
        means.append(gain @ SCORES)
        # Errors times the gain: no difference of large numbers where tau is large.
        variances.append(np.diag(gain * ERRORS**2))
        log_likelihood.append(multivariate_normal.logpdf(SCORES, cov=whole))
    log_mass = halfcauchy.logpdf(spread, scale=SPREAD_SCALE) + log_spread + log_likelihood
    log_mass += np.log(log_spread[1] - log_spread[0])
    log_evidence = float(logsumexp(log_mass))
    weight = np.exp(log_mass - log_evidence)[:, None]
    means, sds = np.array(means), np.sqrt(variances)
    mean = np.sum(weight * means, 0)
    sd = np.sqrt(np.sum(weight * (sds**2 + (means - mean) ** 2), 0))

    def quantile(probability: float, school: int) -> float:
        def excess(value: float) -> float:
            below = norm.cdf(value, means[:, school], sds[:, school])
            return float(weight[:, 0] @ below) - probability

        return float(brentq(excess, -500.0, 500.0))

    quantiles = np.array([[quantile(p, j) for j in range(NUM_SCHOOLS)] for p in QUANTILES])
    return Truth(mean, sd, quantiles, log_evidence)
