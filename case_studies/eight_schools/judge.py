"""Draws against the truth: errors in points of the test and in Monte Carlo errors."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from case_studies.eight_schools.methods import Drawn
from case_studies.eight_schools.truth import QUANTILES, Truth


class Estimates(NamedTuple):
    """Jackknifed summaries by run, shape ``(runs, 8)``, quantiles ``(runs, 3, 8)``."""

    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray


def estimates(drawn: Drawn) -> Estimates:
    """Return pseudo-values of weighted means, standard deviations and quantiles."""

    def statistic(kept: np.ndarray) -> np.ndarray:
        effects = drawn.effects[kept].reshape(-1, drawn.effects.shape[-1])
        return summarise(effects, drawn.log_weight[kept].ravel())

    found = pseudo_values(statistic, len(drawn.effects))
    return Estimates(found[:, 0], found[:, 1], found[:, 2:])


def log_evidence(by_run: np.ndarray) -> np.ndarray:
    """Return pseudo-values of the log of the runs' mean evidence."""

    def statistic(kept: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(by_run[kept]) - np.log(kept.sum())

    return pseudo_values(statistic, len(by_run))


def pseudo_values(statistic: Callable[[np.ndarray], np.ndarray], num_runs: int) -> np.ndarray:
    """Return a jackknife's pseudo-values, one a run.

    Their mean is the statistic of all runs together, less the leading term of its bias, and their
    spread gives its error (Tukey, 1958). Runs of equal weight have their own means as pseudo-values
    of a mean.
    """
    every = np.ones(num_runs, bool)
    without = [statistic(np.arange(num_runs) != run) for run in range(num_runs)]
    return num_runs * statistic(every) - (num_runs - 1) * np.stack(without)


def summarise(effects: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Return mean, standard deviation and `QUANTILES` of weighted draws, shape ``(5, 8)``."""
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = weight @ effects
    sd = np.sqrt(weight @ (effects - mean) ** 2)
    order = np.argsort(effects, 0)
    below = np.cumsum(weight[order], 0)
    places = [np.argmax(below >= probability, 0)[None] for probability in QUANTILES]
    values = np.take_along_axis(effects, order, 0)
    quantiles = [np.take_along_axis(values, place, 0)[0] for place in places]
    return np.stack([mean, sd, *quantiles])


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
