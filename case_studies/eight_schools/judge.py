"""Draws against the truth: errors in points of the test and in Monte Carlo errors."""

from typing import NamedTuple

import numpy as np

from case_studies.eight_schools.methods import Drawn
from case_studies.eight_schools.truth import QUANTILES, Truth


class Estimates(NamedTuple):
    """Summaries of each run, shape ``(runs, 8)``, quantiles ``(runs, 3, 8)``."""

    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray


def estimates(drawn: Drawn) -> Estimates:
    """Summarise each run by weighted means, standard deviations and quantiles."""
    weight = np.exp(drawn.log_weight - drawn.log_weight.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    mean = np.einsum("rn,rnj->rj", weight, drawn.effects)
    squared = np.einsum("rn,rnj->rj", weight, (drawn.effects - mean[:, None]) ** 2)
    return Estimates(mean, np.sqrt(squared), _quantiles(drawn.effects, weight))


def _quantiles(effects: np.ndarray, weight: np.ndarray) -> np.ndarray:
    order = np.argsort(effects, 1)
    values = np.take_along_axis(effects, order, 1)
    below = np.cumsum(np.take_along_axis(weight[..., None], order, 1), 1)
    found = [np.argmax(below >= probability, 1) for probability in QUANTILES]
    return np.stack([np.take_along_axis(values, i[:, None], 1)[:, 0] for i in found], 1)


def standard_error(values: np.ndarray) -> np.ndarray:
    """Return that of a mean over runs."""
    return values.std(0, ddof=1) / np.sqrt(len(values))


class Judged(NamedTuple):
    """How far summaries are from the truth.

    Attributes
    ----------
    mean_error, mean_noise
        Error of the eight means, root mean square, in points, and its Monte Carlo error.
    sd_ratio, sd_noise
        Standard deviation over the true one, mean over the schools, and its Monte Carlo error.
    quantile_error, quantile_noise
        As of the means, of the 5 % and 95 % quantiles.
    worst
        Largest error of the eight means, in Monte Carlo errors.
    """

    mean_error: float
    mean_noise: float
    sd_ratio: float
    sd_noise: float
    quantile_error: float
    quantile_noise: float
    worst: float


def judge(found: Estimates, truth: Truth) -> Judged:
    """Compare the means over runs with the truth, and their spread over runs with the error."""
    error, noise = found.mean.mean(0) - truth.mean, standard_error(found.mean)
    ends = [0, 2]
    quantile = (found.quantiles.mean(0) - truth.quantiles)[ends]
    ratio = (found.sd / truth.sd).mean(1)
    return Judged(
        _root_mean_square(error),
        _root_mean_square(noise),
        float(ratio.mean()),
        float(standard_error(ratio)),
        _root_mean_square(quantile),
        _root_mean_square(standard_error(found.quantiles)[ends]),
        float(np.abs(error / noise).max()),
    )


def distance(first: Estimates, second: Estimates) -> tuple[float, float]:
    """Return the root mean square difference of the means, and the largest in its errors."""
    apart = first.mean.mean(0) - second.mean.mean(0)
    noise = np.hypot(standard_error(first.mean), standard_error(second.mean))
    return _root_mean_square(apart), float(np.abs(apart / noise).max())


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
