r"""Mixtures of a reference law and Gaussians, as proposals for several expectations at once.

The components are one reference p, whose density is given point by point, and Gaussians fitted by
weighted moments (Cappe et al., arXiv:0710.4242). All computations are in double precision on the
host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.linalg import solve_triangular
from scipy.optimize import brentq
from scipy.special import logsumexp

# A stratum has whole folds of draws, see `multi_expectation`.
FOLDS = 4
_LEAST_DRAWS = 2 * FOLDS
_EM_STEPS = 10
# Alternations between mixture shares and coefficients of the control variates.
_ALTERNATIONS, _SHARE_STEPS = 6, 5
_CUTOFF = 1e-9

Draw = Callable[[Array, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class MixtureProposal:
    """The law sum_k share_k q_k, with q_0 the reference and Gaussians after it.

    Parameters
    ----------
    share
        Shares, which sum to one, shape ``(K + 1,)``, the reference's first.
    mean
        Means of the Gaussians, shape ``(K, size)``.
    scale_tril
        Cholesky factors of their covariances, shape ``(K, size, size)``.
    """

    share: np.ndarray
    mean: np.ndarray
    scale_tril: np.ndarray

    @classmethod
    def of_reference(cls, size: int) -> "MixtureProposal":
        """Return the reference alone."""
        return cls(np.ones(1), np.zeros((0, size)), np.zeros((0, size, size)))

    def log_components(self, points: np.ndarray, log_reference: np.ndarray) -> np.ndarray:
        """Return the components' log densities, shape ``(n, K + 1)``.

        Parameters
        ----------
        points
            Points, shape ``(n, size)``.
        log_reference
            Log density of the reference at them, shape ``(n,)``.
        """
        gaussian = [
            gaussian_log_density(points, mean, factor)
            for mean, factor in zip(self.mean, self.scale_tril, strict=True)
        ]
        return np.stack([log_reference, *gaussian], -1)

    def log_density(self, points: np.ndarray, log_reference: np.ndarray) -> np.ndarray:
        """Return the mixture's log density, shape ``(n,)``; arguments as `log_components`."""
        return logsumexp(self.log_components(points, log_reference), axis=1, b=self.share)

    def kept(self, num_draws: int) -> "MixtureProposal":
        """Drop Gaussians that would get too few of `num_draws`; make the shares those of draws.

        Every component then has a multiple of `FOLDS` draws among `num_draws`, itself one.
        """
        blocks = num_draws // FOLDS
        counts = FOLDS * np.floor(self.share * blocks + 1e-9).astype(int)
        counts[counts < _LEAST_DRAWS] = 0
        counts[0] += num_draws - counts.sum()
        keep = counts[1:] > 0
        share = counts[np.concatenate([[True], keep])] / num_draws
        return MixtureProposal(share, self.mean[keep], self.scale_tril[keep])

    def sample(self, key: Array, num_draws: int, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``share_k * num_draws`` points of each component.

        Parameters
        ----------
        key
            PRNG key.
        num_draws
            How many points in all.
        draw
            Draws a number of points of the reference from a key.

        Returns
        -------
        tuple of numpy.ndarray
            Points, shape ``(num_draws, size)``, and the component of each.
        """
        counts = np.rint(self.share * num_draws).astype(int)
        component = np.repeat(np.arange(len(counts)), counts)
        key_reference, key_gaussian = jax.random.split(key)
        # All of one shape whatever the shares, so that nothing is compiled again.
        points = np.array(draw(key_reference, num_draws), np.float64)
        white = host_generator(key_gaussian).standard_normal(points.shape)
        for index, (mean, factor) in enumerate(zip(self.mean, self.scale_tril, strict=True), 1):
            rows = component == index
            points[rows] = mean + white[rows] @ factor.T
        # As the functions will see them, and therefore the densities, too.
        return np.asarray(jnp.asarray(points), np.float64), component


def host_generator(key: Array) -> np.random.Generator:
    """Return a generator of random numbers on the host, started by a PRNG key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


def standard_normal_points(size: int) -> Draw:
    """Return a function that draws points of N(0, I)."""
    return lambda key, count: host_generator(key).standard_normal((count, size))


def points_of(draw: Callable[[Array], Array]) -> Draw:
    """Return a function that draws many points, given one that draws a single one."""
    return lambda key, count: np.asarray(_draw_many(draw, jax.random.split(key, count)))


@partial(jax.jit, static_argnames="draw")
def _draw_many(draw: Callable[[Array], Array], keys: Array) -> Array:
    return jax.vmap(draw)(keys)


def gaussian_log_density(points: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the log density of a Gaussian with Cholesky factor `factor` at points ``(n, d)``."""
    white = solve_triangular(factor, (points - mean).T, lower=True)
    constant = np.sum(np.log(np.diag(factor))) + 0.5 * len(mean) * np.log(2 * np.pi)
    return -0.5 * np.sum(white**2, 0) - constant


def tempered(log_weight: np.ndarray, least_ess: float) -> np.ndarray | None:
    """Return normalised weights^gamma with the largest gamma <= 1 of enough effective draws.

    None if fewer than `least_ess` weights are positive.
    """
    positive = log_weight > -np.inf
    if np.count_nonzero(positive) < least_ess:
        return None
    logs = log_weight[positive]

    def log_excess(gamma: float) -> float:
        return float(2 * logsumexp(gamma * logs) - logsumexp(2 * gamma * logs) - np.log(least_ess))

    gamma = 1.0 if log_excess(1.0) >= 0 else float(brentq(log_excess, 0.0, 1.0))
    weight = np.zeros(len(log_weight))
    weight[positive] = np.exp(gamma * logs - logsumexp(gamma * logs))
    return weight


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
            belongs = weight[:, None] * np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
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
        beta = np.linalg.lstsq(ratio / root, terms / root, rcond=_CUTOFF)[0]
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
