"""Expectations under weighted draws, with standard errors, effective draws and tail shapes."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from scoreppl.estimators.control_variates import Controls, reduce
from scoreppl.estimators.draws import WeightedDraws, check_log_weight, draws_of
from scoreppl.estimators.evidence import MAX_PARETO_K, MIN_EFFECTIVE_DRAWS
from scoreppl.estimators.stein import Stein

# Different values that a tail is fitted to, and clusters that it is compared between.
_MIN_TAIL = 30


class Expectation(NamedTuple):
    """Estimates of expectations, all of the shape of the function's value unless said.

    Attributes
    ----------
    value
        The estimates.
    standard_error
        Their standard errors; NaN if all draws are one cluster.
    ess
        Effective number of draws by the weights alone, (sum w)^2 / sum w^2, a number.
    pareto_k
        Shape of the upper tail of |w f|, and of w where weights are normalised, whichever is
        larger (arXiv:1507.02646); above 0.7 neither estimate nor error is reliable. In fewer than
        30 clusters it is the tail within a cluster: how clusters differ is in the error.
    num_draws, num_clusters
        How many there are; errors rest on the clusters, which are the draws where these are
        independent.
    variance_reduction
        Variance of the estimate without control variates over that with them; 1 without any.
    """

    value: np.ndarray
    standard_error: np.ndarray
    ess: float
    pareto_k: np.ndarray
    num_draws: int
    num_clusters: int
    variance_reduction: np.ndarray


def expectation(
    fn: Callable[[dict[str, Any]], Any] | ArrayLike,
    result: Any,
    *,
    normalised: bool = True,
    control_variates: Controls | str | None = None,
    smooth: bool = False,
) -> Expectation:
    r"""Estimate E[f] from a run, by importance weights where it has some.

    .. math::
        \frac{\sum_i W_i f_i}{\sum_i W_i} \text{ (normalised)}, \qquad
        \frac{1}{n} \sum_i W_i f_i \text{ (plain)}.

    The error sums the terms :math:`W_i (f_i - \hat\mu)`, divided by the total weight, over
    clusters (the delta method); independent draws are clusters of one, chains are cut into
    batches, and particles belong to their ancestors.

    Parameters
    ----------
    fn
        From one draw, a dictionary of arrays, to an array; or its values, shape ``(n, ...)``.
    result
        What `draws_of` reads: a finished MCMC, a `sp.ScoreSMC` or `WeightedDraws`.
    normalised
        Whether to divide by the mean weight: the expectation under the target. False: the mean of
        w f under the law that the draws came from, unbiased; weights must then be ratios of
        normalised densities, or the answer holds the evidence as a factor.
    control_variates
        ``"stein"`` for `Stein` of degree 1, another part of this kind, or a matrix ``(n, m)`` of
        values of functions of mean zero under the target. The estimate stays as unbiased as it
        was: see `scoreppl.estimators.control_variates`.
    smooth
        Whether to replace the largest weights by quantiles of a Pareto law fitted to them (PSIS):
        less variance where Pareto k is large, some bias.

    Returns
    -------
    Expectation
        The estimates.

    Raises
    ------
    ValueError
        If `fn` is not finite at a draw with weight, fewer than 10 draws are effective, weights or
        control variates are unusable, or the run has no draws.

    Warns
    -----
    UserWarning
        If a Pareto k exceeds 0.7.
    """
    draws = draws_of(result)
    if smooth:
        draws = draws._replace(log_weight=psis(draws.log_weight)[0])
    terms, shape = _terms(fn, draws)
    peak = draws.log_weight.max()
    weights = np.exp(draws.log_weight - peak)
    ess = float(weights.sum() ** 2 / np.sum(weights**2))
    if ess < MIN_EFFECTIVE_DRAWS:
        raise ValueError(
            f"Only {ess:.1f} of {len(weights)} draws are effective, so that importance weighting "
            "gives no estimate; use more draws or steps, another guidance, or a kernel without "
            "weights (sp.AnnealedScoreMCMC)."
        )
    # Weights that add up to the shares of the sum that is estimated.
    weights = weights / (weights.sum() if normalised else len(weights) * np.exp(-peak))
    inner = _within_clusters(draws)
    tail = np.array([_tail_shape(column, inner, normalised) for column in terms.T])
    _warn_of_tails(tail)
    value, error = _mean(terms, weights, draws.cluster, normalised)
    gain = np.ones_like(value)
    if control_variates is not None:
        plain_error = error
        reduced = reduce(terms, draws, _part(control_variates), normalised).terms
        value, error = _mean(reduced, weights, draws.cluster, normalised)
        known = error > 0
        ratio = np.divide(plain_error, error, out=np.full_like(error, np.inf), where=known)
        gain = np.where(plain_error > 0, ratio**2, 1.0)
    return Expectation(
        value.reshape(shape), error.reshape(shape), ess, tail.reshape(shape),
        len(weights), int(draws.cluster.max()) + 1, gain.reshape(shape),
    )  # fmt: skip


def balance_heuristic(
    log_target: ArrayLike, log_proposals: ArrayLike, num_draws: ArrayLike
) -> np.ndarray:
    r"""Weigh the pooled draws of several proposals as draws of their mixture.

    .. math:: W(x) = \frac{\pi(x)}{\sum_j (n_j / n) \, q_j(x)}

    The deterministic-mixture weights (Veach and Guibas, 1995; Elvira et al., arXiv:1511.03095):
    no proposal's draws can weigh more than n / n_j times what they would alone, so that a small
    share of a wide proposal keeps all weights bounded.

    Parameters
    ----------
    log_target
        Log density of the target at every draw, shape ``(n,)``, up to a constant.
    log_proposals
        Normalised log density of every proposal at every draw, shape ``(n, J)``.
    num_draws
        How many draws each proposal gave, shape ``(J,)``, n in all.

    Returns
    -------
    numpy.ndarray
        Log weights, shape ``(n,)``, for `weighted_draws`.

    Raises
    ------
    ValueError
        If shapes or counts disagree, or a draw has density zero under all proposals.
    """
    target = check_log_weight(log_target)
    proposals = np.asarray(log_proposals, np.float64)
    counts = np.asarray(num_draws, np.float64)
    if proposals.shape != (len(target), counts.size) or counts.ndim != 1:
        raise ValueError(
            f"`log_proposals` of shape {proposals.shape} must have a row for each of the "
            f"{len(target)} draws and a column for each of the {counts.size} proposals."
        )
    if counts.sum() != len(target) or np.any(counts <= 0):
        raise ValueError(
            f"`num_draws={num_draws}` must be positive and add up to {len(target)} draws."
        )
    mixture = np.logaddexp.reduce(proposals + np.log(counts / counts.sum()), axis=1)
    if not np.all(np.isfinite(mixture)):
        raise ValueError(
            "`log_proposals` give some draw no finite density under any proposal, although it was "
            "drawn from one of them; the densities and the draws do not belong together."
        )
    return target - mixture


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
    found, pareto_k = _psislw(values[known] - values[known].max())
    total = np.logaddexp.reduce(values)
    smoothed[known] = found - np.logaddexp.reduce(found) + total
    return smoothed, pareto_k


def _psislw(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Call ArviZ's implementation, wherever the version has it."""
    import arviz as az  # costs a second, which importing the package should not

    # Too few draws, or too many equal ones, have no tail that a Pareto law could be fitted to.
    if len(np.unique(log_weight)) < _MIN_TAIL:
        return log_weight, -np.inf
    if hasattr(az, "psislw"):
        found, pareto_k = az.psislw(log_weight)
    else:
        from arviz_stats.base import array_stats  # type: ignore[import-not-found]

        found, pareto_k = array_stats.psislw(log_weight)
    return np.asarray(found, np.float64), float(pareto_k)


def _terms(fn: Any, draws: WeightedDraws) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the function at the draws as a matrix, zero where there is no weight."""
    found = np.asarray(jax.jit(jax.vmap(fn))(draws.values) if callable(fn) else fn, np.float64)
    count = len(draws.log_weight)
    if found.ndim == 0 or len(found) != count:
        raise ValueError(
            f"`fn` has values of shape {found.shape}; the first axis must be the {count} draws."
        )
    terms = found.reshape(count, -1)
    has_weight = np.isfinite(draws.log_weight)
    broken = has_weight & ~np.all(np.isfinite(terms), axis=1)
    if np.any(broken):
        raise ValueError(
            f"`fn` is not finite at {broken.sum()} of the {has_weight.sum()} draws with weight; an "
            "expectation of it does not exist, or the function needs a remedy there."
        )
    return np.where(has_weight[:, None], terms, 0.0), found.shape[1:]


def _mean(
    terms: np.ndarray, weights: np.ndarray, cluster: np.ndarray, normalised: bool
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
    return value, np.sqrt(np.sum(sums**2, axis=0) * count / (count - 1))


def _tail_shape(term: np.ndarray, log_weight: np.ndarray, normalised: bool) -> float:
    """Return the larger of the tail shapes of |w f| and, for a ratio, of w."""
    with np.errstate(divide="ignore"):
        sizes = log_weight + np.log(np.abs(term))
    shapes = [_psislw(sizes[np.isfinite(sizes)])[1]] if np.any(np.isfinite(sizes)) else [-np.inf]
    if normalised:
        shapes.append(_psislw(log_weight[np.isfinite(log_weight)])[1])
    return max(shapes)


def _within_clusters(draws: WeightedDraws) -> np.ndarray:
    """Return log weights, each over the mean of its cluster where clusters are few.

    The largest weights of a few runs are all of one run, and say nothing of a tail.
    """
    count = int(draws.cluster.max()) + 1
    if count >= _MIN_TAIL:
        return draws.log_weight
    means = np.full(count, -np.inf)
    np.logaddexp.at(means, draws.cluster, draws.log_weight)
    means -= np.log(np.bincount(draws.cluster, minlength=count))
    return draws.log_weight - np.where(np.isfinite(means), means, 0.0)[draws.cluster]


def _warn_of_tails(tail: np.ndarray) -> None:
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


def _part(controls: Controls | str) -> Controls:
    if not isinstance(controls, str):
        return controls
    if controls != "stein":
        raise ValueError(
            f"`control_variates={controls!r}` is not known; use 'stein', a part such as "
            "sp.estimators.SteinKernel(), or a matrix of values."
        )
    return Stein()
