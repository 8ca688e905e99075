"""ScorePrior: the opt-in density and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.infer.util import log_density

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VPLinear
from scoreppl.ppl.prior import ScorePrior
from scoreppl.score import ScoreNetwork
from tests.ppl.test_prior import plated_model, run_nuts

MIXTURE = GaussianMixture(
    jnp.array([[2.0, 0.0, 0.5], [-2.0, 1.0, 0.0]]), scales=0.5, weights=[0.7, 0.3]
)
NORMAL = GaussianMixture(jnp.zeros((1, 1)), scales=1.0)


# The opt-in density.


def test_ode_density():
    prior = ScorePrior(MIXTURE, noise_level=0.3, log_prob="ode")
    alpha, _ = MIXTURE.noise(0.3)
    u = prior.sample(random.key(0), (4, 2))
    expected = jax.vmap(jax.vmap(lambda u: MIXTURE.log_prob(alpha * u, 0.3)))(u)
    expected += 3 * jnp.log(alpha)
    # Tolerance: the Gaussian end of the path, see tests/test_probability_flow.py.
    np.testing.assert_allclose(prior.expand((2,)).log_prob(u), expected, atol=0.05)
    summed = prior.expand((2,)).to_event(1).log_prob(u)
    np.testing.assert_allclose(summed, expected.sum(-1), atol=0.1)
    assert prior.expand((2,)).log_prob(u[0, 0]).shape == (2,)


def test_ode_density_in_a_model():
    def model():
        numpyro.sample("x", ScorePrior(NORMAL, log_prob="ode"))

    found, gradient = jax.value_and_grad(lambda x: log_density(model, (), {}, {"x": x})[0])(
        jnp.array([0.8])
    )
    np.testing.assert_allclose(found, dist.Normal().log_prob(0.8), atol=1e-2)
    np.testing.assert_allclose(gradient, -0.8, atol=1e-2)


# Bad input.


def test_masked_priors_can_be_drawn_but_have_no_density():
    prior = ScorePrior(MIXTURE, num_steps=2)
    assert prior.mask(True) is prior
    masked = prior.mask(False)
    assert masked.sample(random.key(0)).shape == (3,)
    for method in (None, "ode"):
        with pytest.raises(ValueError, match="masked ScorePrior.*Move the mask"):
            ScorePrior(MIXTURE, log_prob=method).expand((2,)).mask(jnp.array([True, False])).expand(
                (3, 2)
            ).log_prob(jnp.zeros((2, 3)))

    def model():
        with handlers.mask(mask=False):
            numpyro.sample("x", prior)

    with pytest.raises(ValueError, match="Site 'x' is a masked ScorePrior"):
        run_nuts(model)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`score_model` of type function lacks noise, event_shape"):
        ScorePrior(lambda x, t: -x)
    with pytest.raises(ValueError, match="`log_prob='exact'` is not known; use None or 'ode'"):
        ScorePrior(MIXTURE, log_prob="exact")
    with pytest.raises(ValueError, match="`num_steps=0` must be at least 1"):
        ScorePrior(MIXTURE, num_steps=0)
    for level in (-0.1, 1.0, 2.0, float("nan")):
        with pytest.raises(ValueError, match="`noise_level=.*must be at least 0"):
            ScorePrior(MIXTURE, noise_level=level)
    network = ScoreNetwork(
        lambda params, x, t, c: -x, (), noise=VPLinear(), prediction="score", event_shape=()
    )
    with pytest.raises(ValueError, match="`noise_level=0.001` must be at least 0.0"):
        ScorePrior(network, noise_level=0.001)
    prior = ScorePrior(MIXTURE, batch_shape=(2,))
    with pytest.raises(ValueError, match=r"`batch_shape=\(3,\)` does not extend \(2,\)"):
        prior.expand((3,))
    with pytest.raises(ValueError, match=r"`batch_shape=\(\)` does not extend \(2,\)"):
        prior.expand(())
    with pytest.raises(ValueError, match="`reinterpreted_batch_ndims=2` must lie between 0"):
        prior.to_event(2)
    with pytest.raises(ValueError, match="`key` is missing; seed the model"):
        prior.sample(None)
    with pytest.raises(ValueError, match="`key` is missing; seed the model"):
        handlers.trace(plated_model).get_trace()
