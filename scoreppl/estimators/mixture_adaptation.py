r"""Adaptation of a mixture to several expectations: Gaussians for each, and the shares.

Gaussians are fitted by weighted moments and expectation maximisation (Cappe et al.,
arXiv:0710.4242) to weights that are tempered until enough draws count.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import root_scalar

from scoreppl.estimators.mixture_proposal import MixtureProposal, gaussian_log_density, log_mixture

_EM_STEPS = 10
# Alternations between mixture shares and coefficients of the control variates.
_ALTERNATIONS, _SHARE_STEPS = 6, 5
# Singular values of control variates below this share of the largest are taken as zero.
CUTOFF = 1e-9


class Sample(NamedTuple):
    """Points of one law: where, of which component, log p, and all functions' values."""

    points: np.ndarray
    component: np.ndarray
    log_density: np.ndarray
    values: np.ndarray


class Pool(NamedTuple):
    r"""All points so far as draws of one law h: the terms are phi_j p / h.

    `importance` holds the weights 1 / (E_p\|phi_j\|)^2 of the variances.
    """

    points: np.ndarray
    log_density: np.ndarray
    log_drawn: np.ndarray
    values: np.ndarray
    terms: np.ndarray
    importance: np.ndarray


def pool_of(samples: list[Sample], proposals: list[MixtureProposal]) -> Pool:
    """Take all draws as draws of the mixture of the laws that they come from."""
    points = np.concatenate([sample.points for sample in samples])
    logs = np.concatenate([sample.log_density for sample in samples])
    values = np.concatenate([sample.values for sample in samples])
    each = np.stack([proposal.log_density(points, logs) for proposal in proposals], -1)
    # Batches are of one size.
    log_drawn = log_mixture(each, np.full(len(samples), 1 / len(samples)))
    terms = values * np.exp(logs - log_drawn)[:, None]
    scale = np.mean(np.abs(terms), 0)
    importance = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0) ** 2, 0.0)
    return Pool(points, logs, log_drawn, values, terms, importance)


def adapted(
    rng: np.random.Generator, pool: Pool, parts: int, least_reference: float
) -> MixtureProposal:
    """Return the mixture fitted to all draws so far."""
    size = pool.points.shape[1]
    log_weight = pool.log_density - pool.log_drawn
    _, prior = moments(pool.points, np.exp(log_weight), np.eye(size))
    fitted: list[tuple[np.ndarray, np.ndarray]] = []
    for signed in (pool.values, -pool.values):
        for column in signed.T:
            with np.errstate(divide="ignore"):
                log_part = np.log(np.maximum(column, 0.0)) + log_weight
            fitted += fit_gaussians(rng, pool.points, log_part, prior, parts)
    mixture = MixtureProposal(
        np.ones(len(fitted) + 1),
        np.array([mean for mean, _ in fitted]).reshape(-1, size),
        np.array([factor for _, factor in fitted]).reshape(-1, size, size),
    )
    share = best_share(_ratio(pool, mixture), pool.terms, pool.importance, least_reference)
    return replace(mixture, share=share)


def _ratio(pool: Pool, proposal: MixtureProposal) -> np.ndarray:
    logs = proposal.log_components(pool.points, pool.log_density)
    return np.exp(logs - pool.log_drawn[:, None])


def total_variance(pool: Pool, proposal: MixtureProposal) -> float:
    """Return the weighted sum of the variances that a draw of the proposal would have."""
    ratio = _ratio(pool, proposal)
    root = np.sqrt(ratio @ proposal.share)[:, None]
    root[root == 0] = np.inf  # where the proposal never draws, p is zero, too
    beta = np.linalg.lstsq(ratio / root, pool.terms / root, rcond=CUTOFF)[0]
    left = ((pool.terms - ratio @ beta) / root) ** 2 @ pool.importance
    count, fitted = ratio.shape
    return float(left.sum() / max(count - fitted, 1))


def tempered(log_weight: np.ndarray, least_ess: float) -> np.ndarray | None:
    """Return normalised weights^gamma with the largest gamma <= 1 of enough effective draws.

    None if fewer than `least_ess` weights are positive.
    """
    positive = log_weight > -np.inf
    if np.count_nonzero(positive) < least_ess:
        return None
    logs = log_weight[positive] - log_weight.max()

    def excess(gamma: float) -> float:
        weight = np.exp(gamma * logs)
        return float(weight.sum() ** 2 / np.sum(weight**2)) - least_ess

    gamma = 1.0 if excess(1.0) >= 0 else root_scalar(excess, bracket=(0.0, 1.0)).root
    weight = np.zeros(len(log_weight))
    weight[positive] = np.exp(gamma * logs)
    return weight / weight.sum()


def moments(points: np.ndarray, weight: np.ndarray, prior: np.ndarray) -> tuple:
    """Return weighted mean and covariance, the latter with size + 1 pseudo-draws of `prior`."""
    total = weight.sum()
    mean = weight @ points / total
    away = points - mean
    spread = (weight[:, None] * away).T @ away / total
    ess, pseudo = total**2 / np.sum(weight**2), points.shape[1] + 1
    return mean, (ess * spread + pseudo * prior) / (ess + pseudo)


def fit_gaussians(
    rng: np.random.Generator,
    points: np.ndarray,
    log_weight: np.ndarray,
    prior: np.ndarray,
    num_components: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fit Gaussians to weighted points by expectation maximisation.

    Parameters
    ----------
    rng
        Chooses the starting centres.
    points, log_weight
        Points, shape ``(n, size)``, and their log weights, which are tempered until enough count.
    prior
        Covariance towards which the fitted ones are drawn, shape ``(size, size)``.
    num_components
        How many Gaussians.

    Returns
    -------
    list of tuple
        Means and Cholesky factors; empty if too few weights are positive.
    """
    size = points.shape[1]
    weight = tempered(log_weight, max(20, 4 * size) * num_components)
    if weight is None:
        return []
    mean, overall = moments(points, weight, prior)
    fitted = [(mean, np.linalg.cholesky(overall))]
    if num_components > 1:
        centres = rng.choice(len(points), num_components, replace=False, p=weight)
        fitted = [(points[centre], fitted[0][1]) for centre in centres]
        log_share = np.full(num_components, -np.log(num_components))
        for _ in range(_EM_STEPS):
            logs = log_share + np.stack([gaussian_log_density(points, *g) for g in fitted], -1)
            whole = log_mixture(logs, np.ones(num_components))
            belongs = weight[:, None] * np.exp(logs - whole[:, None])
            # A Gaussian that owns nothing becomes the whole.
            belongs += 1e-6 * weight[:, None]
            log_share = np.log(belongs.sum(0) / belongs.sum())
            fits = [moments(points, column, overall) for column in belongs.T]
            fitted = [(mean, np.linalg.cholesky(covariance)) for mean, covariance in fits]
    return fitted


def best_share(
    ratio: np.ndarray, terms: np.ndarray, importance: np.ndarray, least_reference: float
) -> np.ndarray:
    r"""Return the shares that minimise the weighted sum of variances with control variates.

    With draws of a law h, component ratios :math:`r_k = q_k / h` and terms
    :math:`t_j = \phi_j p / h` it minimises the mean of
    :math:`\sum_j w_j (t_j - \beta_j \cdot r)^2 / (\alpha \cdot r)` over shares
    :math:`\alpha` and coefficients :math:`\beta`, which is convex (He and Owen, arXiv:1411.3954),
    by alternating least squares and multiplicative steps.

    Parameters
    ----------
    ratio, terms
        Shapes ``(n, K)`` and ``(n, J)``.
    importance
        The weights w, shape ``(J,)``.
    least_reference
        Least share of the first component.
    """
    share = np.full(ratio.shape[1], 1 / ratio.shape[1])
    share = np.append(least_reference, share[1:] / share[1:].sum() * (1 - least_reference))
    for _ in range(_ALTERNATIONS):
        root = np.sqrt(ratio @ share)[:, None]
        beta = np.linalg.lstsq(ratio / root, terms / root, rcond=CUTOFF)[0]
        left = (terms - ratio @ beta) ** 2 @ importance
        for _ in range(_SHARE_STEPS):
            gain = np.sqrt(np.mean(left[:, None] * ratio / (ratio @ share)[:, None] ** 2, 0))
            if not np.any(gain * share > 0):
                break
            share = share * gain / np.sum(share * gain)
            if share[0] < least_reference:
                rest = share[1:] / share[1:].sum()
                share = np.append(least_reference, (1 - least_reference) * rest)
    return share
