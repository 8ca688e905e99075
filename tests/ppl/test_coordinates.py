"""ScorePrior(transform=): networks in other coordinates than the site's; and LocalScore."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.distributions.transforms import (
    AbsTransform,
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    PowerTransform,
    StickBreakingTransform,
)
from numpyro.infer import MCMC, Predictive
from numpyro.infer.util import unconstrain_fn
from scipy import integrate, stats

import scoreppl as sp

# y = log(1 + x) / 0.5, so x = exp(0.5 y) - 1: strongly curved on the scale of the law.
CURVED = ComposeTransform([AffineTransform(0.0, 0.5), ExpTransform(), AffineTransform(-1.0, 1.0)])
MEAN, SD = 1.0, 0.8
SCALAR = sp.analytic.GaussianMixture(jnp.array([[MEAN]]), scales=SD)
PAIR = sp.analytic.GaussianMixture(jnp.array([[0.5, -0.5], [-1.0, 1.0]]), scales=0.6)


def log_density_of_x(x):
    """Log density of x for SCALAR, with its Jacobian, written out."""
    y = np.log1p(x) / 0.5
    return stats.norm.logpdf(y, MEAN, SD) - np.log(0.5) - np.log1p(x)


def model(y=None):
    x = numpyro.sample("x", sp.ScorePrior(SCALAR, transform=CURVED))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(x[0], 0.3 + s), obs=y)


def posterior_moments(y):
    """Mean and variance of x by quadrature, over x and s."""

    def inner(x):
        value, _ = integrate.quad(
            lambda s: stats.halfnorm.pdf(s) * stats.norm.pdf(y, x, 0.3 + s), 0, 8
        )
        return value * np.exp(log_density_of_x(x))

    grid = np.linspace(-0.95, 12, 800)
    values = np.array([inner(x) for x in grid])
    values /= integrate.simpson(values, x=grid)
    mean = integrate.simpson(values * grid, x=grid)
    return mean, integrate.simpson(values * (grid - mean) ** 2, x=grid)


def test_the_score_is_the_gradient_of_the_density_with_its_jacobian():
    prior = sp.ScorePrior(SCALAR, transform=CURVED)
    x = np.array([-0.7, 0.2, 1.0, 5.0])
    step = 1e-4
    slope = (log_density_of_x(x + step) - log_density_of_x(x - step)) / (2 * step)
    np.testing.assert_allclose(prior.score(x[:, None].astype(np.float32))[:, 0], slope, rtol=2e-3)


def test_draws_have_the_transformed_law():
    draws = sp.ScorePrior(SCALAR, transform=CURVED, num_steps=200).sample(random.key(0), (4000,))
    assert draws.shape == (4000, 1) and np.all(draws > -1)
    found = stats.kstest(np.asarray(draws[:, 0], float), lambda x: stats.norm.cdf(
        np.log1p(x) / 0.5, MEAN, SD))  # fmt: skip
    # False alarm 1e-4; draws that are not transformed, or by exp alone, fail.
    assert found.pvalue > 1e-4


def test_the_weight_has_no_part_of_the_prior_nor_of_its_jacobian():
    weight = sp.log_weight(model, 1.2)
    for y in (-1.0, 0.3, 2.0):
        z = {"x": jnp.array([y]), "s": jnp.array(-0.4)}
        x, s = np.exp(0.5 * y) - 1, np.exp(-0.4)
        expected = stats.norm.logpdf(1.2, x, 0.3 + s) + stats.halfnorm.logpdf(s) - 0.4
        np.testing.assert_allclose(weight(z), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "kernel, num_chains, num_samples",
    [
        (lambda: sp.ScoreNUTS(model), 8, 500),
        pytest.param(lambda: sp.AnnealedScoreMCMC(model), 2, 500, marks=pytest.mark.slow),
        pytest.param(lambda: sp.GuidedDiffusion(model, num_steps=50), 4, 500,
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_posteriors_are_those_of_the_transformed_law(kernel, num_chains, num_samples):
    mcmc = MCMC(kernel(), num_warmup=300, num_samples=num_samples, num_chains=num_chains,
                chain_method="vectorized", progress_bar=False)  # fmt: skip
    mcmc.run(random.key(0), 1.2)
    x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"][..., 0], float)
    assert np.all(x > -1)
    mean, variance = posterior_moments(1.2)
    effective = numpyro.diagnostics.effective_sample_size(x)
    # Four standard errors. Without the Jacobian the mean is .3 to .5 of a standard deviation off.
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / effective)
    # The fourth moment of this skewed law makes the variance's error about 3 / sqrt(effective).
    assert abs(x.var() / variance - 1) < 4 * 3 / np.sqrt(effective)


def test_it_is_the_model_with_an_explicit_transform():
    """The same seed gives the same chain as a deterministic site of the score model's own."""

    def explicit(y=None):
        u = numpyro.sample("x", sp.ScorePrior(PAIR))
        x = numpyro.deterministic("image", CURVED(u))
        numpyro.sample("y", dist.Normal(x.sum(), 0.5), obs=y)

    def transformed(y=None):
        x = numpyro.sample("x", sp.ScorePrior(PAIR, transform=CURVED))
        numpyro.deterministic("image", x)
        numpyro.sample("y", dist.Normal(x.sum(), 0.5), obs=y)

    found = []
    for each in (explicit, transformed):
        mcmc = MCMC(sp.ScoreMALA(each), num_warmup=50, num_samples=50, progress_bar=False)
        mcmc.run(random.key(1), 0.4)
        found.append(mcmc.get_samples()["image"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_plates_predictive_and_starting_values():
    def plated():
        with numpyro.plate("n", 3):
            x = numpyro.sample("x", sp.ScorePrior(PAIR, transform=CURVED, num_steps=5))
        numpyro.factor("f", -jnp.sum(x**2))

    draws = Predictive(plated, num_samples=4)(random.key(0))["x"]
    assert draws.shape == (4, 3, 2) and np.all(draws > -1)
    flat = handlers.seed(lambda: plated(), 0)
    z = jnp.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    mcmc = MCMC(sp.ScoreMALA(plated, step_size=1e-4, adapt_step_size=False), num_warmup=0,
                num_samples=1, progress_bar=False)  # fmt: skip
    mcmc.run(random.key(0), init_params={"x": z})
    np.testing.assert_allclose(mcmc.get_samples()["x"][0], CURVED(z), atol=0.1)
    assert np.isfinite(unconstrain_fn(flat, (), {}, {"x": CURVED(z)})["x"]).all()


class NoInverse(ExpTransform):
    def _inverse(self, y):
        raise NotImplementedError


@pytest.mark.parametrize(
    "transform, message",
    [
        (jnp.exp, "is no transform of"),
        (PowerTransform(2.0), "is not inverted by its own `inv`"),
        (AbsTransform(), "is not inverted by its own `inv`"),
        (NoInverse(), "is not inverted by its own `inv`"),
        (ExpTransform().inv, "is not inverted by its own `inv`"),
        (StickBreakingTransform(), "must keep their shape"),
    ],
)
def test_what_is_no_transform_of_events_is_refused(transform, message):
    with pytest.raises(ValueError) as error:
        sp.ScorePrior(PAIR, transform=transform)
    assert message in str(error.value)


# A score at one level.


def gaussian_score(params, x):
    return (params["mean"] - x) / params["sd"] ** 2


LOCAL = sp.LocalScore(
    gaussian_score, {"mean": jnp.array([0.0, 1.0]), "sd": jnp.array([1.0, 0.5])}, event_shape=(2,)
)


def local_model(y):
    x = numpyro.sample("x", sp.ScorePrior(LOCAL))
    numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize("kernel", [sp.ScoreMALA, sp.ScoreNUTS])
def test_a_score_without_levels_gives_the_posterior(kernel):
    y = np.array([1.5, 1.5], np.float32)
    with pytest.warns(UserWarning) if kernel is sp.ScoreNUTS else _nothing():
        mcmc = MCMC(kernel(local_model), num_warmup=400, num_samples=1500, num_chains=4,
                    chain_method="vectorized", progress_bar=False)  # fmt: skip
        mcmc.run(random.key(0), y)
    x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"], float)
    prior = np.array([1.0, 0.25])
    variance = 1 / (1 / prior + 1)
    mean = variance * (np.array([0.0, 1.0]) / prior + y)
    effective = numpyro.diagnostics.effective_sample_size(x)
    # 4.5 standard errors of 8 numbers: false alarm 6e-5. NUTS on the flat density has mean 1.5.
    assert np.all(np.abs(x.mean((0, 1)) - mean) < 4.5 * np.sqrt(variance / effective))
    assert np.all(np.abs(x.var((0, 1)) / variance - 1) < 4.5 * np.sqrt(4 / effective))
    assert "law that the chain leaves invariant" in str(sp.diagnostics.report(mcmc))


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize(
    "kernel",
    [
        lambda: sp.AnnealedScoreMCMC(local_model),
        lambda: sp.GuidedDiffusion(local_model),
        lambda: sp.ParticleGibbs(local_model),
    ],
)
def test_kernels_that_need_levels_say_so(kernel):
    mcmc = MCMC(kernel(), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="known at one noise level alone"):
        mcmc.run(random.key(0), jnp.zeros(2))


def test_refusals_of_a_local_score():
    with pytest.raises(ValueError, match="known at one noise level alone"):
        sp.ScoreSMC(local_model).run(random.key(0), jnp.zeros(2))
    with pytest.raises(ValueError, match="known at one noise level alone"):
        sp.ScorePrior(LOCAL).sample(random.key(0))
    for refused in (
        lambda: sp.ScorePrior(LOCAL, noise_level=0.5),
        lambda: MCMC(sp.ScoreMALA(local_model, noise_level=0.5), num_warmup=1, num_samples=1,
                     progress_bar=False).run(random.key(0), jnp.zeros(2)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="`noise_level=0.5` has no meaning"):
            refused()
    with pytest.raises(ValueError, match="`score_fn` of type int"):
        sp.LocalScore(3, event_shape=(2,))
    with pytest.raises(ValueError, match="does not take two arguments"):
        sp.LocalScore(lambda x: -x, event_shape=(2,))
    with pytest.raises(ValueError, match="`event_shape="):
        sp.LocalScore(gaussian_score, event_shape=(-2,))
    with pytest.raises(ValueError, match="`score_fn` returned shape"):
        sp.LocalScore(lambda params, x: x.sum(), event_shape=(2,)).score(jnp.zeros(2))
    with pytest.raises(ValueError, match="no density"):
        LOCAL.log_prob(jnp.zeros(2))


def test_parameters_stay_arguments():
    compiled = jax.jit(lambda score, x: score.score(x))
    moved = sp.LocalScore(gaussian_score, {"mean": jnp.ones(2), "sd": jnp.ones(2)},
                          event_shape=(2,))  # fmt: skip
    compiled(LOCAL, jnp.zeros(2))
    np.testing.assert_allclose(compiled(moved, jnp.zeros(2)), 1.0)
    assert compiled._cache_size() == 1
