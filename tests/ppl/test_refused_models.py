"""Models whose weight is refused, each with its remedy."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, conditioned

from scoreppl.analytic import GaussianMixture
from scoreppl.ppl.potential import log_weight, weight_of_model
from scoreppl.ppl.prior import ScorePrior

MIXTURE = GaussianMixture(jnp.array([[2.0, 0.0, 0.5], [-2.0, 1.0, 0.0]]), scales=0.5)
OTHER = GaussianMixture(jnp.zeros((1, 2)), scales=1.0)
A = random.normal(random.key(1), (5, 3))
Y = jnp.arange(5.0)
SEEDS = [0, 1, 2]


# What is refused.


def in_subsampled_plate():
    with numpyro.plate("n", 8, subsample_size=2):
        numpyro.sample("x", ScorePrior(MIXTURE))


def scaled():
    with handlers.scale(scale=0.5):
        numpyro.sample("x", ScorePrior(MIXTURE))


def masked():
    with handlers.mask(mask=False):
        numpyro.sample("x", ScorePrior(MIXTURE))


def masked_by_obs_mask():
    mask = jnp.array([True, False])
    with numpyro.plate("n", 2):
        numpyro.sample("x", ScorePrior(MIXTURE), obs=jnp.zeros((2, 3)), obs_mask=mask)


def wrapped():
    shift = dist.transforms.AffineTransform(1.0, 2.0)
    numpyro.sample("x", dist.TransformedDistribution(ScorePrior(MIXTURE), shift))


def scanned():
    def step(carry, _):
        return carry, numpyro.sample("x", ScorePrior(MIXTURE, num_steps=1))

    scan(step, 0.0, None, length=3)


def moved_prior():
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("x", ScorePrior(GaussianMixture(m[None, None], scales=1.0)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (in_subsampled_plate, "Site 'x' is a ScorePrior in a subsampled plate"),
        (scaled, "Site 'x' is a ScorePrior in a subsampled plate or under handlers.scale"),
        (masked, "Site 'x' is a masked ScorePrior"),
        (masked_by_obs_mask, "Site 'x_observed' is a masked ScorePrior"),
        (wrapped, "Site 'x' wraps a ScorePrior in TransformedDistribution"),
        (scanned, "Site 'x' is a ScorePrior inside a scan"),
        (moved_prior, "score model of site 'x' depends on a latent site"),
        (
            handlers.condition(moved_prior, data={"x": jnp.zeros(1)}),
            "score model of site 'x' depends on a latent site",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_score_sites_without_a_meaning(model, message):
    with pytest.raises(ValueError, match=message):
        log_weight(model)
    with pytest.raises(ValueError, match=message):
        weight_of_model(model, random.split(random.key(0), 2))


def test_a_prior_that_depends_on_a_site_held_by_gibbs():
    kwargs = {GIBBS_SITES_KWARG: {"m": jnp.array(0.3)}}
    with pytest.raises(ValueError, match="score model of site 'x' depends on a latent site"):
        weight_of_model(conditioned(moved_prior), random.key(0), (), kwargs)


def test_a_scale_of_one_and_a_whole_plate_are_fine():
    def model():
        with handlers.scale(scale=1.0), numpyro.plate("n", 2, subsample_size=2):
            numpyro.sample("x", ScorePrior(MIXTURE))

    assert log_weight(model)({"x": jnp.ones((2, 3))}) == 0.0


def subsampled_likelihood(data):
    x = numpyro.sample("x", ScorePrior(MIXTURE))
    with numpyro.plate("rows", data.shape[0], subsample_size=2):
        batch = numpyro.subsample(data, event_dim=0)
        numpyro.sample("y", dist.Normal(x[0], 1.0), obs=batch)


def test_subsampled_likelihood():
    with pytest.raises(ValueError, match="Plate 'rows' subsamples at random"):
        log_weight(subsampled_likelihood, Y)
    fixed = handlers.substitute(subsampled_likelihood, data={"rows": jnp.array([1, 3])})
    found = log_weight(fixed, Y)({"x": jnp.ones(3)})
    expected = 5 / 2 * dist.Normal(1.0, 1.0).log_prob(jnp.array([1.0, 3.0])).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_discrete_and_delta_latents():
    def discrete():
        numpyro.sample("x", ScorePrior(MIXTURE))
        numpyro.sample("c", dist.Bernoulli(0.5))
        numpyro.sample("d", dist.Poisson(1.0), infer={"enumerate": "parallel"})

    with pytest.raises(ValueError, match=r"\['c', 'd'\] are discrete.*DiscreteGibbs.*ScoreMALA"):
        weight_of_model(discrete, random.key(0))

    def delta():
        numpyro.sample("v", dist.Delta(1.0))

    with pytest.raises(ValueError, match="Site 'v' is a latent Delta; use numpyro.deterministic"):
        weight_of_model(delta, random.key(0))
