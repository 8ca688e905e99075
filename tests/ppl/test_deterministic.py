"""Deterministic sites of stored draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import block
from numpyro.infer import MCMC

import scoreppl as sp

PRIOR = sp.analytic.GaussianMixture(
    jnp.array([[0.5, -0.2]]), covariances=jnp.array([[[1.0, 0.3], [0.3, 2.0]]])
)


def model(shift=1.0, y=None):
    x = numpyro.sample("x", sp.ScorePrior(PRIOR))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.deterministic("image", jnp.outer(jnp.exp(0.3 * x), x) + shift)
    numpyro.deterministic("total", s * jnp.sum(x))
    numpyro.sample("y", dist.Normal(x[0], s), obs=y)


@pytest.fixture(scope="module")
def samples():
    mcmc = MCMC(
        sp.ScoreMALA(model, step_size=0.5), num_warmup=50, num_samples=40, progress_bar=False
    )
    mcmc.run(jax.random.key(0), 2.0, y=1.0)
    return {name: np.asarray(value) for name, value in mcmc.get_samples().items()}


def test_all_thinned_and_moments_are_those_that_numpyro_keeps(samples):
    latents = {name: samples[name] for name in ("x", "s")}
    kept = sp.deterministic_sites(model, latents, 2.0, y=1.0, store="all")
    assert set(kept) == {"image", "total"}
    for name, value in kept.items():
        np.testing.assert_allclose(value, samples[name], rtol=1e-5)
    thinned = sp.deterministic_sites(model, samples, 2.0, y=1.0, store=7, sites=["image"])
    np.testing.assert_allclose(thinned["image"], samples["image"][::7], rtol=1e-5)
    moments = sp.deterministic_sites(model, samples, 2.0, y=1.0)
    np.testing.assert_allclose(moments["image"].mean, samples["image"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments["total"].sd, samples["total"].std(0), rtol=1e-4)


def test_weighted_moments(samples):
    log_weight = 1000 + np.where(np.arange(40) % 3, samples["x"][:, 0], -np.inf)
    weight = np.exp(log_weight - log_weight.max())
    found = sp.deterministic_sites(model, samples, 2.0, y=1.0, log_weight=log_weight)["image"]
    mean = np.average(samples["image"], axis=0, weights=weight)
    sd = np.sqrt(np.average((samples["image"] - mean) ** 2, axis=0, weights=weight))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.sd, sd, rtol=1e-4)


def test_a_hidden_site_stays_out_of_the_run_and_comes_back():
    hidden = block(model, hide=["image"])
    kernel = sp.GuidedDiffusion(hidden, num_steps=5, num_pilots=8, block_size=4)
    mcmc = MCMC(kernel, num_warmup=4, num_samples=4, progress_bar=False)
    mcmc.run(jax.random.key(0), 2.0, y=1.0)
    draws = mcmc.get_samples()
    assert set(draws) == {"x", "s", "total"}
    found = sp.deterministic_sites(model, draws, 2.0, y=1.0, store="all", sites=["image"])
    x = np.asarray(draws["x"])
    expected = np.exp(0.3 * x)[:, :, None] * x[:, None] + 2.0
    np.testing.assert_allclose(found["image"], expected, rtol=1e-5)


def test_arguments_are_what_they_are_in_a_run():
    """Sizes of plates, switches, names and functions stay Python's own."""

    def free(size, is_doubled, name, fn, network):
        x = numpyro.sample("x", sp.ScorePrior(network))
        with numpyro.plate("p", size):
            numpyro.sample("y", dist.Normal(0.0, 1.0), obs=jnp.zeros(size))
        numpyro.deterministic(name, fn(x) * (2 if is_doubled else 1))

    class NoPytree:
        def __getattr__(self, name):
            return getattr(PRIOR, name)

    x = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
    found = sp.deterministic_sites(free, {"x": x}, 3, True, "f", jnp.exp, NoPytree(), store="all")
    np.testing.assert_allclose(found["f"], 2 * np.exp(x), rtol=1e-6)


def test_what_is_random_besides_the_latents_is_drawn_anew():
    def noisy():
        x = numpyro.sample("x", sp.ScorePrior(PRIOR))
        numpyro.deterministic("f", x[0] + 10 * jax.random.normal(numpyro.prng_key()))

    found = sp.deterministic_sites(noisy, {"x": np.zeros((200, 2), np.float32)})["f"]
    # Four errors of the mean (10 / sqrt(200)) and of the sd: false alarm 1e-4.
    assert abs(found.mean) < 4 * 10 / np.sqrt(200) and abs(found.sd / 10 - 1) < 4 / np.sqrt(400)


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({"x": None}, {}, "`samples` has no draws of site 'x'"),
        ({"x": np.zeros((40, 3))}, {}, "must be (n, *(2,))"),
        ({"x": np.zeros((10, 4, 2))}, {}, "group_by_chain=False"),
        ({"s": np.ones(39)}, {}, "equally many draws"),
        ({"s": np.ones(0), "x": np.zeros((0, 2))}, {}, "equally many draws"),
        ({}, {"sites": ["picture"]}, "it has ['image', 'total']"),
        ({}, {"sites": []}, "must be deterministic sites"),
        ({}, {"store": "mean"}, "`store='mean'`"),
        ({}, {"store": 0}, "`store=0`"),
        ({}, {"log_weight": np.zeros(3)}, "must be (40,)"),
        ({}, {"log_weight": np.full(40, np.nan)}, "NaN"),
        ({}, {"log_weight": np.full(40, -np.inf)}, "no draw has a weight"),
        ({}, {"log_weight": np.zeros(40), "store": "all"}, 'is for store="moments"'),
    ],
)
def test_bad_arguments_are_named(samples, change, options, message):
    given = {name: value for name, value in (samples | change).items() if value is not None}
    with pytest.raises(ValueError) as error:
        sp.deterministic_sites(model, given, 2.0, y=1.0, **options)
    assert message in str(error.value)
