"""AnnealedScoreMCMC in NumPyro: its law, its contract, and what is made of a run."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import scoreppl as sp

PRIOR = sp.analytic.GaussianMixture(jnp.array([[1.0, -1.0]]), scales=0.7)
Y = jnp.array([0.3, 0.2])


def model(y):
    x = numpyro.sample("x", sp.ScorePrior(PRIOR))
    numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)


def run(keys, num_samples=40, **settings):
    kernel = sp.AnnealedScoreMCMC(model, num_levels=8, steps_per_level=4, block_size=20)
    chains = len(keys) if keys.shape else 1
    mcmc = MCMC(
        kernel,
        num_warmup=40,
        num_samples=num_samples,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(keys, Y, **settings)
    return mcmc


@pytest.fixture(scope="module")
def chains():
    return run(jax.random.split(jax.random.key(0), 4), num_samples=500)


def test_draws_have_the_exact_posterior(chains):
    # Conjugate: precision 1 / .49 + 1 / .25. 2,000 independent draws; 4.5 standard errors on four
    # numbers is a false alarm in 37,000.
    variance = 1 / (1 / 0.49 + 1 / 0.25)
    mean = variance * (jnp.array([1.0, -1.0]) / 0.49 + Y / 0.25)
    x = np.asarray(chains.get_samples()["x"])
    assert np.all(np.abs(x.mean(0) - mean) < 4.5 * np.sqrt(variance / 2000))
    assert np.all(np.abs(x.var(0) / variance - 1) < 4.5 * np.sqrt(2 / 2000))


# The quick suite has this and the next of inner="split", in test_annealed_contract.py.
@pytest.mark.slow
def test_a_chain_does_not_depend_on_the_others():
    keys = jax.random.split(jax.random.key(1), 4)
    together = run(keys).get_samples(group_by_chain=True)["x"][0]
    np.testing.assert_allclose(run(keys[0]).get_samples()["x"], together, atol=1e-3)


@pytest.mark.slow
def test_resumed_equals_uninterrupted():
    key = jax.random.key(2)
    whole = run(key, num_samples=50).get_samples()["x"]
    mcmc = run(key, num_samples=30)
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.num_samples = 20
    mcmc.run(mcmc.last_state.rng_key, Y)
    np.testing.assert_allclose(mcmc.get_samples()["x"], whole[30:], atol=1e-5)


def test_inference_data_has_the_noise_levels(chains):
    data = sp.to_inference_data(chains)
    rates = data["sample_stats"]["acceptance_rate_level"]
    assert rates.dims == ("chain", "draw", "noise_level") and rates.shape == (4, 500, 8)
    np.testing.assert_allclose(rates["noise_level"], chains.sampler.noise_levels(Y), rtol=1e-6)
    assert not {"lp", "energy"} & set(data["sample_stats"].data_vars)


def test_pictures_are_drawn(chains):
    assert sp.plots.acceptance_by_level(chains).axes
    images = np.random.default_rng(0).normal(size=(9, 6, 6))
    assert sp.plots.posterior_images(images, truth=images[0]).axes
    assert sp.plots.draws(images).axes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner": "nuts"}, "`inner='nuts'` is not known"),
        ({"weight_move": "ula"}, "`weight_move='ula'` is not known"),
        ({"num_levels": 1}, "`num_levels=1` must be at least 2"),
        ({"num_levels": 2.5}, "`num_levels=2.5` must be an integer of at least 2"),
        ({"levels": [1.0]}, "`levels` must be a vector of at least 2"),
        ({"levels": 1.0}, "`levels` must be a vector of at least 2"),
        ({"levels": [1.0, 2.0]}, "`levels` must decrease"),
        ({"levels": [1.0, -2.0]}, "`levels` must be a vector .* positive"),
        ({"levels": [np.inf, 1.0]}, "`levels` must be a vector .* positive, finite"),
        ({"levels": [1.0, 1e-5]}, "`levels` must lie between 0.0002 and 10000"),
        ({"levels": [1e5, 1.0]}, "`levels` must lie between 0.0002 and 10000"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sp.AnnealedScoreMCMC(model, **options)


def test_models_and_starts_that_make_no_sense_are_refused():
    def no_score(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=y)

    with pytest.raises(ValueError, match="no ScorePrior site"):
        MCMC(sp.AnnealedScoreMCMC(no_score), num_warmup=1, num_samples=1).run(
            jax.random.key(0), 0.1
        )
    with pytest.raises(ValueError, match="`init_params` has no place here"):
        run(jax.random.key(0), init_params={"x": jnp.zeros(2)})
