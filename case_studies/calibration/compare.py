"""Draws of one posterior against reference draws: z-scores of summaries, and a distance."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import t as student

QUANTILES = (0.05, 0.5, 0.95)
FALSE_ALARM_RATE = 0.001
NUM_SPLITS, NUM_COMPARED = 1999, 500


class Compared(NamedTuple):
    """How far draws are from the reference.

    Attributes
    ----------
    mean_error, sd_ratio
        Largest error of a mean, in the reference's standard deviations, and the standard
        deviation farthest from the reference's, over it.
    quantile_error
        Largest error of the shares below the reference's `QUANTILES`.
    worst, bound
        Largest z-score of means, variances and those shares, and what exact draws exceed with
        probability `FALSE_ALARM_RATE` at most.
    distance, split_distance
        Energy distance to the reference, and of halves of the reference from each other (median).
    distance_p
        Share of the halves that are as far apart.
    """

    mean_error: float
    sd_ratio: float
    quantile_error: float
    worst: float
    bound: float
    distance: float
    split_distance: float
    distance_p: float

    @property
    def holds(self) -> bool:
        """Whether neither test rejects."""
        return self.worst < self.bound and self.distance_p >= FALSE_ALARM_RATE


def compare(draws: np.ndarray, reference: np.ndarray, seed: int = 0) -> Compared:
    """Compare independent chains with independent reference draws.

    Parameters
    ----------
    draws
        Shape ``(chains, draws, quantities)``; the chains' means give the Monte Carlo errors.
    reference
        Shape ``(draws, quantities)``.
    seed
        Of the splits.
    """
    centre, spread = reference.mean(0), reference.std(0)
    ends = np.quantile(reference, QUANTILES, 0)

    def functions(values: np.ndarray) -> np.ndarray:
        below = values[..., None, :] < ends
        squares = ((values - centre) / spread) ** 2
        return np.concatenate([values, squares, below.reshape(*values.shape[:-1], -1)], -1)

    by_chain, expected = functions(draws).mean(1), functions(reference)
    error = by_chain.mean(0) - expected.mean(0)
    noise = by_chain.var(0, ddof=1) / len(by_chain) + expected.var(0) / len(reference)
    scores = np.abs(error) / np.sqrt(np.maximum(noise, 1e-300))
    tail = -np.expm1(np.log1p(-FALSE_ALARM_RATE) / len(scores)) / 2
    flat, size = draws.reshape(-1, draws.shape[-1]), draws.shape[-1]
    ratios = flat.std(0) / spread
    rng = np.random.default_rng(seed)
    chosen = flat[rng.choice(len(flat), min(NUM_COMPARED, len(flat)), replace=False)]
    distance, apart = _distances(chosen / spread, reference / spread, rng)
    return Compared(
        float(np.abs(error[:size] / spread).max()),
        float(ratios[np.argmax(np.abs(np.log(ratios)))]),
        float(np.abs(error[2 * size :]).max()),
        float(scores.max()),
        float(student.isf(tail, len(draws) - 1)),
        distance,
        float(np.median(apart)),
        float((1 + np.sum(apart >= distance)) / (1 + len(apart))),
    )


def _distances(
    draws: np.ndarray, reference: np.ndarray, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Return the energy distance of as many draws of each, and those of random halves.

    Székely and Rizzo, Journal of Statistical Planning and Inference 143, 2013.
    """
    count = len(draws)
    kept = reference[rng.choice(len(reference), 4 * count, replace=False)]
    between = cdist(kept, kept)

    def energy(contrast: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Return it for rows of weights, 1/count on one sample and -1/count on the other."""
        return -np.sum((contrast @ distances) * contrast, -1)

    both = np.concatenate([draws, kept[:count]])
    contrast = np.repeat([1.0, -1.0], count) / count
    signs = np.repeat([1.0, -1.0, 0.0], [count, count, 2 * count]) / count
    splits = rng.permuted(np.tile(signs, (NUM_SPLITS, 1)), axis=1)
    return float(energy(contrast, cdist(both, both))), energy(splits, between)
