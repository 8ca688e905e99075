"""Skewed mixtures of every kind, and `reference`: the same stated as dense float64 arrays.

Comparisons with the reference share neither formulas nor precision with the package.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2, multivariate_normal

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import Schedule, VPLinear

WEIGHTS = np.array([0.6, 0.3, 0.1])
EVENTS = {"full": (3,), "diagonal": (3,), "image": (3, 2), "diagonal_image": (3, 2), "scalar": ()}


class Reference(NamedTuple):
    """Dense float64 parameters of the law of x_t, flattened: (K,), (K, d), (K, d, d)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def component_log_probs(self, x):
        pairs = zip(self.means, self.covariances, strict=True)
        densities = [multivariate_normal(mean, cov).logpdf(np.ravel(x)) for mean, cov in pairs]
        return np.log(self.weights) + np.array(densities)

    def moments(self):
        mean = self.weights @ self.means
        deviations = self.means - mean
        within = np.einsum("k,kij->ij", self.weights, self.covariances)
        return mean, within + (deviations.T * self.weights) @ deviations


@cache
def parameters(kind):
    """Skewed, unequal, anisotropic: means, covariances, and the constructor's arguments."""
    event = EVENTS[kind]
    size = int(np.prod(event))
    rng = np.random.default_rng(5)
    means = 1.5 * rng.standard_normal((3, size))
    scales = np.exp(rng.uniform(np.log(0.15), np.log(0.9), (3, size)))
    shaped = means.reshape(3, *event)
    if kind in ("diagonal", "diagonal_image", "scalar"):
        covariances = np.stack([np.diag(row**2) for row in scales])
        arguments = {"means": shaped, "scales": scales.reshape(3, *event)}
    else:
        axes = np.linalg.qr(rng.standard_normal((3, size, size)))[0]
        covariances = np.einsum("kis,ks,kjs->kij", axes, scales**2, axes)
        covariances = (covariances + covariances.transpose(0, 2, 1)) / 2
        arguments = {"means": shaped, "covariances": covariances}
    return means, covariances, arguments


def mixture(kind: str, noise: Schedule = VPLinear()):
    return GaussianMixture(**parameters(kind)[2], weights=WEIGHTS, noise=noise)


def reference(kind: str, noise: Schedule = VPLinear(), t: float | None = None):
    means, covariances, _ = parameters(kind)
    alpha, sigma = (1.0, 0.0) if t is None else map(float, noise(t))
    eye = np.eye(means.shape[1])
    return Reference(WEIGHTS, alpha * means, alpha**2 * covariances + sigma**2 * eye)


def chi_square_p_value(deviations):
    """P-value of "the expectation of every column is zero"."""
    mean, spread = deviations.mean(0), np.atleast_2d(np.cov(deviations.T))
    return chi2.sf(len(deviations) * mean @ np.linalg.solve(spread, mean), len(mean))
