"""Linear-Gaussian posteriors and evidence, and the shared problems that rest on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from scoreppl.analytic import GaussianMixture
from tests import problems
from tests.analytic.mixtures import chi_square_p_value, mixture, parameters

SEEDS = (0, 1, 2)


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
    assert chi_square_p_value(truth.draws - truth.mean) > 1e-7


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


def _z_score(values):
    return values.mean() / values.std() * np.sqrt(len(values))
