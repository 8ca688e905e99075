"""Networks that know a normal law, one for each prediction; shared by the score tests."""

import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl import noise
from scoreppl.score import (
    PREDICTIONS,
    ScoreNetwork,
)

SCHEDULES = {
    "VPLinear": noise.VPLinear(),
    "VPCosine": noise.VPCosine(),
    "VE": noise.VE(0.01, 20.0),
    "EDM": noise.EDM(),
    "FlowMatching": noise.FlowMatching(),
    "DiscreteVP": noise.DiscreteVP.scaled_linear(),
}
EVERY_SCHEDULE = pytest.mark.parametrize(
    "schedule", [pytest.param(schedule, id=name) for name, schedule in SCHEDULES.items()]
)
SIGMA_DATA = 0.8
MEAN = np.array([[0.7, -1.2], [0.1, 2.0]])
SCALE = np.array([[0.5, 1.0], [1.5, 0.2]])
PARAMS = {"mean": jnp.float32(MEAN), "scale": jnp.float32(SCALE)}
EVENT = (2, 2)
X = jnp.array([[0.3, -0.9], [1.4, 1.1]])


# Networks that know the law N(mean, scale^2) of the data, on the linear schedule. Each is written
# from the definition of its prediction and shares no code with the package's conversions.


def _exact(params, x, t):
    alpha, sigma = noise.VPLinear()(t)
    residual = x - alpha * params["mean"]
    variance = alpha**2 * params["scale"] ** 2 + sigma**2
    data = params["mean"] + alpha * params["scale"] ** 2 * residual / variance
    return alpha, sigma, residual, variance, data, sigma * residual / variance


def epsilon(params, x, t, condition):
    return _exact(params, x, t)[5]


def v(params, x, t, condition):
    alpha, sigma, _, _, data, eps = _exact(params, x, t)
    return alpha * eps - sigma * data


def x0(params, x, t, condition):
    return _exact(params, x, t)[4]


def score(params, x, t, condition):
    _, _, residual, variance, _, _ = _exact(params, x, t)
    return -residual / variance


def velocity(params, x, t, condition):
    alpha, sigma, _, _, data, eps = _exact(params, x, t)
    beta = 0.1 + 19.9 * t  # d alpha / dt = -beta alpha / 2, d sigma / dt = beta alpha^2 / (2 sigma)
    return beta / 2 * (alpha**2 / sigma * eps - alpha * data)


def edm(params, x, t, condition):
    alpha, sigma, _, _, data, _ = _exact(params, x, t)
    ratio = sigma / alpha
    skip = SIGMA_DATA**2 / (ratio**2 + SIGMA_DATA**2)
    return (data - skip * x / alpha) * jnp.sqrt(ratio**2 + SIGMA_DATA**2) / (ratio * SIGMA_DATA)


def energy(params, x, t, condition):
    _, _, residual, variance, _, _ = _exact(params, x, t)
    return -0.5 * jnp.sum(residual**2 / variance)


NETWORKS = {f.__name__: f for f in (epsilon, v, x0, score, velocity, edm, energy)}
EVERY_PREDICTION = pytest.mark.parametrize("prediction", PREDICTIONS)


def network(prediction, **changes):
    arguments = {
        "noise": noise.VPLinear(),
        "prediction": prediction,
        "event_shape": EVENT,
        "sigma_data": SIGMA_DATA,
    }
    return ScoreNetwork(NETWORKS[prediction], PARAMS, **(arguments | changes))


def reference(t):
    """Score and denoiser in float64."""
    integral = 0.1 * t + 19.9 * t**2 / 2
    alpha, variance = np.exp(-integral / 2), -np.expm1(-integral)
    residual = np.asarray(X, np.float64) - alpha * MEAN
    total = alpha**2 * SCALE**2 + variance
    return -residual / total, MEAN + alpha * SCALE**2 * residual / total, alpha, variance
