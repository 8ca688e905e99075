"""Control variates: less variance, the same mean, errors that stay calibrated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from tests import problems
from tests.estimators.laws import TRUTH, chain_draws, importance_draws
from tests.estimators.test_importance import check_calibrated, z_scores

PARTS = {
    "degree 1": "stein",
    "degree 2": sp.estimators.Stein(degree=2),
    "kernel": sp.estimators.SteinKernel(num_centres=10),
    "functions": sp.estimators.SteinFunctions(lambda x: jnp.stack([jnp.sin(x[0]), jnp.cos(x[0])])),
}


@pytest.mark.parametrize("part", PARTS)
def test_errors_stay_calibrated(part):
    def estimate(seed):
        draws, values = importance_draws(seed)
        # x and x^2 are explained to the last digit by some: their third power is by none.
        values = np.stack([draws.values["x"] ** 3, values[:, 2]], 1)
        return sp.estimators.expectation(values, draws, control_variates=PARTS[part])

    check_calibrated(z_scores(estimate, np.array([1.625, TRUTH[2]])))


def test_errors_of_chains_stay_calibrated():
    def estimate(seed):
        draws = chain_draws(seed)
        return sp.estimators.expectation(draws.values["x"] ** 3, draws, control_variates="stein")

    check_calibrated(z_scores(estimate, 0.0))


@pytest.mark.slow
def test_many_functions_of_noise_neither_bias_nor_lie():
    def estimate(seed):
        draws, values = importance_draws(seed, size=120)
        noise = np.random.default_rng(seed + 10_000).standard_normal((120, 60))
        return sp.estimators.expectation(values[:, 0], draws, control_variates=noise)

    check_calibrated(z_scores(estimate, TRUTH[0]))


@pytest.mark.filterwarnings("ignore:The Pareto k")
def test_a_penalty_chosen_on_other_draws_leaves_plain_means_unbiased():
    """Chosen by the draws that it is applied to, it takes a quarter of a standard deviation off."""
    errors = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        x, weight = rng.standard_normal((120, 60)), rng.exponential(size=120)
        draws = sp.estimators.weighted_draws({"x": x}, np.log(weight))
        found = sp.estimators.expectation(1 + x[:, 0], draws, control_variates=x, normalised=False)
        errors.append(found.value - 1.0)
    # Four errors of the mean: false-alarm rate 6e-5.
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors))


@pytest.mark.slow
def test_errors_by_kernels_are_nearly_calibrated():
    """Their residuals have rare large values: errors may be a quarter too small, and not more."""
    z = []
    for seed in range(200):
        x = np.random.default_rng(seed).standard_normal((1_000, 1))
        draws = sp.estimators.weighted_draws({"x": x}, position=x, score=-x)
        found = sp.estimators.expectation(
            np.stack([np.sin(x[:, 0]), np.exp(x[:, 0] / 2)], 1), draws,
            control_variates=sp.estimators.SteinKernel(),
        )  # fmt: skip
        z.append((found.value - [0.0, np.exp(0.125)]) / found.standard_error)
    # A spread of 200 is known to 5 %.
    assert np.all(np.std(z, 0) < 1.3)


def test_control_variates_of_another_mean_are_noticed():
    x = np.random.default_rng(0).standard_normal((400, 1))
    draws = sp.estimators.weighted_draws({"x": x})
    with pytest.warns(UserWarning, match="standard errors from zero under the draws"):
        sp.estimators.expectation(x[:, 0] ** 2, draws, control_variates=x + 0.5)
    wrong = sp.estimators.weighted_draws({"x": x}, position=x, score=1.0 - x)
    with pytest.warns(UserWarning, match="a `score` must be that of the target"):
        sp.estimators.expectation(x[:, 0] ** 2, wrong, control_variates="stein")


def test_polynomials_explain_normal_targets():
    draws, values = importance_draws(0)
    first = sp.estimators.expectation(values, draws, control_variates="stein")
    second = sp.estimators.expectation(values, draws, control_variates=PARTS["degree 2"])
    assert abs(first.value[0] - TRUTH[0]) < 1e-8
    np.testing.assert_allclose(second.value[:2], TRUTH[:2], atol=1e-6)
    # An indicator is hardly explained.
    assert second.variance_reduction[2] < 6


@pytest.fixture(scope="module")
def plane():
    """Exact draws of a posterior in the plane with two modes (shares 0.18 and 0.82)."""
    problem, truth = problems.problem("lg2"), problems.truth("lg2")
    return problem, truth, np.asarray(truth.draws)


def smooth_functions(x):
    return np.stack([x[:, 0], x[:, 1], np.sum(x**2, 1), np.exp(x[:, 0] / 2)], 1)


def test_a_kernel_explains_smooth_functions_of_a_mixture(plane):
    problem, _, x = plane
    score = jax.jit(
        jax.vmap(lambda x: problem.prior.score(x, 0.0) + jax.grad(problem.log_weight)(x))
    )
    x = x[:2_000]
    draws = sp.estimators.weighted_draws({"x": x}, position=x, score=score(jnp.asarray(x)))
    found = sp.estimators.expectation(
        smooth_functions(x), draws, control_variates=sp.estimators.SteinKernel(100)
    )
    assert np.all(found.variance_reduction > 10), found.variance_reduction
