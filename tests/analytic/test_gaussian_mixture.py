"""GaussianMixture against scipy, quadrature, automatic differentiation and Monte Carlo."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import kstest, norm

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import EDM, VE, DiscreteVP, FlowMatching, VPLinear
from scoreppl.score import ScoreModel, tweedie_covariance
from tests.analytic.mixtures import (
    EVENTS,
    WEIGHTS,
    Reference,
    chi_square_p_value,
    mixture,
    parameters,
    reference,
)

SEEDS = (0, 1, 2)
TIMES = (0.0, 0.03, 0.4, 1.0)
SIGNAL_TIMES = (0.03, 0.4, 0.9)
SCHEDULES = {
    "vp": VPLinear(),
    "ve": VE(0.02, 20.0),
    "flow": FlowMatching(),
    "discrete": DiscreteVP.linear(100),
}


class Evaluation(NamedTuple):
    """What the mixture says at a batch of events x_t, shape (n, *event)."""

    x: jax.Array
    log_prob: jax.Array
    mode_probabilities: jax.Array
    score: jax.Array
    gradient: jax.Array
    denoised: jax.Array
    covariance: jax.Array
    tweedie_covariance: jax.Array
    given: GaussianMixture
    observed: GaussianMixture
    log_evidence: jax.Array


@jax.jit
def _evaluate(model, t):
    alpha, sigma = model.noise(t)
    size = model.means[0].size
    drawn = model.sample_exact(jax.random.key(3), (4,), t)
    # Four places where x_t is found, and one where it is not.
    x = jnp.concatenate([drawn, jnp.full((1, *model.event_shape), 4.0)])

    def at(x):
        observed, log_evidence = model.posterior(alpha * jnp.eye(size), x.ravel(), sigma**2)
        return Evaluation(
            x,
            model.log_prob(x, t),
            model.mode_probabilities(x, t),
            model.score(x, t),
            jax.grad(model.log_prob)(x, t),
            model.denoise(x, t),
            model.covariance(x, t),
            tweedie_covariance(model, x, t),
            model.posterior_given(x, t),
            observed,
            log_evidence,
        )

    return jax.vmap(at)(x)


@cache
def evaluate(kind, schedule, t):
    return jax.tree.map(np.asarray, _evaluate(mixture(kind, SCHEDULES[schedule]), t))


every_kind = pytest.mark.parametrize("kind", EVENTS)
every_schedule = pytest.mark.parametrize("noise", SCHEDULES.values(), ids=SCHEDULES.keys())
every_case = pytest.mark.parametrize(
    ("kind", "schedule"),
    [*((kind, "vp") for kind in EVENTS), *(("full", name) for name in SCHEDULES if name != "vp")],
)


@every_case
@pytest.mark.parametrize("t", TIMES)
def test_density_and_mode_probabilities_match_scipy(kind, schedule, t):
    found, exact = evaluate(kind, schedule, t), reference(kind, SCHEDULES[schedule], t)
    logits = np.array([exact.component_log_probs(x) for x in found.x])
    # Float32 rounding of exponents up to a few thousand, and of alpha and sigma themselves.
    exact_log_prob = np.logaddexp.reduce(logits, axis=1)
    np.testing.assert_allclose(found.log_prob, exact_log_prob, rtol=3e-5, atol=3e-5)
    np.testing.assert_allclose(found.mode_probabilities, softmax(logits, axis=1), atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "diagonal_image"])
@every_schedule
def test_clean_law_is_the_same_under_every_schedule(kind, noise):
    x = np.linspace(-1, 1, int(np.prod(EVENTS[kind])))
    exact = np.logaddexp.reduce(reference(kind).component_log_probs(x))
    found = mixture(kind, noise).log_prob(x.reshape(EVENTS[kind]))
    np.testing.assert_allclose(found, exact, rtol=3e-5)


@every_case
@pytest.mark.parametrize("t", TIMES)
def test_score_is_the_gradient_of_the_density(kind, schedule, t):
    found = evaluate(kind, schedule, t)
    assert found.score.shape == (5, *EVENTS[kind])
    # Both are float32; the largest entries set the rounding error of all.
    tolerance = 1e-5 * np.max(np.abs(found.gradient))
    np.testing.assert_allclose(found.score, found.gradient, rtol=1e-4, atol=tolerance)


@every_case
@pytest.mark.parametrize("t", SIGNAL_TIMES)
def test_denoiser_obeys_tweedie_and_is_the_posterior_mean(kind, schedule, t):
    found = evaluate(kind, schedule, t)
    alpha, sigma = map(float, SCHEDULES[schedule](t))
    # x + sigma^2 score cancels where sigma is large: its rounding is that of x over alpha.
    tweedie = (found.x + sigma**2 * found.score) / alpha
    tolerance = 1e-5 * np.max(np.abs(found.x)) / alpha
    np.testing.assert_allclose(found.denoised, tweedie, rtol=1e-4, atol=tolerance)
    mean = np.einsum("nk,nk...->n...", np.exp(found.given.log_weights), found.given.means)
    np.testing.assert_allclose(found.denoised, mean, rtol=1e-5, atol=1e-5)


@every_case
@pytest.mark.parametrize("t", SIGNAL_TIMES)
def test_covariance_is_that_of_the_posterior_and_the_derivative_of_the_denoiser(kind, schedule, t):
    found = evaluate(kind, schedule, t)
    assert found.covariance.shape == (5, *EVENTS[kind] * 2)
    size = int(np.prod(EVENTS[kind]))
    given = jax.vmap(lambda given: given.covariances)(found.given)
    for n, covariance in enumerate(found.covariance.reshape(5, size, size)):
        means, weights = found.given.means[n].reshape(3, size), np.exp(found.given.log_weights[n])
        exact = Reference(weights, means, np.asarray(given[n])).moments()[1]
        np.testing.assert_allclose(covariance, exact, rtol=1e-4, atol=1e-5 * np.max(exact))
        tweedie = found.tweedie_covariance[n].reshape(size, size)
        np.testing.assert_allclose(covariance, tweedie, rtol=1e-3, atol=2e-5 * np.max(exact))


@every_case
@pytest.mark.parametrize("t", SIGNAL_TIMES)
def test_posterior_given_a_noisy_event_is_a_linear_gaussian_posterior(kind, schedule, t):
    found = evaluate(kind, schedule, t)
    given, observed = found.given, found.observed
    np.testing.assert_allclose(given.log_weights, observed.log_weights, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(given.means, observed.means, rtol=1e-4, atol=1e-4)
    covariances = [jax.vmap(lambda m: m.covariances)(m) for m in (given, observed)]
    np.testing.assert_allclose(*covariances, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.log_evidence, found.log_prob, rtol=3e-5, atol=3e-5)


@every_kind
def test_finite_without_noise(kind):
    model = mixture(kind)
    found = evaluate(kind, "vp", 0.0)
    assert np.all(np.isfinite(found.score))
    np.testing.assert_allclose(found.denoised, found.x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.covariance, 0.0, atol=1e-11)
    draws = model.posterior_given(found.x[0], 0.0).sample_exact(jax.random.key(0), (3,))
    np.testing.assert_allclose(draws, np.stack([found.x[0]] * 3), rtol=1e-6, atol=1e-6)


def test_no_signal_is_finite():
    model = mixture("full", FlowMatching())
    x = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(model.score(x, 1.0), -x, rtol=1e-6)
    np.testing.assert_allclose(model.denoise(x, 1.0), model.moments()[0], atol=1e-6)


@every_schedule
@pytest.mark.parametrize("t", TIMES)
def test_density_integrates_to_one(noise, t):
    model = mixture("scalar", noise)
    alpha, sigma = map(float, noise(t))
    edge = 8 * (3 * alpha + sigma)
    grid = jnp.linspace(-edge, edge, 20_001)
    density = np.exp(np.asarray(jax.vmap(model.log_prob, (0, None))(grid, t), np.float64))
    # The trapezoid rule is exact to rounding here: steps are far below every standard deviation.
    assert np.trapezoid(density, np.asarray(grid, np.float64)) == pytest.approx(1.0, abs=2e-5)


@pytest.mark.parametrize("kind", ["full", "diagonal_image", "scalar"])
@pytest.mark.parametrize(
    ("noise", "t"), [(VPLinear(), 0.3), (VE(0.5, 20.0), None), (VE(0.5, 20.0), 0.0)]
)
def test_exact_draws_have_the_right_law(kind, noise, t):
    """Kolmogorov-Smirnov tests of projections and z-tests of mean and covariance."""
    exact = reference(kind, noise, t)
    size, count = exact.means.shape[1], 4000
    mean, covariance = exact.moments()
    model = mixture(kind, noise)
    sample = jax.jit(lambda key: model.sample_exact(key, (count // 4, 4), t))
    for seed in SEEDS:
        draws = sample(jax.random.key(seed))
        assert draws.shape == (count // 4, 4, *EVENTS[kind])
        draws = np.asarray(draws, np.float64).reshape(count, size)
        # False alarms: 1e-7 a p-value, 9 cases of 3 seeds and 5 p-values: 2e-5 for all.
        for direction in np.random.default_rng(seed).standard_normal((3, size)):
            centres = exact.means @ direction
            spreads = np.sqrt(np.einsum("i,kij,j->k", direction, exact.covariances, direction))

            def cdf(z, centres=centres, spreads=spreads):
                return norm.cdf((z[:, None] - centres) / spreads) @ WEIGHTS

            assert kstest(draws @ direction, cdf).pvalue > 1e-7
        rows, columns = np.triu_indices(size)
        centred = draws - mean
        products = centred[:, rows] * centred[:, columns] - covariance[rows, columns]
        for deviations in (centred, products):
            assert chi_square_p_value(deviations) > 1e-7


@pytest.mark.parametrize("kind", ["full", "diagonal_image", "scalar"])
def test_draws_of_one_event_and_of_none(kind):
    model = mixture(kind)
    assert model.sample_exact(jax.random.key(0)).shape == EVENTS[kind]
    assert model.sample_exact(jax.random.key(0), (0,)).shape == (0, *EVENTS[kind])


@pytest.mark.parametrize("noise", [VPLinear(), EDM()], ids=["vp", "edm"])
def test_reverse_diffusion_draws_the_prior(noise):
    model = mixture("full", noise)
    draws = model.sample(jax.random.key(1), (2000,), num_steps=200)
    assert draws.shape == (2000, 3)
    direction = np.array([0.6, -0.5, 0.62])
    exact = reference("full")
    spreads = np.sqrt(np.einsum("i,kij,j->k", direction, exact.covariances, direction))
    statistic = kstest(
        np.asarray(draws, np.float64) @ direction,
        lambda z: norm.cdf((z[:, None] - exact.means @ direction) / spreads) @ WEIGHTS,
    ).statistic
    # 2000 exact draws exceed 0.06 once in 1e6; discretisation in 200 steps takes 0.01 more.
    assert statistic < 0.07


def test_moments_match_the_reference():
    for kind in EVENTS:
        mean, covariance = reference(kind).moments()
        computed = mixture(kind).moments()
        np.testing.assert_allclose(np.ravel(computed[0]), mean, rtol=1e-5)
        np.testing.assert_allclose(np.ravel(computed[1]), np.ravel(covariance), atol=1e-5)
        np.testing.assert_allclose(mixture(kind).covariances, parameters(kind)[1], atol=1e-6)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_passes_through_transformations(kind):
    """A pytree: an argument of jit, differentiable in its parameters, and batchable."""
    model, x = mixture(kind), jnp.array([0.2, -0.4, 1.0])
    assert isinstance(model, ScoreModel)
    expected = model.score(x, 0.2)
    np.testing.assert_allclose(
        jax.jit(lambda model, x: model.score(x, 0.2))(model, x), expected, rtol=1e-5
    )
    gradient = jax.grad(lambda model: model.log_prob(x, 0.2))(model)
    assert isinstance(gradient, GaussianMixture)
    shifted = jax.grad(lambda offset: mixture(kind).log_prob(x - offset, 0.2))(jnp.zeros(3))
    alpha = model.noise(0.2)[0]
    np.testing.assert_allclose(gradient.means.sum(0), alpha * shifted, rtol=1e-4)
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), model)
    scores = jax.vmap(lambda model: model.score(x, 0.2))(pair)
    np.testing.assert_allclose(scores, jnp.stack([expected] * 2), rtol=1e-5)
    jax.tree.map(lambda _: object(), model)


def test_diagonal_components_of_large_events_form_no_square_matrix():
    model = GaussianMixture(np.zeros((10, 28, 28)), scales=0.3)
    x = jnp.zeros((28, 28))
    for function in (model.score, model.denoise, model.log_prob):
        assert _largest_intermediate(jax.make_jaxpr(function)(x, 0.3).jaxpr) <= 10 * 784
    drawing = jax.make_jaxpr(lambda key: model.sample_exact(key, (5,), 0.3))(jax.random.key(0))
    assert _largest_intermediate(drawing.jaxpr) <= 10 * 784
    assert _largest_intermediate(jax.make_jaxpr(model.covariance)(x, 0.3).jaxpr) >= 784**2


def test_batches_are_refused():
    model = mixture("full")
    for method in (model.score, model.denoise, model.log_prob, model.covariance):
        with pytest.raises(ValueError, match="use `jax.vmap`"):
            method(jnp.zeros((2, 3)), 0.1)
        with pytest.raises(ValueError, match="`t` has shape"):
            method(jnp.zeros(3), jnp.array([0.1, 0.2, 0.3]))


def _largest_intermediate(jaxpr):
    sizes = [np.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars]
    inner = [sub for eqn in jaxpr.eqns for sub in _jaxprs(eqn.params)]
    return max([*sizes, *map(_largest_intermediate, inner)])


def _jaxprs(params):
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr"))
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if hasattr(leaf, "jaxpr")]
