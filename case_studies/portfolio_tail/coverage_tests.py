r"""Tests of value-at-risk forecasts by the days on which they were exceeded.

With x exceedances in n days forecast at probability p, pi = x / n, and n_ij the number of days in
state j after a day in state i (1: exceeded), pi_i = n_i1 / (n_i0 + n_i1), and pi_2 = n_.1 / n_..:

.. math::
    LR_{uc} = 2 \log \frac{\pi^x (1 - \pi)^{n - x}}{p^x (1 - p)^{n - x}}, \qquad
    LR_{ind} = 2 \log \frac{\prod_i \pi_i^{n_{i1}} (1 - \pi_i)^{n_{i0}}}
        {\pi_2^{n_{.1}} (1 - \pi_2)^{n_{.0}}}.

LR_uc (Kupiec, Journal of Derivatives 3(2), 1995) asks for the right number, LR_ind (Christoffersen,
International Economic Review 39(4), 1998) for exceedances that do not follow one another; both
have about a chi-square law with one degree of freedom for right forecasts, and their sum, which
tests conditional coverage, one with two. The laws hold for many exceedances: with two expected,
none and one give p-values like each other, and independence is not tested at all.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlog1py, xlogy
from scipy.stats import chi2


class CoverageTests(NamedTuple):
    """Exceedances, and p-values of the hypothesis that the forecasts are right.

    Attributes
    ----------
    num_exceeded, num_days
        Days on which the loss exceeded its forecast, and all days.
    unconditional
        p-value of Kupiec's test: as many as there should be.
    independence
        p-value of Christoffersen's test: no more and no fewer after an exceedance than otherwise.
    conditional
        p-value of both together.
    """

    num_exceeded: int
    num_days: int
    unconditional: float
    independence: float
    conditional: float


def coverage_tests(exceeded: ArrayLike, probability: float) -> CoverageTests:
    """Test days of exceedance, in order, for the probability they were forecast with.

    Parameters
    ----------
    exceeded
        Whether the loss was above its forecast, shape ``(n,)``, Booleans.
    probability
        That of an exceedance: 0.01 for the value at risk at 99 %.

    Raises
    ------
    ValueError
        If `exceeded` is no vector of at least two Booleans, or `probability` not within (0, 1).
    """
    hits = np.asarray(exceeded)
    if hits.ndim != 1 or hits.dtype != bool or len(hits) < 2:
        raise ValueError(
            f"`exceeded` of shape {hits.shape} and type {hits.dtype} must be a vector of at least "
            "two Booleans: compare losses with forecasts."
        )
    if not 0 < probability < 1:
        raise ValueError(f"`probability={probability}` must be between 0 and 1.")
    count, days = int(hits.sum()), len(hits)
    unconditional = _fitted(count, days) - _log_likelihood(count, days, probability)
    before, after = hits[:-1], hits[1:]
    by_state = [after[before == state] for state in (False, True)]
    dependent = sum(_fitted(int(part.sum()), len(part)) for part in by_state)
    independence = dependent - _fitted(int(after.sum()), len(after))
    ratios = 2 * np.maximum([unconditional, independence, unconditional + independence], 0.0)
    return CoverageTests(count, days, *(float(v) for v in chi2.sf(ratios, [1, 1, 2])))


def _log_likelihood(count: int, days: int, probability: float) -> float:
    return xlogy(count, probability) + xlog1py(days - count, -probability)


def _fitted(count: int, days: int) -> float:
    return _log_likelihood(count, days, count / days) if days else 0.0
