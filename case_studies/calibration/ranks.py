r"""What the truth's ranks among posterior draws say of a sampler, as exact tests.

If the truth is one more draw of the posterior, its rank among L independent draws is uniform on 0
to L for every scalar function of truth and data (Talts et al., arXiv:1804.06788). A band that the
whole empirical distribution of the ranks leaves with a stated probability follows from the
smallest pointwise binomial tail and its law under uniform ranks (Säilynoja et al.,
arXiv:2103.10522); here that law is simulated, so that it holds for few ranks and few data sets.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

NUM_SIMULATIONS = 100_000


class Uniformity(NamedTuple):
    """How far ranks are from uniform ones.

    Attributes
    ----------
    deviation
        Largest distance of their empirical distribution from the uniform one.
    p_value
        Probability that uniform ranks leave a simultaneous band as far as these do; at least one
        in `NUM_SIMULATIONS`.
    """

    deviation: float
    p_value: float


def ranks(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return how many draws lie below the truth.

    Parameters
    ----------
    draws
        Shape ``(sets, draws, summaries)``.
    truth
        Shape ``(sets, summaries)``.
    """
    return np.sum(draws < truth[:, None], 1)


def inside(rank: np.ndarray, level: float, num_draws: int) -> np.ndarray:
    """Return whether ranks lie in the central interval of probability `level`.

    Raises
    ------
    ValueError
        If no central interval of `num_draws` draws has that probability.
    """
    outside = (num_draws + 1) * (1 - level) / 2
    if abs(outside - round(outside)) > 1e-6:
        raise ValueError(
            f"`level={level}` is no central share of the {num_draws + 1} ranks that "
            f"`num_draws={num_draws}` give; 19 draws give 0.5 and 0.9."
        )
    return (rank >= round(outside)) & (rank <= num_draws - round(outside))


def coverage_range(level: float, num_sets: int, probability: float = 0.9) -> tuple[float, float]:
    """Return shares between which an exact sampler's coverage falls with that probability."""
    tail = (1 - probability) / 2
    low, high = binom.ppf([tail, 1 - tail], num_sets, level) / num_sets
    return float(low), float(high)


def uniformity(rank: np.ndarray, num_draws: int) -> Uniformity:
    """Test that ranks, shape ``(sets,)``, are uniform on 0 to `num_draws`."""
    below = _below(np.bincount(rank, minlength=num_draws + 1))
    deviation = float(np.abs(below / len(rank) - _shares(num_draws)).max())
    null = _smallest_tails_if_uniform(len(rank), num_draws)
    as_far = np.searchsorted(null, _smallest_tail(below, len(rank)) * (1 + 1e-9), side="right")
    return Uniformity(deviation, float((1 + as_far) / (1 + len(null))))


def band(num_sets: int, num_draws: int, false_alarm_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Return shares that the ECDF of uniform ranks leaves anywhere with at most that probability.

    Returns
    -------
    tuple of np.ndarray
        Lower and upper end at the ranks 0 to ``num_draws - 1``.
    """
    null = _smallest_tails_if_uniform(num_sets, num_draws)
    tail = null[int(false_alarm_rate * len(null))] / 2
    shares = _shares(num_draws)
    # The most extreme counts whose tail is not smaller.
    low = binom.ppf(tail, num_sets, shares)
    high = binom.isf(tail, num_sets, shares)
    return low / num_sets, high / num_sets


def _shares(num_draws: int) -> np.ndarray:
    return np.arange(1, num_draws + 1) / (num_draws + 1)


def _below(counts: np.ndarray) -> np.ndarray:
    """Return counts of ranks up to 0, 1, ...; all ranks are up to the last."""
    return np.cumsum(counts, -1)[..., :-1]


def _smallest_tail(below: np.ndarray, num_sets: int) -> np.ndarray:
    """Return the smallest two-sided pointwise tail, shape ``(..., draws)`` to ``(...)``."""
    shares = _shares(below.shape[-1])
    table = _tails(num_sets, below.shape[-1])
    return table[np.arange(len(shares)), below].min(-1)


@cache
def _tails(num_sets: int, num_draws: int) -> np.ndarray:
    count, share = np.arange(num_sets + 1), _shares(num_draws)[:, None]
    left, right = binom.cdf(count, num_sets, share), binom.sf(count - 1, num_sets, share)
    return 2 * np.minimum(left, right)


@cache
def _smallest_tails_if_uniform(num_sets: int, num_draws: int) -> np.ndarray:
    """Return the sorted statistic of simulated uniform ranks."""
    rng = np.random.default_rng(0)
    share = np.full(num_draws + 1, 1 / (num_draws + 1))
    counts = rng.multinomial(num_sets, share, size=NUM_SIMULATIONS)
    return np.sort(_smallest_tail(_below(counts), num_sets))


def correlation(draws: np.ndarray) -> np.ndarray:
    """Return the correlation of one draw with the next, of each summary, over all data sets.

    Draws are centred at their data set's mean, which makes independent ones anticorrelated by one
    in their number; that is added back.

    Parameters
    ----------
    draws
        Shape ``(sets, draws, summaries)``.
    """
    centred = draws - draws.mean(1, keepdims=True)
    # Posteriors of all widths count alike.
    centred /= np.maximum(draws.std(1, keepdims=True), 1e-12)
    product = np.mean(centred[:, 1:] * centred[:, :-1], (0, 1))
    return product + 1 / draws.shape[1]
