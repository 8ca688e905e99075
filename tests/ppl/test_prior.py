"""ScorePrior as a NumPyro distribution: its law, its shapes, and what it refuses."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, log_likelihood
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.gibbs import CustomGibbs, DiscreteGibbs, Gibbs
from numpyro.infer.util import log_density
from scipy import stats

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VE, VPLinear
from scoreppl.ppl.prior import ScorePrior
from scoreppl.score import ScoreNetwork

MIXTURE = GaussianMixture(
    jnp.array([[2.0, 0.0, 0.5], [-2.0, 1.0, 0.0]]), scales=0.5, weights=[0.7, 0.3]
)
NORMAL = GaussianMixture(jnp.zeros((1, 1)), scales=1.0)


def observed_model(y=None):
    """A score site, a scale and an observation."""
    x = numpyro.sample("x", ScorePrior(MIXTURE, num_steps=10))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.deterministic("total", x.sum())
    numpyro.sample("y", dist.Normal(x, s).to_event(1), obs=y)


def plated_model():
    with numpyro.plate("n", 4):
        numpyro.sample("images", ScorePrior(MIXTURE, num_steps=2))


def run_nuts(model, *args):
    MCMC(NUTS(model), num_warmup=1, num_samples=1, progress_bar=False).run(random.key(0), *args)


# The law.


def mixture_cdf(points, t, coordinate):
    alpha, sigma = (np.asarray(v, float) for v in MIXTURE.noise(t))
    spread = np.sqrt(0.5**2 + (sigma / alpha) ** 2)
    means = np.asarray(MIXTURE.means[:, coordinate], float)
    return stats.norm.cdf(points[:, None], means, spread) @ np.asarray(MIXTURE.weights, float)


@pytest.mark.parametrize("noise_level", [None, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_draws_have_the_law_of_the_noise_level_in_data_units(noise_level, seed):
    prior = ScorePrior(MIXTURE, noise_level=noise_level, num_steps=200)
    draws = np.asarray(prior.sample(random.key(seed), (4000,)), float)
    for coordinate in range(2):
        found = stats.kstest(
            draws[:, coordinate], lambda v, c=coordinate: mixture_cdf(v, noise_level or 0.0, c)
        )
        # False alarms: 12 tests of level 1e-4. The bias of 200 steps is well below the 0.035 that
        # the test resolves; a level off by 0.1, or no division by alpha, fails.
        assert found.pvalue > 1e-4


def test_the_lowest_level_of_a_network_is_its_min_time():
    network = ScoreNetwork(
        lambda params, x, t, condition: -x * params,
        jnp.ones(()),
        noise=VPLinear(),
        prediction="score",
        event_shape=(2,),
    )
    prior = ScorePrior(network)
    assert prior.noise_level == network.min_time
    # A standard normal stays one under VPLinear, so in data units the standard deviation is
    # 1 / alpha. 20000 numbers: 5 standard errors are 5 / sqrt(40000) = 0.025 (false alarm 6e-7);
    # 100 ancestral steps would fail, being 4 % too narrow.
    for level in (None, 0.5):
        prior = ScorePrior(network, noise_level=level)
        alpha, _ = network.noise(prior.noise_level)
        assert abs(prior.sample(random.key(0), (10_000,)).std() * alpha - 1) < 0.03


def test_noise_that_is_left_at_time_zero_is_in_the_law():
    # VE keeps sigma_min at t = 0. 5 standard errors of a variance: 5 sqrt(2 / 4000) = 0.11.
    model = GaussianMixture(jnp.zeros((1, 1)), scales=0.5, noise=VE(0.5, 50.0))
    draws = ScorePrior(model, num_steps=200).sample(random.key(0), (4000,))
    assert abs(draws.var() / 0.5 - 1) < 0.15


def test_draws_do_not_depend_on_how_many_are_asked_for():
    prior = ScorePrior(MIXTURE, num_steps=20)
    key = random.key(3)
    many = prior.sample(key, (7,))
    np.testing.assert_allclose(prior.sample(key, (3,)), many[:3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(prior.expand((7,)).sample(key), many, rtol=1e-5, atol=1e-5)
    assert len(np.unique(many[:, 0])) == 7


def test_score_in_data_units():
    prior = ScorePrior(MIXTURE, noise_level=0.3, batch_shape=(2,))
    alpha, _ = MIXTURE.noise(0.3)
    u = random.normal(random.key(0), (5, 2, 3))

    def log_prob_in_data_units(u):
        return MIXTURE.log_prob(alpha * u, 0.3)

    expected = jax.vmap(jax.vmap(jax.grad(log_prob_in_data_units)))(u)
    np.testing.assert_allclose(prior.score(u), expected, rtol=1e-4, atol=1e-5)


# Shapes and structure.


def test_shapes():
    prior = ScorePrior(MIXTURE, num_steps=2)
    assert (prior.batch_shape, prior.event_shape, prior.draw_shape) == ((), (3,), ())
    assert prior.support.event_dim == 1 and bool(prior.support(jnp.zeros(3)))
    key = random.key(0)
    assert prior.sample(key, (5, 2)).shape == (5, 2, 3)
    expanded = prior.expand((4, 2))
    assert isinstance(expanded, ScorePrior) and expanded.sample(key, (5,)).shape == (5, 4, 2, 3)
    assert isinstance(expanded.expand_by((6,)), ScorePrior)
    assert expanded.expand_by((6,)).batch_shape == (6, 4, 2)
    assert ScorePrior(MIXTURE, batch_shape=(1, 2)).expand((3, 2)).batch_shape == (3, 2)
    event = expanded.to_event(1)
    assert isinstance(event, ScorePrior) and event.support.event_dim == 2
    assert (event.batch_shape, event.event_shape) == ((4,), (2, 3))
    assert event.draw_shape == (4, 2) and event.sample(key, (5,)).shape == (5, 4, 2, 3)
    assert event.expand((7, 4)).to_event().event_shape == (7, 4, 2, 3)
    assert expanded.to_event().batch_shape == () and expanded.to_event(0).batch_shape == (4, 2)
    # The same draws, whatever the split into batch and event.
    np.testing.assert_array_equal(event.sample(key), expanded.sample(key))


def test_scalar_events():
    prior = ScorePrior(GaussianMixture(jnp.array([0.0, 1.0]), scales=0.3), num_steps=2)
    assert prior.event_shape == () and prior.support.event_dim == 0
    assert prior.sample(random.key(0)).shape == ()
    assert prior.expand((3,)).sample(random.key(0), (2,)).shape == (2, 3)
    assert prior.score(jnp.zeros(4)).shape == (4,)


def test_pytree_and_pickle():
    prior = ScorePrior(MIXTURE, noise_level=0.1, num_steps=3).expand((2,)).to_event(1)
    leaves, structure = jax.tree.flatten(prior)
    assert len(leaves) == len(jax.tree.leaves(MIXTURE)) + 1
    key = random.key(1)
    expected = prior.sample(key)
    for copied in (jax.tree.unflatten(structure, leaves), pickle.loads(pickle.dumps(prior))):
        assert copied.event_shape == (2, 3)
        np.testing.assert_array_equal(copied.sample(key), expected)
    np.testing.assert_allclose(
        jax.jit(lambda p, k: p.sample(k))(prior, key), expected, rtol=1e-5, atol=1e-5
    )


def test_a_score_model_that_is_no_pytree():
    class Plain:
        noise, event_shape, min_time, has_log_density = VPLinear(), (3,), 0.0, True
        score, denoise, sample = MIXTURE.score, MIXTURE.denoise, MIXTURE.sample

    key = random.key(0)
    expected = ScorePrior(MIXTURE, num_steps=5).sample(key, (2,))
    np.testing.assert_allclose(
        ScorePrior(Plain(), num_steps=5).sample(key, (2,)), expected, rtol=1e-5, atol=1e-5
    )


# In NumPyro's machinery.


def test_handlers():
    key = random.key(0)
    trace = handlers.trace(handlers.seed(observed_model, key)).get_trace(jnp.zeros(3))
    assert isinstance(trace["x"]["fn"], ScorePrior) and trace["x"]["value"].shape == (3,)
    plated = handlers.trace(handlers.seed(plated_model, key)).get_trace()["images"]
    assert isinstance(plated["fn"], ScorePrior) and plated["fn"].batch_shape == (4,)
    assert plated["value"].shape == (4, 3)
    value = jnp.array([1.0, 2.0, 3.0])
    for handler, is_observed in ((handlers.substitute, False), (handlers.condition, True)):
        fixed = handler(handlers.seed(observed_model, key), data={"x": value})
        site = handlers.trace(fixed).get_trace()
        np.testing.assert_array_equal(site["x"]["value"], value)
        assert site["total"]["value"] == 6.0 and site["x"]["is_observed"] == is_observed


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(parallel):
    prior = Predictive(observed_model, num_samples=6, parallel=parallel)(random.key(0))
    assert {k: v.shape for k, v in prior.items()} == {
        "x": (6, 3),
        "s": (6,),
        "total": (6,),
        "y": (6, 3),
    }
    assert len(np.unique(prior["x"][:, 0])) == 6
    given = {"x": prior["x"], "s": jnp.full(6, 1e-3)}
    posterior = Predictive(observed_model, given, parallel=parallel)(random.key(1))
    # The observation has standard deviation 1e-3: 6 of them cannot be reached by 18 numbers.
    np.testing.assert_allclose(posterior["y"], given["x"], atol=6e-3)


def test_log_likelihood():
    draws = {"x": random.normal(random.key(0), (5, 3)), "s": jnp.linspace(0.5, 1.5, 5)}
    found = log_likelihood(observed_model, draws, jnp.ones(3))
    expected = dist.Normal(draws["x"], draws["s"][:, None]).log_prob(1.0).sum(-1)
    assert set(found) == {"y"}
    np.testing.assert_allclose(found["y"], expected, rtol=1e-5)


# What has no density.


def test_log_prob_without_a_site():
    with pytest.raises(ValueError, match="This ScorePrior has a score but no log density") as info:
        ScorePrior(MIXTURE).log_prob(jnp.zeros(3))
    assert "sp.ScoreMALA" in str(info.value)


@pytest.mark.parametrize(
    "run",
    [
        lambda: run_nuts(observed_model, jnp.zeros(3)),
        lambda: log_density(handlers.seed(observed_model, random.key(0)), (jnp.zeros(3),), {}, {}),
        lambda: SVI(
            observed_model, AutoNormal(observed_model), numpyro.optim.Adam(0.1), Trace_ELBO()
        ).run(random.key(0), 1, jnp.zeros(3), progress_bar=False),
    ],
    ids=["NUTS", "log_density", "SVI"],
)
def test_density_methods_name_the_site_and_the_kernels(run):
    with pytest.raises(ValueError, match="Site 'x' has a score but no log density") as info:
        run()
    for name in ("AnnealedScoreMCMC", "ScoreMALA", "ScoreHMC", "ScoreNUTS", "numpyro.infer.Gibbs"):
        assert name in str(info.value)
    assert "give 'x' to one of these" in str(info.value)


def test_density_methods_name_a_site_in_a_plate_or_a_wrapper():
    with pytest.raises(ValueError, match="Site 'images' has a score but no log density"):
        run_nuts(plated_model)

    def wrapped():
        shift = dist.transforms.AffineTransform(1.0, 2.0)
        numpyro.sample("moved", dist.TransformedDistribution(ScorePrior(MIXTURE), shift))

    with pytest.raises(ValueError, match="Site 'moved' has a score but no log density"):
        log_density(wrapped, (), {}, {"moved": jnp.zeros(3)})


def test_a_fixed_site_is_a_constant():
    value = jnp.array([0.5, 1.0, -1.0])
    conditioned = handlers.condition(observed_model, data={"x": value})
    found, trace = log_density(conditioned, (jnp.zeros(3),), {}, {"s": jnp.array(0.7)})
    expected = dist.HalfNormal(1.0).log_prob(0.7) + dist.Normal(value, 0.7).log_prob(0.0).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)

    def plated(images):
        with numpyro.plate("n", 4):
            numpyro.sample("images", ScorePrior(MIXTURE), obs=images)

    site = handlers.trace(plated).get_trace(jnp.zeros((4, 3)))["images"]
    assert log_density(plated, (jnp.zeros((4, 3)),), {}, {})[0] == 0.0
    assert site["fn"].batch_shape == (4,)


def test_an_observed_site_whose_prior_may_depend_on_a_latent_is_refused():
    def model(x):
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        numpyro.sample("x", ScorePrior(GaussianMixture(m[None, None], scales=1.0)), obs=x)

    with pytest.raises(ValueError, match="Site 'x' is observed and its score model is traced"):
        run_nuts(model, jnp.zeros(1))

    means = jnp.array([[0.0], [1.0]])

    def choice(x):
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.5, 0.5])))
        numpyro.sample("x", ScorePrior(GaussianMixture(means[c][None], scales=1.0)), obs=x)

    kernel = Gibbs([(DiscreteGibbs(choice), ["c"])])
    mcmc = MCMC(kernel, num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="Site 'x' is observed and its score model is traced"):
        mcmc.run(random.key(0), jnp.zeros(1))


def additive_model(prior, y):
    x = numpyro.sample("x", prior)
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x[0] + m, 0.5), obs=y)


def exact_update(rng_key, gibbs_sites, hmc_sites):
    """x given m for x ~ N(0, 1) and y = 1.5 ~ N(x + m, 0.25)."""
    variance = 1 / (1 + 1 / 0.25)
    mean = variance * (1.5 - hmc_sites["m"]) / 0.25
    return {"x": (mean + jnp.sqrt(variance) * random.normal(rng_key))[None]}


@pytest.mark.parametrize("jit_model_args", [False, True])
def test_nuts_on_the_other_sites_inside_gibbs(jit_model_args):
    # With `jit_model_args` the prior is a traced argument, which is fine inside Gibbs.
    kernel = Gibbs([(NUTS(additive_model), ["m"]), (CustomGibbs(exact_update), ["x"])])
    mcmc = MCMC(
        kernel,
        num_warmup=300,
        num_samples=2000,
        progress_bar=False,
        jit_model_args=jit_model_args,
    )
    mcmc.run(random.key(0), ScorePrior(NORMAL, num_steps=5), jnp.array(1.5))
    m = mcmc.get_samples()["m"]
    # y ~ N(0, 2.25): m given y is N(1.5 / 2.25, 1 - 1 / 2.25). The two-block Gibbs chain has lag-1
    # correlation (0.8)^2 = 0.64, so 2000 draws are worth about 440: 5 standard errors of the mean
    # are 0.18, of the standard deviation 0.13 (false alarms 1e-6).
    assert abs(m.mean() - 1.5 / 2.25) < 0.18
    assert abs(m.std() - np.sqrt(1 - 1 / 2.25)) < 0.13
