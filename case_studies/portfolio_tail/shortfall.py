r"""Value at risk and expected shortfall from losses with density ratios.

With L the loss, v the ratio (one for plain draws), p the probability of the tail and q the value at
risk (Rockafellar and Uryasev, Journal of Banking and Finance 26, 2002):

.. math:: \frac1n \sum_{L_i \ge q} v_i = p, \qquad ES = q + \frac{1}{n p} \sum_i v_i (L_i - q)_+.

At the true q the derivative of ES by q vanishes, so that its error is that of the mean of
v (L - q)_+ / p to first order. The mean of v is one, exactly, which makes v - 1 a control variate.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit

PROBABILITY = 0.001
_NORMAL = 1.96


class TailRisk(NamedTuple):
    """Estimates in the loss's units.

    Attributes
    ----------
    value_at_risk, interval
        Quantile, and its interval at 95 %: where the tail's estimated probability is within
        1.96 standard errors of p.
    shortfall, shortfall_error
        Expected shortfall and its standard error.
    num_beyond
        Losses at or above the value at risk.
    largest_share
        Share of the largest term in the sum of v (L - q)_+: near one, nothing is known.
    """

    value_at_risk: float
    interval: tuple[float, float]
    shortfall: float
    shortfall_error: float
    num_beyond: int
    largest_share: float


def tail_risk(
    loss: ArrayLike,
    log_ratio: ArrayLike | None = None,
    *,
    probability: float = PROBABILITY,
    use_control: bool = False,
) -> TailRisk:
    """Estimate value at risk and expected shortfall.

    Parameters
    ----------
    loss
        Independent losses, shape ``(n,)``.
    log_ratio
        Log density ratio of the law in question to that of the draws; None: they are of that law.
    probability
        Of the tail.
    use_control
        Whether to regress on v - 1.

    Raises
    ------
    ValueError
        If a loss or ratio is not a number, or too few losses reach the tail.
    """
    losses = np.asarray(loss, np.float64)
    ratios = np.ones_like(losses) if log_ratio is None else np.exp(np.asarray(log_ratio, float))
    if not (np.all(np.isfinite(losses)) and np.all(np.isfinite(ratios))):
        raise ValueError("`loss` and `log_ratio` must be numbers, and no ratio infinite.")
    order = np.argsort(losses)[::-1]
    losses, ratios = losses[order], ratios[order]
    beyond = np.cumsum(ratios) / len(losses)
    index = int(np.searchsorted(beyond, probability))
    if index < 1 or index >= len(losses):
        raise ValueError(
            f"{len(losses)} draws have {index} losses beyond the tail of probability "
            f"{probability:g}: draw more, or guide them further or less far."
        )
    quantile = losses[index]
    terms = ratios * np.maximum(losses - quantile, 0.0)
    largest = float(terms.max() / terms.sum())
    if use_control:
        terms = terms - regression(terms, ratios - 1.0)
    error = terms.std(ddof=1) / np.sqrt(len(terms))
    squares = np.cumsum(ratios**2) / len(losses) - beyond**2
    inside = np.abs(beyond - probability) <= _NORMAL * np.sqrt(squares / len(losses))
    return TailRisk(
        float(quantile),
        (float(losses[inside].min()), float(losses[inside].max())),
        float(quantile + terms.mean() / probability),
        float(error / probability),
        index + 1,
        largest,
    )


def regression(terms: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Return what controls of mean zero, shape ``(n,)`` or ``(n, m)``, explain of the terms."""
    matrix = controls.reshape(len(terms), -1)
    centred = matrix - matrix.mean(0)
    return matrix @ np.linalg.lstsq(centred, terms - terms.mean(), rcond=None)[0]


def tilt_slope(loss: np.ndarray, log_ratio: np.ndarray, end: float) -> float:
    r"""Return the slope at which half of the tilted law lies beyond the end of the tilt.

    The weight is :math:`1 / (1 + e^{-\lambda (L - a)})`, `end` is a; as far as these draws tell.
    """
    ratios = np.exp(log_ratio - log_ratio.max())

    def excess(slope: float) -> float:
        weights = ratios * expit(slope * (loss - end))
        return float(weights[loss > end].sum() / weights.sum()) - 0.5

    steepest = 1.0 / np.std(loss)
    while excess(steepest) < 0:
        steepest *= 2
    return float(brentq(excess, 0.0, steepest))
