r"""Several expectations from one sample: adaptive importance sampling with control variates.

For expectations :math:`I_j = E_p[\phi_j(X)]` and any shares :math:`\alpha`, draws of
:math:`q = \sum_k \alpha_k q_k` give

.. math::
    \hat I_j = \frac 1 n \sum_i \left[ \frac{\phi_j(x_i) p(x_i)}{q(x_i)}
        - \sum_k \beta_{jk} \left( \frac{q_k(x_i)}{q(x_i)} - 1 \right) \right],

because each component's density has integral one (Owen and Zhou, 2000, 'Safe and effective
importance sampling'). If the components are :math:`q_j \propto |\phi_j| p` for functions of one
sign, :math:`\beta_{jj} = I_j` makes all variances zero at once: these are the optimal estimators
of Demange-Chryst, Bachoc and Morio (arXiv:2212.00568), who approach them by adaptation.
"""

import warnings
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from scoreppl.arguments import check_count
from scoreppl.estimators.function_values import (
    Function,
    check_functions,
    evaluate,
    standard_normal,
)
from scoreppl.estimators.mixture_adaptation import (
    CUTOFF,
    Sample,
    adapted,
    pool_of,
    total_variance,
)
from scoreppl.estimators.mixture_proposal import (
    FOLDS,
    MixtureProposal,
    host_generator,
    log_mixture,
    points_of,
    standard_normal_points,
)

_LEAST_DRAWS = 200
# As in the authors' program: batches of a tenth of the budget, adaptation within half of it.
_BATCHES, _MAX_ADAPTATION = 10, 5
_MAX_PARETO_K, _LEAST_TAIL = 0.7, 25


class MultiExpectation(NamedTuple):
    r"""Estimates of several expectations from one sample.

    Attributes
    ----------
    value
        The estimates, shape ``(J,)``; unbiased.
    standard_error
        Their standard errors, shape ``(J,)``; infinite where a function is zero at all draws.
    covariance
        Covariance of the estimates, shape ``(J, J)``, for functions of several expectations.
    ess
        Effective number of the last sample's draws under p, (sum w)^2 / sum w^2 of w = p / q.
    pareto_k
        Shape of the tail of \|phi_j\| p / q, shape ``(J,)``; above 0.7 neither the estimate nor
        its error is reliable. Infinite if too few draws have a value other than zero.
    num_evaluations
        How many points the functions were evaluated at, in all.
    num_draws
        How many of them are in the last sample, from which alone the estimates come.
    proposal
        The law of the last sample.
    """

    value: np.ndarray
    standard_error: np.ndarray
    covariance: np.ndarray
    ess: float
    pareto_k: np.ndarray
    num_evaluations: int
    num_draws: int
    proposal: MixtureProposal


class _Estimate(NamedTuple):
    value: np.ndarray
    covariance: np.ndarray
    terms: np.ndarray
    log_weight: np.ndarray


def multi_expectation(
    key: Array,
    functions: Function,
    log_density: Function | None = None,
    draw: Function | None = None,
    *,
    size: int,
    num_draws: int,
    components_per_function: int = 1,
    least_reference: float = 0.1,
) -> MultiExpectation:
    r"""Estimate several expectations under one law from one adapted sample.

    A first batch of draws comes from p. Each round fits Gaussians to the positive and the
    negative part of every :math:`\phi_j p`, weighing all draws so far by the mixture of their
    laws, tempers weights of which too few count, and chooses shares that minimise
    :math:`\sum_j V_j / (E_p|\phi_j|)^2`, where V_j is the variance with control variates. A batch
    of the new mixture measures what it achieves. Adaptation ends when V over the budget that
    remains would grow, or when half of the budget is spent, and the best of the mixtures draws
    the rest of the budget: the estimates come from this independent sample alone.

    The procedure is that of Demange-Chryst, Bachoc and Morio (arXiv:2212.00568), after its
    abstract and its authors' published program. It differs in the parts by sign, in the reference
    p as a component, which bounds p / q, in control variates from all components instead of a
    function's own, in fixed numbers of draws of each component, and in coefficients by
    cross-fitting: those for one fold of the draws come from the other folds, so that they bias
    nothing.

    It is for few dimensions, up to some tens: in many, Gaussians fitted to weighted draws follow
    nothing. Rare events of which the first batch holds no draw are not found.

    **Under a score prior**, expectations of x = T(z), z ~ N(0, I), with T the reverse diffusion by
    a deterministic solver, are expectations under N(0, I): take
    ``flow = scoreppl.score.flow_map(model)``, let `functions` give phi(flow(z)), and leave out
    `log_density`. What is estimated, without bias, is then the expectation under the law that the
    discretised flow defines; how far that is from the network's own law is the solver's matter.

    Parameters
    ----------
    key
        PRNG key.
    functions
        Maps one point, shape ``(size,)``, to the values of all functions there, shape ``(J,)``.
        It is compiled once for every function object: use a module's function, not a new lambda
        for each call.
    log_density
        Normalised log density of p at one point; without it and `draw`, p is N(0, I). Independent
        inputs of other laws are best written as functions of normal ones, x = F^-1(Phi(z)).
    draw
        Draws one point of p from a key; needed with `log_density`.
    size
        Number of coordinates of a point.
    num_draws
        The whole budget: how many points the functions are evaluated at, at most; at least 200.
    components_per_function
        How many Gaussians for each part of each function.
    least_reference
        Share of draws that p keeps at least, in (0, 1): p / q is at most its inverse.

    Returns
    -------
    MultiExpectation
        Estimates with covariance and diagnostics. Functions that repeat or are combinations of
        others need no care.

    Raises
    ------
    ValueError
        If an argument is not as above, or a function is NaN or infinite where p is positive.

    Warns
    -----
    UserWarning
        If a function is zero at all draws of the last sample, or a Pareto k exceeds 0.7.
    """
    size = check_count("size", size, 1)
    num_draws = check_count("num_draws", num_draws, _LEAST_DRAWS)
    parts = check_count("components_per_function", components_per_function, 1)
    if not 0 < least_reference < 1:
        raise ValueError(f"`least_reference={least_reference}` must lie between 0 and 1.")
    if (log_density is None) != (draw is None):
        raise ValueError(
            "`log_density` and `draw` belong together: the first sample is drawn from p. Without "
            "both, p is the standard normal law."
        )
    density = standard_normal if log_density is None else log_density
    check_functions(functions, density, draw, size)
    points_of_p = standard_normal_points(size) if draw is None else points_of(draw)

    batch = num_draws // _BATCHES // FOLDS * FOLDS
    key_fit, *keys = jax.random.split(key, _MAX_ADAPTATION + 2)
    rng = host_generator(key_fit)

    def sample(key: Array, proposal: MixtureProposal, count: int) -> Sample:
        points, component = proposal.sample(key, count, points_of_p)
        values, logs = evaluate(functions, density, points, batch)
        return Sample(points, component, logs, values)

    best = MixtureProposal.of_reference(size)
    proposals, samples = [best], [sample(keys[0], best, batch)]
    pool = pool_of(samples, proposals)
    while len(samples) < _MAX_ADAPTATION:
        proposal = adapted(rng, pool, parts, least_reference).kept(batch)
        proposals.append(proposal)
        samples.append(sample(keys[len(samples)], proposal, batch))
        pool = pool_of(samples, proposals)
        left = num_draws - len(samples) * batch
        before, after = total_variance(pool, best), total_variance(pool, proposal)
        if after < before:
            best = proposal
        if after / left >= before / (left + batch):
            break
    spent = len(samples) * batch
    rest = (num_draws - spent) // FOLDS * FOLDS
    best = best.kept(rest)
    last = sample(keys[-1], best, rest)
    return _result(last, best, spent + rest)


def _estimate(sample: Sample, proposal: MixtureProposal) -> _Estimate:
    """Estimate from one stratified sample, with coefficients of each fold by the others."""
    count, component = len(sample.points), sample.component
    logs = proposal.log_components(sample.points, sample.log_density)
    log_drawn = log_mixture(logs, proposal.share)
    log_weight = sample.log_density - log_drawn
    terms = sample.values * np.exp(log_weight)[:, None]
    control = np.exp(logs - log_drawn[:, None]) - 1.0
    # Strata are blocks of whole folds, so that each fold has the mixture's shares.
    fold = np.arange(count) % FOLDS
    left = np.empty_like(terms)
    for index in range(FOLDS):
        others, own = fold != index, fold == index
        beta = np.linalg.lstsq(
            _within(control[others], component[others]),
            _within(terms[others], component[others]),
            rcond=CUTOFF,
        )[0]
        left[own] = terms[own] - control[own] @ beta
    inner = _within(left, component)
    drawn = np.bincount(component)
    scaled = inner * np.sqrt(drawn / (drawn - 1))[component][:, None] / count
    return _Estimate(left.mean(0), scaled.T @ scaled, terms, log_weight)


def _within(values: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Subtract from each row the mean of its component."""
    sums = np.zeros((component.max() + 1, values.shape[1]))
    np.add.at(sums, component, values)
    return values - (sums / np.bincount(component)[:, None])[component]


def _result(sample: Sample, proposal: MixtureProposal, evaluations: int) -> MultiExpectation:
    value, covariance, terms, log_weight = _estimate(sample, proposal)
    pareto_k = np.array([_pareto_k(column) for column in np.abs(terms).T])
    empty = np.flatnonzero(~np.any(terms != 0, 0))
    if len(empty):
        covariance[empty, empty] = np.inf
        warnings.warn(
            f"Functions {empty.tolist()} are zero at all {len(terms)} draws of the last sample, "
            "so that nothing is known of their expectations; use more draws, or "
            "sp.estimators.rare_event.",
            UserWarning,
            stacklevel=3,
        )
    heavy = np.flatnonzero((pareto_k > _MAX_PARETO_K) & (pareto_k < np.inf))
    if len(heavy):
        warnings.warn(
            f"The Pareto k of functions {heavy.tolist()} exceeds {_MAX_PARETO_K}: their estimates "
            "and errors are unreliable; use more draws.",
            UserWarning,
            stacklevel=3,
        )
    scaled = np.exp(log_weight - log_weight.max())
    ess = float(scaled.sum() ** 2 / np.sum(scaled**2))
    error = np.sqrt(np.diag(covariance))
    return MultiExpectation(
        value, error, covariance, ess, pareto_k, evaluations, len(terms), proposal
    )


def _pareto_k(sizes: np.ndarray) -> float:
    import arviz as az  # costs a second, which importing the package should not

    logs = np.log(sizes[sizes > 0])
    if len(logs) < _LEAST_TAIL:
        return np.inf
    # Equal values have no tail.
    if len(np.unique(logs)) < _LEAST_TAIL:
        return -np.inf
    if hasattr(az, "psislw"):
        return float(az.psislw(logs)[1])
    from arviz_stats.base import array_stats  # type: ignore[import-not-found]

    return float(array_stats.psislw(logs)[1])
