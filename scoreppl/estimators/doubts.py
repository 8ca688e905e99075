"""What makes an estimate doubtful, said as warnings, and the errors that they are judged by."""

import warnings

import numpy as np
from scipy.stats import f as f_law

from scoreppl.estimators.draws import WeightedDraws
from scoreppl.estimators.evidence import MAX_PARETO_K
from scoreppl.estimators.tails import MIN_TAIL, pareto_smoothed

# A mean so many standard errors from zero is not zero.
_MANY_ERRORS = 6.0
_FALSE_ALARM = 1e-4
# Of neighbouring batches; beyond it nothing is known of the chain.
_MAX_CORRELATION = 0.9


def weighted_mean(
    terms: np.ndarray,
    weights: np.ndarray,
    cluster: np.ndarray,
    normalised: bool,
    chain: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted sums and their standard errors."""
    value = weights @ terms
    count = int(cluster.max()) + 1
    if count == 1:
        return value, np.full_like(value, np.nan)
    influence = weights[:, None] * (terms - value) if normalised else weights[:, None] * terms
    sums = np.zeros((count, terms.shape[1]))
    np.add.at(sums, cluster, influence)
    if not normalised:
        sums -= value * (np.bincount(cluster, minlength=count) / len(cluster))[:, None]
    variance = np.sum(sums**2, axis=0) * count / (count - 1)
    if chain is not None:
        variance *= _following(sums, cluster, chain)
    return value, np.sqrt(variance)


def _following(sums: np.ndarray, cluster: np.ndarray, chain: np.ndarray) -> np.ndarray:
    """Return the factor by which batches that follow each other vary less than their mean does.

    As if the batches of a chain were an autoregression: (1 + r) / (1 - r), with the correlation r
    of neighbours where it is positive.
    """
    count = len(sums)
    of_batch = np.zeros(count, int)
    of_batch[cluster] = chain
    first = np.flatnonzero(of_batch[1:] == of_batch[:-1])
    if not len(first):
        return np.ones(sums.shape[1])
    square = np.mean(sums**2, axis=0)
    product = np.mean(sums[first] * sums[first + 1], axis=0)
    found = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
    # The sums add up to zero, which correlates them by minus one over their number.
    correlation = np.clip(found + 1.0 / count, 0.0, _MAX_CORRELATION)
    return (1.0 + correlation) / (1.0 - correlation)


def within_clusters(draws: WeightedDraws) -> np.ndarray:
    """Return log weights, each over the mean of its cluster where clusters are few.

    The largest weights of a few runs are all of one run, and say nothing of a tail.
    """
    count = int(draws.cluster.max()) + 1
    if count >= MIN_TAIL:
        return draws.log_weight
    means = np.full(count, -np.inf)
    np.logaddexp.at(means, draws.cluster, draws.log_weight)
    means -= np.log(np.bincount(draws.cluster, minlength=count))
    return draws.log_weight - np.where(np.isfinite(means), means, 0.0)[draws.cluster]


def warn_of_tails(tail: np.ndarray) -> None:
    """Warn of Pareto k above 0.7."""
    heavy = np.flatnonzero(tail > MAX_PARETO_K)
    if len(heavy):
        which = "" if len(tail) == 1 else f" of {len(heavy)} of {len(tail)} expectations"
        warnings.warn(
            f"The Pareto k{which} is {tail.max():.2f}, above {MAX_PARETO_K}: estimate and error "
            "are unreliable. Use more draws, a proposal with wider tails (`balance_heuristic` with "
            "a share of unguided draws), or `smooth=True`.",
            UserWarning,
            stacklevel=3,
        )


def warn_of_errors(error: np.ndarray, is_empty: np.ndarray) -> None:
    """Warn of errors that are not known."""
    if np.any(np.isnan(error)):
        warnings.warn(
            "All draws are one cluster, so that nothing is known of the error: use more chains or "
            "runs.",
            UserWarning,
            stacklevel=3,
        )
    if np.any(is_empty):
        warnings.warn(
            f"{is_empty.sum()} of {is_empty.size} functions are zero at all draws, so that nothing "
            "is known of their expectations; use more draws, or sp.estimators.rare_event.",
            UserWarning,
            stacklevel=3,
        )


def warn_of_chains(terms: np.ndarray, weights: np.ndarray, draws: WeightedDraws) -> None:
    """Compare what chains differ by with what the batches of each differ by."""
    chain = draws.chain
    if chain is None or chain.max() == 0:
        return
    among = weighted_mean(terms, weights, chain, True)[1]
    sums = np.zeros((chain.max() + 1, terms.shape[1]))
    np.add.at(sums, chain, weights[:, None] * terms)
    total = np.bincount(chain, weights)[:, None]
    means = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    within = weighted_mean(terms - means[chain], weights, draws.cluster, True, chain)[1]
    # Few chains say little: ratios are compared with quantiles of F.
    freedom = chain.max(), max(draws.cluster.max() - chain.max(), 1)
    limit = np.sqrt(f_law.isf(_FALSE_ALARM / terms.shape[1], *freedom))
    if np.any(among > limit * within):
        ratio = np.max(among / np.where(within > 0, within, np.inf))
        warnings.warn(
            f"Chains differ by {ratio:.1f} times what they vary by themselves: they have not "
            "mixed, and estimate and error are not to be believed. Run them for longer, or use a "
            "kernel that jumps between modes (sp.AnnealedScoreMCMC).",
            UserWarning,
            stacklevel=3,
        )


def warn_of_means(found: np.ndarray, draws: WeightedDraws, weights: np.ndarray) -> None:
    """Compare the control variates' means with zero."""
    mean, error = weighted_mean(found, weights, draws.cluster, True, draws.chain)
    far = np.max(np.abs(mean) / np.where(error > 0, error, np.inf))
    if far > _MANY_ERRORS:
        warnings.warn(
            f"A control variate has a mean {far:.0f} standard errors from zero under the draws: "
            "either its mean under the target is not zero (a matrix of values must be centred by "
            "what is known, a `score` must be that of the target), or the draws do not have the "
            "law of the target.",
            UserWarning,
            stacklevel=3,
        )


def tail_shape(term: np.ndarray, log_weight: np.ndarray, normalised: bool) -> float:
    """Return the larger of the tail shapes of |w f| and, for a ratio, of w."""
    with np.errstate(divide="ignore"):
        sizes = log_weight + np.log(np.abs(term))
    shapes = (
        [pareto_smoothed(sizes[np.isfinite(sizes)])[1]] if np.any(np.isfinite(sizes)) else [-np.inf]
    )
    if normalised:
        shapes.append(pareto_smoothed(log_weight[np.isfinite(log_weight)])[1])
    return max(shapes)
