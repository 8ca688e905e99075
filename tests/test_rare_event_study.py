"""The rare-event case study: its truths, its design points, its bookkeeping, and a small run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, ncx2, norm

pytest.importorskip("sklearn")

import scoreppl as sp
from case_studies.augmentation.data import split
from case_studies.rare_event.digits import LEAST, Plain, Smoothed, torn
from case_studies.rare_event.form import at_design_point
from case_studies.rare_event.methods import Estimates, by_branches, by_rare_event, pooled
from case_studies.rare_event.problems import (
    corner,
    four_branch,
    half_space,
    of_mixture,
    outside_of_ball,
    plain_check,
    skewed,
)
from case_studies.rare_event.run import gain, held, main
from tests import rare_problems
from tests.problems import Components

# Slow all of them, because scikit-learn is there when the slow tests are run.
pytestmark = pytest.mark.slow
LINE = sp.analytic.GaussianMixture(jnp.zeros((1, 1)), scales=1.0)


def estimates(log_probability, error=0.1, evaluations=1.0):
    logs = np.asarray(log_probability, float)
    return Estimates(logs, np.full(len(logs), error), 10**6, evaluations, 1.0, 1.0)


@pytest.mark.parametrize("problem", [four_branch(), corner()], ids=["four branches", "RP25"])
def test_quadrature_agrees_with_what_is_published(problem):
    assert problem.truth == pytest.approx(problem.published, rel=1e-9)


@pytest.mark.parametrize(
    "make", [four_branch, corner, skewed], ids=["four branches", "RP25", "skewed"]
)
def test_plain_draws_meet_events_as_often_as_truths_say(make):
    """Of 4 million: 4.5 standard deviations of a count, false-alarm rate 1e-5."""
    problem = make()
    met, count = plain_check(problem, 4_000_000)
    expected = problem.truth * count
    assert abs(met - expected) < 4.5 * np.sqrt(expected)


def test_the_outside_of_a_ball_is_a_noncentral_chi_squared():
    """A mixture of two: unequal variances are checked against weighted draws below."""
    means = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]])
    law = Components(np.array([0.3, 0.7]), means, np.array([4.0 * np.eye(3), np.eye(3)]))
    exact = 0.3 * chi2.sf(4.0**2 / 4, 3) + 0.7 * ncx2.sf(4.0**2, 3, 5.25)
    assert outside_of_ball(law, 4.0) == pytest.approx(exact, rel=1e-6)


def test_the_outside_of_the_ball_agrees_with_weighted_draws():
    """Of an effective number of 2,099: 4.5 standard errors, false-alarm rate 7e-6."""
    weighted = rare_problems.truth("shell8")
    off = np.log(of_mixture("shell8").truth) - weighted.log_evidence
    assert abs(off) < 4.5 * weighted.effective_draws**-0.5


@pytest.mark.parametrize("problem", [four_branch(), corner(), of_mixture("shell8")])
def test_the_limit_state_and_the_check_are_of_one_event(problem):
    """Draws of twice the spread, half of which or more meet an event or nearly do."""
    x = 2.5 * np.random.default_rng(0).standard_normal((2_000, problem.size))

    class Given:
        def standard_normal(self, shape):
            return x

        def integers(self, high):
            return 0

    states = np.asarray(jax.vmap(problem.limit_state)(jnp.asarray(x)))
    inside = states > 0
    assert 0 < inside.sum() < len(x)
    if problem.is_normal:
        np.testing.assert_array_equal(inside, problem.check(Given(), len(x)))
    if problem.branches:
        by_branch = np.array([jax.vmap(branch)(jnp.asarray(x)) for branch in problem.branches])
        np.testing.assert_allclose(by_branch.max(0), states, atol=1e-4)


def test_first_order_reliability_is_exact_for_a_half_space():
    problem = half_space(50)
    found = at_design_point(jax.random.key(0), problem.limit_state, 50, 2_000)
    assert float(found.log_form) == pytest.approx(norm.logsf(5.0), abs=1e-3)
    assert abs(found.log_probability - norm.logsf(5.0)) < 4.5 * found.standard_error
    assert 0.02 < found.standard_error < 0.1


def test_first_order_reliability_finds_one_of_four_branches():
    problem = four_branch()
    found = at_design_point(jax.random.key(0), problem.limit_state, 2, 4_000)
    assert float(found.log_form) == pytest.approx(norm.logsf(3.0), abs=1e-3)
    # Of the event it has one branch, or two that share most of their draws.
    assert np.exp(found.log_probability) < 0.6 * problem.truth


def test_estimates_of_one_call_are_those_of_the_library():
    method = sp.estimators.GuidedPaths(num_paths=50, num_steps=6, num_pilots=16)

    def state(x):
        return x[0] - 2.0

    key = jax.random.key(1)
    mine = by_rare_event(LINE, state, method, key, 1)
    library = sp.estimators.rare_event(key, LINE, state, method=method)
    assert mine.log_probability[0] == pytest.approx(library.log_probability, abs=1e-5)
    assert mine.standard_error[0] == pytest.approx(library.standard_error, rel=1e-5)
    np.testing.assert_allclose(mine.interval[:, 0], library.log_interval, atol=1e-4)
    assert mine.evaluations == library.num_score_evaluations
    # Two sigma points a step of one dimension, and the end.
    assert mine.states == 50 * (6 * 2 + 1)


def test_pooled_errors_are_those_of_means():
    rng = np.random.default_rng(0)
    logs = np.log(rng.gamma(4.0, size=(2_000, 4)))
    value, error = pooled(logs)
    np.testing.assert_allclose(np.exp(value), np.exp(logs).mean(1))
    # The mean of four has a relative variance of 1/16.
    assert np.sqrt(np.mean((error * np.exp(value) / 4) ** 2)) == pytest.approx(0.25, rel=0.05)
    value, error = pooled(np.full((1, 4), -np.inf))
    assert value[0] == -np.inf and error[0] == np.inf


def test_a_union_is_estimated_branch_by_branch():
    """Two overlapping events, counted twice where they overlap unless N(x) is right."""
    branches = (lambda x: x[0] - 2.0, lambda x: x[0] - 2.2, lambda x: -x[0] - 2.5)
    method = sp.estimators.GuidedPaths(num_paths=300, num_steps=8, num_pilots=32)
    found = by_branches(LINE, branches, method, jax.random.key(2), 2)
    truth = np.log(norm.sf(2.0) + norm.sf(2.5))
    assert np.all(np.abs(found.log_probability - truth) < 4.5 * found.standard_error + 0.02)
    assert np.all(found.standard_error < 0.1)


@pytest.mark.filterwarnings("ignore:The Pareto k")
def test_a_smoothed_guidance_leaves_the_estimate_right():
    method = sp.estimators.GuidedPaths(
        num_paths=1_000, num_steps=12, guidance=Smoothed, num_pilots=64
    )  # fmt: skip
    found = sp.estimators.rare_event(
        jax.random.key(3), LINE, lambda x: x[0] - 2.0, method=method
    )  # fmt: skip
    assert abs(found.log_probability - norm.logsf(2.0)) < 4.5 * found.standard_error + 0.05
    assert found.num_score_evaluations == 1_000 * 12 * 3 + 64 * 112


def test_real_digits_are_rarely_torn():
    images = jnp.asarray(split()[1].images)
    states = np.asarray(jax.vmap(torn)(images))
    assert states.shape == (297,) and np.all(states <= np.log(0.5 / LEAST) + 1e-5)
    assert np.mean(states > 0) < 0.02


def test_a_gain_is_a_ratio_of_evaluations_for_one_error():
    rng = np.random.default_rng(0)
    near, far = (np.log1p(sd * rng.standard_normal(400)) for sd in (0.05, 0.1))
    value, low, high = gain(estimates(near, evaluations=2.0), estimates(far), 1.0)
    assert low < 2.0 < high and abs(value / 2.0 - 1) < 0.2


def test_intervals_are_counted_that_hold_the_truth():
    assert held(estimates([0.0, 0.19, 0.21, -np.inf], 0.1), 1.0) == "2 of 4"
    assert held(estimates([0.0], np.inf), 1.0) == "1 of 1"
    low, high = Plain(10, 10_000, 1).interval
    assert low < 1e-3 < high and low == pytest.approx(4.8e-4, rel=0.02)


@pytest.mark.slow
def test_a_small_run_writes_everything_but_digits(tmp_path):
    main(tmp_path, num_estimates=2, num_checks=1_000_000, num_plain=0, problems=[four_branch()])
    names = {"truths.md", "flow.md", "methods.md", "estimates.png"}
    assert names == {file.name for file in tmp_path.iterdir()}
    table = (tmp_path / "methods.md").read_text()
    assert "nan" not in table and table.count("\n") == 10
