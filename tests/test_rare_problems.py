"""The answers of `tests.rare_problems` by a second way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import rare_problems


def test_the_half_space_in_closed_form_agrees_with_importance_sampling():
    exact, found = rare_problems.truth("half8"), rare_problems.importance_truth("half8")
    error = found.effective_draws**-0.5
    # Two modes of shares 0.07 and 0.93. Five standard errors each: 6e-7, for ten numbers 6e-6.
    assert found.effective_draws > 100
    assert exact.log_evidence == pytest.approx(np.log(1e-6), abs=1e-9)
    assert abs(found.log_evidence - exact.log_evidence) < 5 * error
    assert abs(found.mode_masses[1] - exact.mode_masses[1]) < 5 * error * 0.25
    deviation = (found.mean - exact.mean) / np.sqrt(np.diag(exact.covariance))
    assert np.all(np.abs(deviation) < 5 * error)
    normal, threshold = rare_problems.half_space()
    assert np.all(exact.draws @ normal > threshold)
    # 20,000 draws: five standard errors of a variance are 5 %.
    spread = np.cov(exact.draws.T)
    np.testing.assert_allclose(np.diag(spread), np.diag(exact.covariance), rtol=0.05)


@pytest.mark.parametrize("name", ["heart2", "hind2"])
def test_importance_sampled_truths_agree_with_the_jax_problem(name):
    problem, truth = rare_problems.problem(name), rare_problems.truth(name)
    draws = problem.prior.sample_exact(jax.random.key(3), (400_000,))
    weights = np.exp(np.asarray(jax.vmap(problem.log_weight)(draws), np.float64))
    ratio = weights.mean() / np.exp(truth.log_evidence)
    error = np.hypot(weights.std() / weights.mean() / 400_000**0.5, truth.effective_draws**-0.5)
    # 6e-7 each.
    assert abs(ratio - 1) < 5 * error


def test_indicators_are_of_their_limit_states():
    rng = np.random.default_rng(0)
    for name in ("hind2", "half8", "shell8"):
        problem = rare_problems.problem(name)
        x = jnp.asarray(4.0 * rng.standard_normal((500, rare_problems.DIMENSIONS[name])))
        inside = np.asarray(jax.vmap(problem.limit_state)(x)) > 0
        assert 0 < inside.sum() < 500, name
        np.testing.assert_array_equal(np.exp(jax.vmap(problem.log_weight)(x)), inside)
