r"""A Gaussian in the network's place: the law of the tilt in closed form.

With x ~ N(m, C) and the reward r(x) = a . (x - m), scaled to a' C a = 1, the weight
exp(lambda r) shifts the mean by lambda C a and leaves the covariance, so that r has mean lambda,
variance one, log evidence lambda^2 / 2, and the tilt is lambda^2 / 2 from the prior. No law has a
higher mean reward at the same distance: the frontier is r = sqrt(2 KL).

With the reward -(a . (x - m) - y)^2 / 2 rho^2 at tilt one, an observation y of a . (x - m), the
law is Gaussian, too, and narrower.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.sdxl_latent.methods import Method
from scoreppl.guidance import MomentMatched

SIZE = 16
SCALES = np.geomspace(0.3, 1.2, SIZE)
MEAN = np.linspace(-1.0, 1.0, SIZE)
# Each coordinate has the same share of the reward's variance.
DIRECTION = 1.0 / (SCALES * np.sqrt(SIZE))
TARGET, TOLERANCE = 3.0, 0.5
# A linear reward is an observation from far away: r^2 / 2 FAR^2 is nothing.
FAR = 30.0


class Truth(NamedTuple):
    """Mean and variance of a . (x - m) under the tilt, log evidence, and its distance."""

    mean: float
    variance: float
    log_evidence: float
    divergence: float


def prior() -> sp.analytic.GaussianMixture:
    """Return the Gaussian as a score model."""
    return sp.analytic.GaussianMixture(jnp.asarray(MEAN)[None], scales=jnp.asarray(SCALES)[None])


def linear(prior: Any, x: Array) -> Array:
    """Return a . (x - m), of one event or of a batch."""
    return (x - jnp.asarray(MEAN, x.dtype)) @ jnp.asarray(DIRECTION, x.dtype)


def along(events: np.ndarray) -> np.ndarray:
    """Return a . (x - m) of events, shape ``(n, SIZE)``."""
    return (events - MEAN) @ DIRECTION


def quadratic(prior: Any, x: Array) -> Array:
    """Return minus the squared distance of a . (x - m) from its target."""
    return -0.5 * ((linear(prior, x) - TARGET) / TOLERANCE) ** 2


def linear_truth(tilt: float) -> Truth:
    """Return what the weight exp(tilt * linear) makes of the prior."""
    return Truth(tilt, 1.0, tilt**2 / 2, tilt**2 / 2)


def quadratic_truth() -> Truth:
    """Return what the weight exp(quadratic) makes of the prior."""
    noise = TOLERANCE**2
    mean, variance = TARGET / (1 + noise), noise / (1 + noise)
    log_evidence = 0.5 * np.log(variance) - 0.5 * TARGET**2 / (1 + noise)
    divergence = 0.5 * (variance + mean**2 - 1 - np.log(variance))
    return Truth(mean, variance, log_evidence, divergence)


def moment_matched(is_linear: bool) -> Method:
    """Return the method for an observation of the reward's direction."""

    def make(tilt: Any, ahead: Any) -> MomentMatched:
        seen = FAR**2 * tilt if is_linear else TARGET
        origin = float(DIRECTION @ MEAN)
        return MomentMatched(
            lambda x: jnp.dot(jnp.asarray(DIRECTION, x.dtype), x)[None],
            jnp.asarray(origin + seen)[None],
            FAR if is_linear else TOLERANCE,
            num_iterations=1,
        )

    return Method(make, has_backward=True)


def fitted_divergence(events: np.ndarray) -> float:
    """Return how far the Gaussian with the draws' mean and covariance is from the prior."""
    standard = (events - MEAN) / SCALES
    mean, covariance = standard.mean(0), np.cov(standard.T)
    trace, log_det = np.trace(covariance), np.linalg.slogdet(covariance)[1]
    return float(0.5 * (trace + mean @ mean - SIZE - log_det))


def fitted_bias(count: int) -> float:
    """Return by how much that is too large for independent draws, to first order in 1 / n."""
    return SIZE * (SIZE + 3) / (4 * count)
