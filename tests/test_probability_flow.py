"""The probability-flow density against the closed form, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import EDM, VPCosine, VPLinear
from scoreppl.probability_flow import log_density

MEANS = jnp.array([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]])
COVARIANCES = jnp.array(
    [[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.4]], [[0.1, 0.0], [0.0, 0.5]]]
)


def mixture(noise):
    return GaussianMixture(MEANS, COVARIANCES, [0.5, 0.3, 0.2], noise)


@pytest.mark.parametrize("noise", [VPLinear(), VPCosine(), EDM()], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("t", [0.02, 0.3, 0.6])
def test_matches_the_density_of_a_mixture(noise, t):
    model = mixture(noise)
    x = model.sample_exact(random.key(0), (20,), t)
    found = jax.vmap(lambda x: log_density(model, x, t))(x)
    exact = jax.vmap(lambda x: model.log_prob(x, t))(x)
    # The Gaussian end neglects the data: |u| |mean| / s_1^2 is about 4 * 2 / 80 at most under EDM
    # (s_1 = 80), 4 * 2 / 148 otherwise; the data's variance over s_1^2 is smaller still.
    np.testing.assert_allclose(found, exact, atol=0.1 if isinstance(noise, EDM) else 0.05)
    # The offset of the end law is nearly common to all points; what is left is the path.
    assert np.std(found - exact) < 0.04


def test_default_time_is_the_lowest():
    model = mixture(VPLinear())
    x = jnp.array([1.2, 0.1])
    np.testing.assert_allclose(log_density(model, x), model.log_prob(x), atol=0.05)


def test_one_normal_is_matched_to_quadrature_error():
    # Centred, with s_1 = exp(10): the Gaussian end is exact to exp(-20), so only the Runge-Kutta
    # error is left, far below 1e-3 at 200 steps of 0.07, and float32 sums of 200 terms near 1.
    model = GaussianMixture(jnp.zeros((1, 3)), scales=0.7, noise=VPCosine(-14.0, 14.0))
    x = jnp.array([0.3, -1.0, 0.5])
    for t in (0.1, 0.5, 0.9):
        found = log_density(model, x, t, num_steps=200)
        np.testing.assert_allclose(found, model.log_prob(x, t), atol=1e-3)


def test_scalar_event_and_autodiff():
    model = GaussianMixture(jnp.array([-1.0, 1.0]), scales=0.5)
    density = jax.jit(lambda x: log_density(model, x, 0.3))
    np.testing.assert_allclose(density(0.4), model.log_prob(0.4, 0.3), atol=0.05)
    np.testing.assert_allclose(jax.grad(density)(0.4), model.score(0.4, 0.3), atol=0.05)


def test_bad_number_of_steps():
    with pytest.raises(ValueError, match="`num_steps=0`"):
        log_density(mixture(VPLinear()), jnp.zeros(2), 0.5, num_steps=0)
