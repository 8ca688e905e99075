"""Small posteriors given by a curve or a surface, with known right answers: thin or rare events.

The priors are those of `tests.problems`, and so are the rules: answers in float64 by numpy alone,
in closed form for the half-space and otherwise by importance sampling. Draws of events in the
prior's tail come from wider components, so that thousands of them count.

- heart2: a band about a heart-shaped curve in 2 dimensions: smooth, thin, not log-concave;
- hind2: the inside of a small heart, an indicator of probability 0.002;
- half8: a half-space of probability 1e-6 in 8 dimensions;
- shell8: the outside of a ball in 8 dimensions, of probability 1e-4: rare and not convex.
"""

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import truncnorm

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import Schedule, VPLinear
from tests.problems import (
    PRIOR_DRAWS,
    TRUTH_DRAWS,
    TRUTH_SEED,
    Components,
    Truth,
    components,
    draw,
    log_density,
    prior,
    responsibilities,
)

DIMENSIONS = {"heart2": 2, "hind2": 2, "half8": 8, "shell8": 8}
HALF_SPACE_PROBABILITY = 1e-6
SHELL_RADIUS = 7.18
# Factor of the covariances of the components that the importance sampling draws from.
WIDENING = {"half8": 3.0, "shell8": 2.5}


class RareProblem(NamedTuple):
    """A prior and the log weight of one event; g > 0 is the event where the weight is 1[g > 0]."""

    name: str
    prior: GaussianMixture
    log_weight: Callable[[Array], Array]
    limit_state: Callable[[Array], Array] | None


def problem(name: str, noise: Schedule = VPLinear()) -> RareProblem:
    """Return the problem called `name`, its prior under the schedule `noise`."""
    limit_state = None if name == "heart2" else partial(_limit_state, name, jnp)
    log_weight = partial(_log_weight, name, jnp)
    return RareProblem(name, prior(DIMENSIONS[name], noise), log_weight, limit_state)


@cache
def truth(name: str) -> Truth:
    """Return the right answers of the problem called `name`."""
    return _half_space_truth() if name == "half8" else importance_truth(name)


@cache
def half_space() -> tuple[np.ndarray, float]:
    """Return the unit normal and the threshold of half8."""
    weights, means, covariances = components(8)
    normal = np.random.default_rng(14).standard_normal(8)
    normal /= np.linalg.norm(normal)
    sds = np.sqrt(np.einsum("i,kij,j->k", normal, covariances, normal))

    def excess(threshold: float) -> float:
        log_masses = np.log(weights) + log_ndtr((means @ normal - threshold) / sds)
        return float(np.logaddexp.reduce(log_masses) - np.log(HALF_SPACE_PROBABILITY))

    return normal, brentq(excess, 0.0, 20.0, xtol=1e-12)


def _heart(x: Any, size: float) -> Any:
    """Return a polynomial that is zero on a heart, negative inside."""
    across, up = x[..., 0] / size, x[..., 1] / size
    return (across**2 + up**2 - 1.0) ** 3 - across**2 * up**3


def _limit_state(name: str, numpy: ModuleType, x: Any) -> Any:
    if name == "hind2":
        return -numpy.arcsinh(_heart(x, 0.9))
    if name == "half8":
        normal, threshold = half_space()
        return x @ numpy.asarray(normal) - threshold
    return numpy.sqrt((x**2).sum(-1)) - SHELL_RADIUS


def _log_weight(name: str, numpy: ModuleType, x: Any) -> Any:
    if name == "heart2":
        return -0.5 * (1.5 * numpy.arcsinh(_heart(x, 1.6) / 0.1)) ** 2
    return numpy.where(_limit_state(name, numpy, x) > 0, 0.0, -numpy.inf)


def _half_space_truth() -> Truth:
    normal, threshold = half_space()
    weights, means, covariances = components(8)
    along = covariances @ normal
    centres, sds = means @ normal, np.sqrt(along @ normal)
    log_masses = np.log(weights) + log_ndtr((centres - threshold) / sds)
    log_evidence = float(np.logaddexp.reduce(log_masses))
    masses = np.exp(log_masses - log_evidence)
    # A normal given its coordinate along the normal vector, and that coordinate cut off.
    cut = truncnorm((threshold - centres) / sds, np.inf, loc=centres, scale=sds)
    slopes = along / sds[:, None] ** 2
    centred = means + (cut.mean() - centres)[:, None] * slopes
    narrowed = covariances + ((cut.var() - sds**2)[:, None] * slopes)[:, :, None] * slopes[:, None]
    mean = masses @ centred
    deviations = centred - mean
    covariance = np.einsum("k,kij->ij", masses, narrowed) + (deviations.T * masses) @ deviations
    rng = np.random.default_rng(TRUTH_SEED)
    chosen = rng.choice(len(masses), TRUTH_DRAWS, p=masses)
    draws = np.empty((TRUTH_DRAWS, 8))
    for k in np.unique(chosen):
        mine = chosen == k
        start = (threshold - centres[k]) / sds[k]
        tail = truncnorm.rvs(start, np.inf, size=mine.sum(), random_state=rng)
        beyond = centres[k] + sds[k] * tail
        free = rng.multivariate_normal(means[k], covariances[k], mine.sum())
        draws[mine] = free + np.outer(beyond - free @ normal, slopes[k])
    return Truth(draws, log_evidence, masses, mean, covariance, np.inf)


def importance_truth(name: str) -> Truth:
    """Return answers from weighted draws of the prior or of its widened components."""
    weights, means, covariances = components(DIMENSIONS[name])
    mixture = Components(weights, means, covariances)
    wide = Components(weights, means, WIDENING.get(name, 1.0) * covariances)
    proposed = draw(wide, PRIOR_DRAWS, TRUTH_SEED + 1)
    log_weights = _log_weight(name, np, proposed)
    kept = log_weights > log_weights.max() - 20.0
    draws, log_weights = proposed[kept], log_weights[kept]
    if name in WIDENING:
        log_weights = log_weights + log_density(mixture, draws) - log_density(wide, draws)
    log_total = float(np.logaddexp.reduce(log_weights))
    shares = np.exp(log_weights - log_total)
    mean = shares @ draws
    covariance = (draws.T * shares) @ draws - np.outer(mean, mean)
    chosen = np.random.default_rng(TRUTH_SEED).choice(len(draws), TRUTH_DRAWS, p=shares)
    return Truth(
        draws[chosen],
        log_total - float(np.log(PRIOR_DRAWS)),
        shares @ responsibilities(mixture, draws),
        mean,
        covariance,
        float(1 / (shares**2).sum()),
    )
