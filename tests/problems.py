"""Small posteriors whose right answers are known, shared by the tests of every sampler.

Each problem is a Gaussian mixture prior p (unequal weights, anisotropic components) and a log
weight log w; the target is w(x) p(x) / Z. The answers are computed in float64 by numpy alone and
share no code with the package they judge: in closed form for linear observations, otherwise by
importance sampling from two million exact prior draws (seconds per problem, kept once computed).

- lg2, lg8, lg30: 1, 3 and 6 linear observations in 2, 8 and 30 dimensions, noise 0.3;
- pois8: five Poisson counts of rates exp(1.5 + b.x) in 8 dimensions;
- logit8: twelve outcomes of +1 or -1 with log odds b.x in 8 dimensions.
"""

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import expit

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import Schedule, VPLinear

NAMES = ("lg2", "lg8", "lg30", "pois8", "logit8")
LINEAR_NOISE = 0.3
POISSON_OFFSET = 1.5
TRUTH_DRAWS = 20_000
TRUTH_SEED = 77
PRIOR_DRAWS = 2_000_000


class Components(NamedTuple):
    """Parameters of a mixture: weights (K,), means (K, d), covariances (K, d, d)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


class Observed(NamedTuple):
    """Rows (m, d) of a linear map and the m values seen through them."""

    rows: np.ndarray
    values: np.ndarray


class Problem(NamedTuple):
    """A prior and the log weight of one event, in JAX."""

    name: str
    prior: GaussianMixture
    log_weight: Callable[[Array], Array]
    observed: Observed


class Truth(NamedTuple):
    """Right answers: exact where `effective_draws` is infinite (`draws` are then independent).

    `log_evidence` is log Z = log E_p[w], of standard error about ``effective_draws**-0.5``;
    `mode_masses` (K,) are the posterior probabilities of the prior's components.
    """

    draws: np.ndarray
    log_evidence: float
    mode_masses: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    effective_draws: float


def prior(dimension: int, noise: Schedule = VPLinear()) -> GaussianMixture:
    """Return the prior of dimension 2, 8 or 30 as a score model."""
    weights, means, covariances = components(dimension)
    return GaussianMixture(means, covariances, weights, noise)


def problem(name: str, noise: Schedule = VPLinear()) -> Problem:
    """Return the problem called `name`, its prior under the schedule `noise`."""
    seen = observed(name)
    log_weight = partial(_log_weight, name, seen, jnp)
    return Problem(name, prior(seen.rows.shape[1], noise), log_weight, seen)


@cache
def truth(name: str) -> Truth:
    """Return the right answers of the problem called `name`."""
    return _linear_truth(name) if name.startswith("lg") else _importance_truth(name)


@cache
def components(dimension: int) -> Components:
    """Return the prior's parameters: 5, 6 or 8 components in dimension 2, 8 or 30."""
    count = {2: 5, 8: 6, 30: 8}[dimension]
    rng = np.random.default_rng(1000 + dimension)
    weights = 0.65 ** np.arange(count)
    means = 1.5 * rng.standard_normal((count, dimension))
    covariances = np.empty((count, dimension, dimension))
    for covariance in covariances:
        axes = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
        variances = np.exp(rng.uniform(np.log(0.03), np.log(0.4), dimension))
        covariance[:] = (axes * variances) @ axes.T
    return Components(weights / weights.sum(), means, covariances)


@cache
def observed(name: str) -> Observed:
    """Return the linear map and the data of the problem called `name`."""
    dimension, num_rows, row_scale, seed = {
        "lg2": (2, 1, 1.0, 11),
        "lg8": (8, 3, 1.0, 11),
        "lg30": (30, 6, 1.0, 11),
        "pois8": (8, 5, 0.8, 13),
        "logit8": (8, 12, 1.2, 12),
    }[name]
    rng = np.random.default_rng(seed)
    rows = row_scale * rng.standard_normal((num_rows, dimension)) / np.sqrt(dimension)
    means = components(dimension).means
    if name == "pois8":
        return Observed(rows, rng.poisson(np.exp(POISSON_OFFSET + rows @ means[1])).astype(float))
    if name == "logit8":
        return Observed(rows, np.where(rng.random(num_rows) < expit(rows @ means[1]), 1.0, -1.0))
    # Between two components, so that both explain the data.
    return Observed(rows, rows @ (0.6 * means[0] + 0.4 * means[2]))


def log_weights(name: str, x: np.ndarray) -> np.ndarray:
    """Log weights (n,) of events (n, d) under the problem called `name`, by numpy."""
    return _log_weight(name, observed(name), np, x)


def _log_weight(name: str, seen: Observed, numpy: ModuleType, x: Any) -> Any:
    """Log weight of events (..., d), by numpy or by jax.numpy; it is 0 for a perfect fit."""
    predicted = x @ numpy.asarray(seen.rows).T
    if name == "pois8":
        counts = seen.values
        log_rates = numpy.minimum(POISSON_OFFSET + predicted, 30.0)
        best = counts * numpy.log(numpy.maximum(counts, 1.0)) - counts
        return (counts * log_rates - numpy.exp(log_rates) - best).sum(-1)
    if name == "logit8":
        return -numpy.logaddexp(0.0, -seen.values * predicted).sum(-1)
    return -0.5 * ((predicted - seen.values) ** 2).sum(-1) / LINEAR_NOISE**2


def _linear_truth(name: str) -> Truth:
    rows, values = observed(name)
    weights, means, covariances = components(rows.shape[1])
    innovation = values - means @ rows.T
    spread = rows @ covariances @ rows.T + LINEAR_NOISE**2 * np.eye(len(values))
    gain = covariances @ rows.T @ np.linalg.inv(spread)
    distance = np.einsum("ki,kij,kj->k", innovation, np.linalg.inv(spread), innovation)
    log_volume = np.linalg.slogdet(spread)[1] - 2 * len(values) * np.log(LINEAR_NOISE)
    log_masses = np.log(weights) - 0.5 * (distance + log_volume)
    log_evidence = float(np.logaddexp.reduce(log_masses))
    posterior = Components(
        np.exp(log_masses - log_evidence),
        means + np.einsum("kij,kj->ki", gain, innovation),
        covariances - gain @ rows @ covariances,
    )
    mean = posterior.weights @ posterior.means
    deviations = posterior.means - mean
    covariance = np.einsum("k,kij->ij", posterior.weights, posterior.covariances)
    covariance += (deviations.T * posterior.weights) @ deviations
    draws = draw(posterior, TRUTH_DRAWS, TRUTH_SEED)
    return Truth(draws, log_evidence, posterior.weights, mean, covariance, np.inf)


def _importance_truth(name: str) -> Truth:
    seen = observed(name)
    mixture = components(seen.rows.shape[1])
    draws = draw(mixture, PRIOR_DRAWS, TRUTH_SEED + 1)
    log_weights = _log_weight(name, seen, np, draws)
    log_total = float(np.logaddexp.reduce(log_weights))
    weights = np.exp(log_weights - log_total)
    mean = weights @ draws
    covariance = (draws.T * weights) @ draws - np.outer(mean, mean)
    kept = weights > 1e-8 * weights.max()
    mode_masses = weights[kept] @ responsibilities(mixture, draws[kept])
    chosen = np.random.default_rng(TRUTH_SEED).choice(len(draws), TRUTH_DRAWS, p=weights)
    return Truth(
        draws[chosen],
        log_total - float(np.log(len(draws))),
        mode_masses / weights[kept].sum(),
        mean,
        covariance,
        float(1 / (weights**2).sum()),
    )


def draw(mixture: Components, count: int, seed: int) -> np.ndarray:
    """Return exact draws (count, d)."""
    rng = np.random.default_rng(seed)
    weights, means, covariances = mixture
    chosen = rng.choice(len(weights), count, p=weights)
    draws = rng.standard_normal((count, means.shape[1]))
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        variances, axes = np.linalg.eigh(covariance)
        mine = chosen == k
        draws[mine] = mean + (draws[mine] * np.sqrt(np.maximum(variances, 0))) @ axes.T
    return draws


def responsibilities(mixture: Components, x: np.ndarray) -> np.ndarray:
    """Return the components' probabilities given events (n, d), shape (n, K)."""
    logits = _log_joint(mixture, x)
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def log_density(mixture: Components, x: np.ndarray) -> np.ndarray:
    """Return the log density of events (n, d), shape (n,)."""
    constant = 0.5 * x.shape[1] * np.log(2 * np.pi)
    return np.logaddexp.reduce(_log_joint(mixture, x), axis=1) - constant


def _log_joint(mixture: Components, x: np.ndarray) -> np.ndarray:
    logits = np.empty((len(x), len(mixture.weights)))
    for k, (weight, mean, covariance) in enumerate(zip(*mixture, strict=True)):
        whitened = (x - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
        log_volume = 0.5 * np.linalg.slogdet(covariance)[1]
        logits[:, k] = np.log(weight) - 0.5 * (whitened**2).sum(1) - log_volume
    return logits
