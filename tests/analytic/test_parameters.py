"""What the constructor accepts, refuses, and turns into NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl.analytic import GaussianMixture
from tests.analytic.mixtures import EVENTS, WEIGHTS, mixture, parameters

EYES = np.stack([np.eye(2)] * 3)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 2)])
def test_scales_broadcast(shape):
    means, scales = np.arange(12.0).reshape(2, 3, 2), 0.5 + np.arange(np.prod(shape)).reshape(shape)
    model = GaussianMixture(means, scales=scales)
    padded = scales.reshape(shape + (1,) * (3 - len(shape)))
    np.testing.assert_allclose(model.scales, np.broadcast_to(padded, (2, 3, 2)))
    np.testing.assert_allclose(model.weights, [0.5, 0.5])


@pytest.mark.parametrize("kind", ["diagonal", "full", "scalar"])
def test_can_be_built_from_traced_parameters(kind):
    arguments = {**parameters(kind)[2], "weights": WEIGHTS}
    x = jnp.full(EVENTS[kind], 0.3)

    def log_prob(arguments):
        return GaussianMixture(**arguments).log_prob(x, 0.1)

    np.testing.assert_allclose(
        jax.jit(log_prob)(arguments), mixture(kind).log_prob(x, 0.1), rtol=1e-5
    )
    for bad in ({"weights": 1.1 * WEIGHTS}, {"weights": WEIGHTS - 0.2}, *_bad_spreads(kind)):
        assert np.isnan(jax.jit(log_prob)({**arguments, **bad}))


def _bad_spreads(kind):
    if kind != "full":
        return [{"scales": -np.ones((3, *EVENTS[kind]))}]
    identities = np.stack([np.eye(3)] * 3)
    return [{"covariances": -identities}, {"covariances": identities + np.eye(3, k=1)}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": np.zeros((3, 2))}, "exactly one of `covariances`"),
        ({"means": np.zeros((3, 2)), "covariances": EYES, "scales": 1.0}, "exactly one of"),
        ({"means": 1.0, "scales": 1.0}, "`means` has shape"),
        ({"means": np.zeros((0, 2)), "scales": 1.0}, "`means` has shape"),
        ({"means": [[np.nan, 0.0]], "scales": 1.0}, "`means` holds NaN"),
        ({"means": np.zeros((3, 2)), "scales": np.ones((3, 3))}, "`scales` has shape"),
        ({"means": np.zeros((3, 2)), "scales": np.ones(2)}, "`scales` has shape"),
        ({"means": np.zeros((3, 2)), "scales": 0.0}, "`scales` are standard deviations"),
        ({"means": np.zeros((3, 2)), "scales": [1.0, np.nan, 1.0]}, "`scales` are standard"),
        ({"means": np.zeros((3, 2)), "scales": np.inf}, "`scales` are standard deviations"),
        ({"means": np.zeros((3, 2)), "covariances": np.eye(2)}, "`covariances` has shape"),
        ({"means": np.zeros((3, 4)), "covariances": EYES}, "`covariances` has shape"),
        ({"means": np.zeros((3, 2)), "covariances": np.nan * EYES}, "`covariances` hold NaN"),
        ({"means": np.zeros((3, 2)), "covariances": EYES + [[0, 1], [0, 0]]}, "not symmetric"),
        ({"means": np.zeros((3, 2)), "covariances": -EYES}, "positive definite"),
        (
            {"means": np.zeros((3, 2)), "covariances": np.full((3, 2, 2), 0.1, np.float32)},
            "positive definite",
        ),
    ],
)
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**arguments)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.5], "`weights` has shape"),
        ([0.5, 0.5, 0.1], "`weights` sum to 1.1"),
        ([0.5, 0.4999, 0.0], "`weights` must all be positive"),
        ([1.5, -0.25, -0.25], "`weights` must all be positive"),
        ([0.5, 0.5, np.nan], "`weights` must all be positive"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(np.zeros((3, 2)), EYES, weights)


def test_weights_within_tolerance_are_normalised():
    model = GaussianMixture(np.zeros((2, 1)), scales=1.0, weights=np.array([0.3, 0.700005]))
    assert float(model.weights.sum()) == pytest.approx(1.0, abs=2e-7)
