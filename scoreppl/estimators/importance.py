"""Expectations under weighted draws, with standard errors, effective draws and tail shapes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from scoreppl.estimators.control_variates import Controls, evaluate, reduce
from scoreppl.estimators.doubts import (
    tail_shape,
    warn_of_chains,
    warn_of_errors,
    warn_of_means,
    warn_of_tails,
    weighted_mean,
    within_clusters,
)
from scoreppl.estimators.draws import WeightedDraws, check_log_weight, draws_of
from scoreppl.estimators.evidence import MIN_EFFECTIVE_DRAWS
from scoreppl.estimators.stein import Stein
from scoreppl.estimators.tails import psis

# Beyond it a weight is no number in double precision.
_MAX_LOG_WEIGHT = 700.0


class Expectation(NamedTuple):
    """Estimates of expectations, all of the shape of the function's value unless said.

    Attributes
    ----------
    value
        The estimates.
    standard_error
        Their standard errors; NaN if all draws are one cluster, infinite for a function that is
        zero at all draws. From few clusters, such as ten runs, quantiles are those of Student's t.
    ess
        Effective number of draws by the weights alone, (sum w)^2 / sum w^2, a number. It knows
        nothing of the autocorrelation of a chain, which is in the standard error.
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
    clusters (the delta method); independent draws are clusters of one, chains are cut into batches,
    whose correlation with the next is allowed for, and particles belong to their ancestors.

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
        If a Pareto k exceeds 0.7, all draws are one cluster, a function is zero at all of them,
        chains disagree by more than their batches tell, or a control variate has a mean that is not
        zero.
    """
    draws = draws_of(result)
    if smooth:
        draws = draws._replace(log_weight=psis(draws.log_weight)[0])
    terms, shape = _terms(fn, draws)
    peak = draws.log_weight.max()
    weights = np.exp(draws.log_weight - peak)
    ess = float(weights.sum() ** 2 / np.sum(weights**2))
    if ess < MIN_EFFECTIVE_DRAWS:
        is_few = len(weights) < MIN_EFFECTIVE_DRAWS
        raise ValueError(
            f"Only {ess:.1f} of {len(weights)} draws are effective, too few for an estimate with "
            "an error; use more draws"
            + (
                "."
                if is_few
                else ", steps or particles, another guidance, or a kernel without "
                "weights (sp.AnnealedScoreMCMC)."
            )
        )
    if not normalised and not abs(peak) < _MAX_LOG_WEIGHT:
        raise ValueError(
            f"The largest log weight is {peak:.4g}: `normalised=False` is for ratios of normalised "
            "densities; use `normalised=True`."
        )
    # Weights that add up to the shares of the sum that is estimated.
    weights = weights / (weights.sum() if normalised else len(weights) * np.exp(-peak))
    inner = within_clusters(draws)
    tail = np.array([tail_shape(column, inner, normalised) for column in terms.T])
    warn_of_tails(tail)
    value, error = weighted_mean(terms, weights, draws.cluster, normalised, draws.chain)
    warn_of_chains(terms, weights, draws)
    gain = np.ones_like(value)
    if control_variates is not None:
        plain_error = error
        part = _part(control_variates)
        reduced = reduce(terms, draws, part, normalised).terms
        warn_of_means(evaluate(part, draws), draws, weights)
        value, error = weighted_mean(reduced, weights, draws.cluster, normalised, draws.chain)
        known = error > 0
        ratio = np.divide(plain_error, error, out=np.full_like(error, np.inf), where=known)
        gain = np.where(plain_error > 0, ratio**2, 1.0)
    is_empty = ~np.any(terms != 0, axis=0)
    error = np.where(is_empty, np.inf, error)
    warn_of_errors(error, is_empty)
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
    if counts.ndim != 1 or np.any(counts != np.round(counts)):
        raise ValueError(f"`num_draws={num_draws}` must be a vector of whole numbers.")
    if np.any(np.isnan(proposals)):
        raise ValueError("`log_proposals` has values that are not a number.")
    if proposals.shape != (len(target), counts.size):
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


def _terms(fn: Any, draws: WeightedDraws) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the function at the draws as a matrix, zero where there is no weight."""
    try:
        found = np.asarray(jax.jit(jax.vmap(fn))(draws.values) if callable(fn) else fn, np.float64)
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        raise ValueError(
            "`fn` could not be evaluated: it must be a function of one draw, a dictionary of "
            "arrays, written in JAX and returning one array, or be the values themselves "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]})."
        ) from error
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


def _part(controls: Controls | str) -> Controls:
    if not isinstance(controls, str):
        return controls
    if controls != "stein":
        raise ValueError(
            f"`control_variates={controls!r}` is not known; use 'stein', a part such as "
            "sp.estimators.SteinKernel(), or a matrix of values."
        )
    return Stein()
