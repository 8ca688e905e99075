"""GaussianMixture against scipy, quadrature, automatic differentiation and Monte Carlo.

`reference` states each mixture once more as dense float64 arrays, so that the comparisons share
neither formulas nor precision with the package.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chi2, kstest, multivariate_normal, norm

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import EDM, VE, DiscreteVP, FlowMatching, VPLinear
from scoreppl.score import ScoreModel, tweedie_covariance
from tests import problems

SEEDS = (0, 1, 2)
TIMES = (0.0, 0.03, 0.4, 1.0)
SIGNAL_TIMES = (0.03, 0.4, 0.9)
SCHEDULES = {
    "vp": VPLinear(),
    "ve": VE(0.02, 20.0),
    "flow": FlowMatching(),
    "discrete": DiscreteVP.linear(100),
}
WEIGHTS = np.array([0.6, 0.3, 0.1])
EVENTS = {"full": (3,), "diagonal": (3,), "image": (3, 2), "diagonal_image": (3, 2), "scalar": ()}


class Reference(NamedTuple):
    """Dense float64 parameters of the law of x_t, flattened: (K,), (K, d), (K, d, d)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def component_log_probs(self, x):
        pairs = zip(self.means, self.covariances, strict=True)
        densities = [multivariate_normal(mean, cov).logpdf(np.ravel(x)) for mean, cov in pairs]
        return np.log(self.weights) + np.array(densities)

    def moments(self):
        mean = self.weights @ self.means
        deviations = self.means - mean
        within = np.einsum("k,kij->ij", self.weights, self.covariances)
        return mean, within + (deviations.T * self.weights) @ deviations


@cache
def parameters(kind):
    """Skewed, unequal, anisotropic: means, covariances, and the constructor's arguments."""
    event = EVENTS[kind]
    size = int(np.prod(event))
    rng = np.random.default_rng(5)
    means = 1.5 * rng.standard_normal((3, size))
    scales = np.exp(rng.uniform(np.log(0.15), np.log(0.9), (3, size)))
    shaped = means.reshape(3, *event)
    if kind in ("diagonal", "diagonal_image", "scalar"):
        covariances = np.stack([np.diag(row**2) for row in scales])
        arguments = {"means": shaped, "scales": scales.reshape(3, *event)}
    else:
        axes = np.linalg.qr(rng.standard_normal((3, size, size)))[0]
        covariances = np.einsum("kis,ks,kjs->kij", axes, scales**2, axes)
        covariances = (covariances + covariances.transpose(0, 2, 1)) / 2
        arguments = {"means": shaped, "covariances": covariances}
    return means, covariances, arguments


def mixture(kind, noise=SCHEDULES["vp"]):
    return GaussianMixture(**parameters(kind)[2], weights=WEIGHTS, noise=noise)


def reference(kind, noise=SCHEDULES["vp"], t=None):
    means, covariances, _ = parameters(kind)
    alpha, sigma = (1.0, 0.0) if t is None else map(float, noise(t))
    eye = np.eye(means.shape[1])
    return Reference(WEIGHTS, alpha * means, alpha**2 * covariances + sigma**2 * eye)


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
            assert _chi_square_p_value(deviations) > 1e-7


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


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_posterior_and_evidence_match_quadrature(rows):
    prior, seen = problems.prior(2), np.array([0.4, -0.9, 0.2])[:rows]
    operator = np.random.default_rng(rows).standard_normal((rows, 2))
    noise = 0.2 * np.eye(rows) + 0.1 * np.ones((rows, rows))
    posterior, log_evidence = prior.posterior(operator, seen, noise)

    axis = np.linspace(-7, 7, 561)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = np.zeros(len(grid))
    for weight, mean, covariance in zip(*problems.components(2), strict=True):
        density += weight * multivariate_normal.pdf(grid, mean, covariance)
    misfit = grid @ operator.T - seen
    distance = np.einsum("ni,ij,nj->n", misfit, np.linalg.inv(noise), misfit)
    density *= np.exp(-0.5 * distance) / np.sqrt(np.linalg.det(2 * np.pi * noise))
    cell = (axis[1] - axis[0]) ** 2
    evidence = density.sum() * cell
    density /= evidence
    mean = density @ grid * cell
    covariance = (grid.T * density) @ grid * cell - np.outer(mean, mean)

    # The smallest standard deviation is 7 cells, where the rule is exact: float32 rounding stays.
    assert float(log_evidence) == pytest.approx(np.log(evidence), abs=2e-5)
    computed = posterior.moments()
    np.testing.assert_allclose(computed[0], mean, atol=2e-5)
    np.testing.assert_allclose(computed[1], covariance, atol=5e-5)
    found = np.exp(jax.vmap(posterior.log_prob)(jnp.asarray(grid)))
    np.testing.assert_allclose(found, density, atol=1e-4 * density.max())


@pytest.mark.parametrize("seed", SEEDS)
def test_posterior_and_evidence_match_importance_sampling(seed):
    prior = problems.prior(8)
    rng = np.random.default_rng(seed)
    operator, seen = rng.standard_normal((4, 8)) / np.sqrt(8), rng.standard_normal(4)
    variances = np.array([0.3, 0.5, 0.4, 0.8])
    posterior, log_evidence = prior.posterior(operator, seen, variances)

    draws = np.asarray(prior.sample_exact(jax.random.key(seed), (100_000,)), np.float64)
    likelihood = norm.pdf(draws @ operator.T, seen, np.sqrt(variances)).prod(1)
    mean, covariance = map(np.asarray, posterior.moments())
    squares = np.einsum("ni,ni->n", draws - mean, draws - mean) - np.trace(covariance)
    # The weighted test functions have expectation 0: 10 z-scores a seed, 5.5 gives 1e-6 for all.
    evidence = np.exp(float(log_evidence))
    functions = [likelihood - evidence, likelihood * squares]
    functions += list(((draws - mean) * likelihood[:, None]).T)
    for values in functions:
        assert abs(_z_score(values)) < 5.5


@pytest.mark.parametrize("name", ["lg2", "lg8", "lg30"])
def test_linear_problems_match_their_closed_form(name):
    problem, truth = problems.problem(name), problems.truth(name)
    rows, values = problem.observed
    noise = problems.LINEAR_NOISE
    posterior, log_evidence = problem.prior.posterior(rows, values, noise**2)
    # The problem's weight is 1 at a perfect fit, the likelihood (2 pi noise^2)^(-m/2).
    log_peak = -0.5 * len(values) * np.log(2 * np.pi * noise**2)
    assert float(log_evidence) == pytest.approx(truth.log_evidence + log_peak, abs=1e-4)
    np.testing.assert_allclose(posterior.weights, truth.mode_masses, rtol=2e-4, atol=1e-7)
    mean, covariance = posterior.moments()
    np.testing.assert_allclose(mean, truth.mean, atol=5e-4)
    np.testing.assert_allclose(covariance, truth.covariance, atol=2e-3)
    # False alarm 1e-7 each.
    assert _chi_square_p_value(truth.draws - truth.mean) > 1e-7


def test_linear_log_weight_is_the_likelihood_ratio():
    problem = problems.problem("lg8")
    x = jnp.arange(8.0) / 4
    misfit = problem.observed.rows @ np.arange(8.0) / 4 - problem.observed.values
    assert float(problem.log_weight(x)) == pytest.approx(-0.5 * misfit @ misfit / 0.09, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pois8", "logit8"])
def test_importance_sampled_truths_agree_with_the_jax_problem(name):
    problem, truth = problems.problem(name), problems.truth(name)
    draws = problem.prior.sample_exact(jax.random.key(8), (200_000,))
    weights = np.exp(np.asarray(jax.vmap(problem.log_weight)(draws), np.float64))
    evidence = np.exp(truth.log_evidence)
    first = np.asarray(draws[:, 0], np.float64) - truth.mean[0]
    # Both sides have an error. Four z-scores over the two problems: 5.5 gives 2e-7 for all.
    for values, exact, spread in (
        (weights, evidence, 1.0),
        (weights * first, 0.0, truth.covariance[0, 0] ** 0.5),
    ):
        error = evidence * spread / truth.effective_draws**0.5
        error = np.hypot(error, values.std() / len(values) ** 0.5)
        assert abs(values.mean() - exact) < 5.5 * error
    assert truth.mode_masses.sum() == pytest.approx(1.0, abs=1e-9)


def test_observations_one_by_one_equal_all_at_once():
    prior = problems.prior(8)
    rng = np.random.default_rng(9)
    operator, seen = rng.standard_normal((5, 8)), 3 * rng.standard_normal(5)
    variances = np.array([0.05, 0.2, 1.0, 0.01, 0.3])
    together, log_evidence = prior.posterior(operator, seen, variances)
    first, log_first = prior.posterior(operator[:3], seen[:3], variances[:3])
    second, log_second = first.posterior(operator[3:], seen[3:], np.diag(variances[3:]))
    assert float(log_first + log_second) == pytest.approx(float(log_evidence), rel=1e-4)
    np.testing.assert_allclose(second.log_weights, together.log_weights, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(second.means, together.means, atol=1e-3)
    np.testing.assert_allclose(second.covariances, together.covariances, atol=1e-4)


def test_a_component_ruled_out_beyond_float32_can_return():
    """Weights below the smallest float32 number are kept: their logarithms are stored."""
    prior = GaussianMixture(np.array([[0.0], [30.0]]), scales=1.0)
    once, _ = prior.posterior(np.eye(1), np.array([0.0]), 0.25)
    assert once.weights[1] == 0.0
    back, _ = once.posterior(np.eye(1), np.array([60.0]), 0.25)
    both, _ = prior.posterior(np.ones((2, 1)), np.array([0.0, 60.0]), 0.25)
    np.testing.assert_allclose(back.log_weights, both.log_weights, rtol=1e-5, atol=1e-4)


def test_sharp_observations_keep_their_digits():
    """Noise 1e-4 beside a prior of scale 1: a difference of covariances would lose everything."""
    prior = mixture("full")
    operator, noise = np.random.default_rng(2).standard_normal((2, 3)), 1e-4
    truth = operator @ parameters("full")[0][1]
    posterior, _ = prior.posterior(operator, truth, noise**2)
    covariance = parameters("full")[1][1]
    spread = operator @ covariance @ operator.T + noise**2 * np.eye(2)
    gain = covariance @ operator.T @ np.linalg.inv(spread)
    exact = operator @ (np.eye(3) - gain @ operator) @ covariance @ operator.T
    assert posterior.axes is not None
    factor = operator @ np.asarray(posterior.axes[1], np.float64) * np.asarray(posterior.scales[1])
    np.testing.assert_allclose(factor @ factor.T, exact, rtol=0.02, atol=0.02 * noise**2)


def test_images_are_conditioned_on_images():
    """Operators and noise of any shape agree with their flattened forms."""
    model = mixture("image")
    rng = np.random.default_rng(4)
    operator, seen = rng.standard_normal((2, 2, 3, 2)), rng.standard_normal((2, 2))
    variances = np.array([[0.1, 0.2], [0.3, 0.4]])
    shaped, log_evidence = model.posterior(operator, seen, variances)
    assert shaped.means.shape == (3, 3, 2) and shaped.event_shape == (3, 2)
    flat, flat_log_evidence = model.posterior(
        operator.reshape(4, 6), seen.ravel(), np.diag(variances.ravel())
    )
    np.testing.assert_allclose(shaped.means, flat.means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_evidence, flat_log_evidence, rtol=1e-5)


def test_log_evidence_has_derivatives():
    """The oracle for hyperparameters: d log p(y) / d noise against a central difference."""
    prior = problems.prior(8)
    rows, values = problems.observed("lg8")

    def log_evidence(noise):
        return prior.posterior(rows, values, noise**2)[1]

    step = 0.02
    difference = (log_evidence(0.5 + step) - log_evidence(0.5 - step)) / (2 * step)
    # The difference is off by step^2 / 6 third derivatives (of order 100) and by rounding.
    assert float(jax.jit(jax.grad(log_evidence))(0.5)) == pytest.approx(float(difference), rel=0.01)


def test_moments_match_the_reference():
    for kind in EVENTS:
        mean, covariance = reference(kind).moments()
        computed = mixture(kind).moments()
        np.testing.assert_allclose(np.ravel(computed[0]), mean, rtol=1e-5)
        np.testing.assert_allclose(np.ravel(computed[1]), np.ravel(covariance), atol=1e-5)
        np.testing.assert_allclose(mixture(kind).covariances, parameters(kind)[1], atol=1e-6)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 2)])
def test_scales_broadcast(shape):
    means, scales = np.arange(12.0).reshape(2, 3, 2), 0.5 + np.arange(np.prod(shape)).reshape(shape)
    model = GaussianMixture(means, scales=scales)
    padded = scales.reshape(shape + (1,) * (3 - len(shape)))
    np.testing.assert_allclose(model.scales, np.broadcast_to(padded, (2, 3, 2)))
    np.testing.assert_allclose(model.weights, [0.5, 0.5])


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


def test_diagonal_components_of_large_events_form_no_square_matrix():
    model = GaussianMixture(np.zeros((10, 28, 28)), scales=0.3)
    x = jnp.zeros((28, 28))
    for function in (model.score, model.denoise, model.log_prob):
        assert _largest_intermediate(jax.make_jaxpr(function)(x, 0.3).jaxpr) <= 10 * 784
    drawing = jax.make_jaxpr(lambda key: model.sample_exact(key, (5,), 0.3))(jax.random.key(0))
    assert _largest_intermediate(drawing.jaxpr) <= 10 * 784
    assert _largest_intermediate(jax.make_jaxpr(model.covariance)(x, 0.3).jaxpr) >= 784**2


EYES = np.stack([np.eye(2)] * 3)


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


@pytest.mark.parametrize(
    ("operator", "seen", "noise", "message"),
    [
        (np.ones((1, 2)), np.zeros(1), 1.0, "`A` has shape"),
        (np.ones((2, 3)), np.zeros(1), 1.0, "`A` has shape"),
        (np.ones((1, 3)), np.zeros(1), np.ones(3), "`noise_covariance` has shape"),
        (np.ones((1, 3)), np.array([np.nan]), 1.0, "`y` holds NaN"),
        (np.full((1, 3), np.inf), np.zeros(1), 1.0, "`A` holds NaN"),
        (np.ones((1, 3)), np.zeros(1), np.nan, "`noise_covariance` holds NaN"),
        (np.ones((1, 3)), np.zeros(1), 0.0, "`noise_covariance` must be positive definite"),
        (np.ones((2, 3)), np.zeros(2), [1.0, -1.0], "must be positive definite"),
        (np.ones((2, 3)), np.zeros(2), [[1.0, 2.0], [2.0, 1.0]], "must be positive definite"),
    ],
)
def test_bad_observations_are_refused(operator, seen, noise, message):
    with pytest.raises(ValueError, match=message):
        mixture("full").posterior(operator, seen, noise)


def test_batches_are_refused():
    model = mixture("full")
    for method in (model.score, model.denoise, model.log_prob, model.covariance):
        with pytest.raises(ValueError, match="use `jax.vmap`"):
            method(jnp.zeros((2, 3)), 0.1)
        with pytest.raises(ValueError, match="`t` has shape"):
            method(jnp.zeros(3), jnp.array([0.1, 0.2, 0.3]))


def _z_score(values):
    return values.mean() / values.std() * np.sqrt(len(values))


def _chi_square_p_value(deviations):
    """P-value of "the expectation of every column is zero"."""
    mean, spread = deviations.mean(0), np.atleast_2d(np.cov(deviations.T))
    return chi2.sf(len(deviations) * mean @ np.linalg.solve(spread, mean), len(mean))


def _largest_intermediate(jaxpr):
    sizes = [np.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars]
    inner = [sub for eqn in jaxpr.eqns for sub in _jaxprs(eqn.params)]
    return max([*sizes, *map(_largest_intermediate, inner)])


def _jaxprs(params):
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr"))
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if hasattr(leaf, "jaxpr")]
