"""Probabilities of rare events with known truth, and intervals that cover."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC
from scipy.stats import norm

import scoreppl as sp
from scoreppl.estimators.event_paths import EventPaths
from scoreppl.estimators.event_source import read_source
from tests import rare_problems

GUIDED, SPLITTING, TEMPERING = (
    sp.estimators.GuidedPaths,
    sp.estimators.Splitting,
    sp.estimators.Tempering,
)
FIVE_SIGMA = norm.logsf(5.0)


def normal(size):
    return sp.analytic.GaussianMixture(jnp.zeros((1, size)), scales=1.0)


def beyond(threshold):
    """The sum of the coordinates, standardised, above a threshold."""
    return lambda x: jnp.sum(x) / jnp.sqrt(x.size) - threshold


def skewed():
    """A mixture in the plane whose far right is the small component's."""
    return sp.analytic.GaussianMixture(
        jnp.array([[0.0, 0.0], [1.5, -1.0]]), scales=jnp.array([0.5, 0.8]),
        weights=jnp.array([0.9, 0.1]),
    )  # fmt: skip


# P(x_0 > 4.5) is 0.1 of Phi(-3.75), and of the other component nothing.
SKEWED_LEVEL, SKEWED_TRUTH = 4.5, np.log(0.1) + norm.logsf(3.75)


def check(found, truth, most_error):
    # Four standard errors, 6e-5, and what few steps are off by.
    assert abs(found.log_probability - truth) < 4 * found.standard_error + 0.03
    assert 0 < found.standard_error < most_error
    low, high = found.interval
    assert low < found.probability < high
    assert found.probability == pytest.approx(np.exp(found.log_probability))


def test_five_sigma_by_guided_paths():
    found = sp.estimators.rare_event(
        jax.random.key(0), normal(2), beyond(5.0),
        method=GUIDED(num_paths=400, num_steps=16, num_pilots=64),
    )  # fmt: skip
    check(found, FIVE_SIGMA, 0.1)
    assert found.num_score_evaluations == 400 * 16 * 5 + 64 * 116 <= 200_000
    inside = np.isfinite(found.draws.log_weight)
    assert np.all(found.draws.values["x"][inside].sum(1) > 5.0 * 2**0.5)
    mean = sp.estimators.expectation(lambda d: jnp.sum(d["x"]) / 2**0.5, found.draws)
    exact = np.exp(norm.logpdf(5.0) - FIVE_SIGMA)
    assert abs(mean.value - exact) < 4 * mean.standard_error + 0.01


@pytest.mark.slow
def test_five_sigma_in_fifty_dimensions_within_two_hundred_thousand_evaluations():
    found = sp.estimators.rare_event(
        jax.random.key(1), normal(50), beyond(5.0),
        method=GUIDED(num_paths=100, num_steps=16, num_pilots=64),
    )  # fmt: skip
    check(found, FIVE_SIGMA, 0.1)
    assert found.num_score_evaluations <= 200_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        GUIDED(num_paths=1000),
        GUIDED(num_paths=500, resampling=sp.correctors.Resampling()),
        SPLITTING(num_particles=400),
        TEMPERING(num_particles=400),
    ],
    ids=["paths", "resampled", "splitting", "tempering"],
)
def test_the_tail_of_a_skewed_mixture(method):
    found = sp.estimators.rare_event(
        jax.random.key(2), skewed(), lambda x: x[0] - SKEWED_LEVEL, method=method,
        num_runs=None if method == GUIDED(num_paths=1000) else 8,
    )  # fmt: skip
    check(found, SKEWED_TRUTH, 0.25)
    inside = found.draws.values["x"][np.isfinite(found.draws.log_weight)]
    assert np.all(inside[:, 0] > SKEWED_LEVEL)
    second = sp.estimators.expectation(lambda d: d["x"][1], found.draws)
    # The small component's own mean, whatever its first coordinate.
    assert abs(second.value + 1.0) < 4.5 * second.standard_error + 0.03


def test_splitting_and_tempering_find_a_mild_event():
    truth = norm.logsf(2.5)
    for method in (SPLITTING(num_particles=300), TEMPERING(num_particles=300)):
        found = sp.estimators.rare_event(
            jax.random.key(3), normal(2), beyond(2.5), method=method, num_runs=4
        )
        check(found, truth, 0.3)
        assert found.draws.cluster.max() == 3
        assert len(found.log_probability_of_runs) == 4


def test_moves_of_the_flows_noise_know_no_score():
    """A flow of many steps has nearly the law of the model; few steps have another."""
    found = sp.estimators.rare_event(
        jax.random.key(4), normal(1), lambda x: x[0] - 2.0,
        method=SPLITTING(num_particles=500, num_moves=5, flow_steps=40), num_runs=4,
    )  # fmt: skip
    assert abs(found.log_probability - norm.logsf(2.0)) < 4 * found.standard_error + 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The Pareto k")
def test_intervals_cover():
    """Of 100 intervals of 95 %: 90 to 98 would be 0.985 of calibrated ones; one seed is fixed."""
    prior, method = normal(2), GUIDED(num_paths=60, num_steps=10, num_pilots=64)
    with pytest.MonkeyPatch.context() as patch:
        # Each call compiles its paths anew, for seconds, and here they are always the same.
        paths = EventPaths(read_source(prior, beyond(5.0)), method)
        patch.setattr(sys.modules["scoreppl.estimators.rare_event"], "EventPaths", lambda *_: paths)
        found = [
            sp.estimators.rare_event(jax.random.key(seed), prior, beyond(5.0), method=method)
            for seed in range(100)
        ]
    held = [low < FIVE_SIGMA < high for low, high in (one.log_interval for one in found)]
    assert 90 <= sum(held) <= 99
    z = [(one.log_probability - FIVE_SIGMA) / one.standard_error for one in found]
    assert 0.8 < np.std(z) < 1.25


@pytest.mark.slow
def test_intervals_of_splitting_cover():
    runs = sp.estimators.rare_event(
        jax.random.key(5), skewed(), lambda x: x[0] - 3.5,
        method=SPLITTING(num_particles=200, num_moves=5), num_runs=240,
    ).log_probability_of_runs  # fmt: skip
    truth = np.log(0.1) + norm.logsf(2.5)
    means = np.exp(runs.reshape(40, 6))
    errors = means.std(1, ddof=1) / means.mean(1) / 6**0.5
    z = (np.log(means.mean(1)) - truth) / errors
    # Student's t with five degrees, at 95 %: of 40, 33 or fewer have a probability of 1e-3.
    assert np.sum(np.abs(z) < 2.57) >= 34


def test_a_posteriors_event_is_split_by_its_own_kernel():
    prior = normal(1)

    def model(y):
        x = numpyro.sample("x", sp.ScorePrior(prior))
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(x[0], 1.0), obs=y)
        numpyro.deterministic("product", x[0] * scale)

    mcmc = MCMC(
        sp.ScoreMALA(model), num_warmup=500, num_samples=500, num_chains=4,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(6), 1.0, extra_fields=("position",))
    found = sp.estimators.rare_event(
        jax.random.key(7), mcmc, lambda d: d["product"] - 4.0,
        method=SPLITTING(num_particles=400), num_runs=4,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    exact = (0.5 + 0.5**0.5 * rng.standard_normal(4_000_000)) * np.abs(
        rng.standard_normal(4_000_000)
    )
    check(found, np.log(np.mean(exact > 4.0)), 0.4)
    assert np.all(found.draws.values["product"][np.isfinite(found.draws.log_weight)] > 4.0)
    with pytest.raises(ValueError, match="are for the law of a score model"):
        sp.estimators.rare_event(jax.random.key(0), mcmc, lambda d: d["product"], method=GUIDED())
    with pytest.raises(ValueError, match="`flow_steps` are for"):
        sp.estimators.rare_event(
            jax.random.key(0), mcmc, lambda d: d["product"], method=SPLITTING(flow_steps=5)
        )


@pytest.mark.slow
def test_the_error_of_a_posteriors_event_holds_that_of_its_chains():
    """Draws shared by all runs would make them agree, by five times too much at P = 0.06."""
    prior = normal(1)

    def model(y):
        x = numpyro.sample("x", sp.ScorePrior(prior))
        numpyro.sample("y", dist.Normal(x[0], 1.0), obs=y)

    z = []
    for seed in range(12):
        mcmc = MCMC(
            sp.ScoreMALA(model), num_warmup=200, num_samples=500, num_chains=2,
            chain_method="vectorized", progress_bar=False,
        )  # fmt: skip
        mcmc.run(jax.random.key(seed), 1.0, extra_fields=("position",))
        found = sp.estimators.rare_event(
            jax.random.key(seed), mcmc, lambda d: d["x"][0] - 1.6,
            method=SPLITTING(num_particles=200, num_moves=3),
        )  # fmt: skip
        z.append((found.log_probability - norm.logsf(1.1 / 0.5**0.5)) / found.standard_error)
    # Student's t with 9 degrees; 12 values know their spread to 25 %, and shared draws had 4.9.
    assert np.std(z) < 1.9 and np.abs(np.mean(z)) < 1.2


def test_common_events_of_a_posterior_have_an_error_and_short_runs_are_refused():
    prior = normal(1)

    def model():
        numpyro.sample("x", sp.ScorePrior(prior))

    mcmc = MCMC(
        sp.ScoreMALA(model), num_warmup=100, num_samples=250, num_chains=4,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), extra_fields=("position",))
    found = sp.estimators.rare_event(
        jax.random.key(1), mcmc, lambda d: d["x"][0] - 0.5, method=SPLITTING(), num_runs=4
    )
    assert found.standard_error > 0.01
    assert abs(found.log_probability - norm.logsf(0.5)) < 5 * found.standard_error
    with pytest.raises(ValueError, match="`num_runs=1001`"):
        sp.estimators.rare_event(
            jax.random.key(1), mcmc, lambda d: d["x"][0], method=SPLITTING(), num_runs=1_001
        )


def test_a_run_that_meets_nothing_is_an_estimate_of_zero():
    """Left out or tried again, such runs would make the mean of the others too large."""
    method = GUIDED(
        num_paths=8, num_steps=5, num_pilots=16, guidance=lambda g: sp.guidance.Unguided()
    )
    found = sp.estimators.rare_event(
        jax.random.key(0), normal(1), lambda x: x[0] - 2.0, method=method, num_runs=60
    )
    assert np.any(found.log_probability_of_runs == -np.inf)
    share = np.mean(found.draws.log_weight > -np.inf)
    assert found.probability == pytest.approx(share, rel=1e-5)
    assert abs(found.log_probability - norm.logsf(2.0)) < 4 * found.standard_error + 0.3


def test_a_limit_state_that_is_no_number_is_named():
    for method in (GUIDED(num_paths=20, num_steps=4, num_pilots=8), SPLITTING(num_particles=20)):
        with pytest.raises(ValueError, match="`limit_state` is not a number"):
            sp.estimators.rare_event(
                jax.random.key(0), normal(1), lambda x: jnp.sum(x) * jnp.nan, method=method
            )


@pytest.mark.slow
def test_wrong_weights_and_moves_are_caught():
    """Mutants: moves that leave the level's law, no resampling, a last share without its factor."""
    from scoreppl.estimators import event_levels, event_moves

    def error():
        found = sp.estimators.rare_event(
            jax.random.key(8), skewed(), lambda x: x[0] - SKEWED_LEVEL,
            method=SPLITTING(num_particles=400), num_runs=8,
        )  # fmt: skip
        return abs(found.log_probability - SKEWED_TRUTH) / found.standard_error

    assert error() < 4
    with pytest.MonkeyPatch.context() as patch:
        # Without the potential particles drift back under the levels they were chosen by.
        original = event_moves.LangevinMoves.move
        patch.setattr(
            event_moves.LangevinMoves, "move",
            lambda self, key, particles, potential, size: original(
                self, key, particles, lambda g: jnp.zeros(()), size
            ),
        )  # fmt: skip
        with pytest.raises((AssertionError, ValueError)):
            assert error() < 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_levels, "systematic", lambda key, weights, count: jnp.arange(count))
        with pytest.raises((AssertionError, ValueError)):
            assert error() < 4
    with pytest.MonkeyPatch.context() as patch:
        original_level = event_levels._log_potential
        patch.setattr(
            event_levels, "_log_potential", lambda *a: original_level(*a) + 1.0 * (a[1] == 0)
        )
        with pytest.raises((AssertionError, ValueError)):
            assert error() < 4


def test_the_cross_entropy_chooses_the_better_guidance():
    candidates = [
        GUIDED(num_steps=10, guidance=lambda g: sp.guidance.LimitState(g, widening=3.0)),
        GUIDED(num_steps=10, guidance=lambda g: sp.guidance.LimitState(g, widening=1.0)),
        GUIDED(num_steps=10, guidance=lambda g: sp.guidance.Unguided()),
    ]
    chosen = sp.estimators.choose_paths(
        jax.random.key(9), normal(2), beyond(4.0), candidates, num_paths=100
    )
    assert chosen is candidates[1]
    with pytest.raises(ValueError, match="No pilot of any candidate"):
        sp.estimators.choose_paths(
            jax.random.key(9), normal(2), beyond(9.0), candidates[2:], num_paths=20
        )
    with pytest.raises(ValueError, match="without `resampling`"):
        sp.estimators.choose_paths(jax.random.key(9), normal(2), beyond(1.0), [])


@pytest.mark.parametrize(
    ("source", "limit_state", "options", "message"),
    [
        (normal(2), lambda x: x, {}, r"returned shape \(2,\)"),
        (normal(2), 3.0, {}, "is not callable"),
        (object(), beyond(1.0), {}, "neither a score model"),
        (normal(2), beyond(1.0), {"method": "paths"}, "is no method"),
        (normal(2), beyond(1.0), {"level": 95}, "strictly between 0 and 1"),
        (normal(2), beyond(1.0), {"method": SPLITTING(), "num_runs": 1}, "`num_runs=1`"),
    ],
)
def test_bad_arguments_are_refused(source, limit_state, options, message):
    with pytest.raises(ValueError, match=message):
        sp.estimators.rare_event(jax.random.key(0), source, limit_state, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SPLITTING(share=1.0), "`share=1.0`"),
        (lambda: SPLITTING(num_particles=2), "`num_particles=2`"),
        (lambda: TEMPERING(num_moves=0), "`num_moves=0`"),
        (lambda: GUIDED(num_paths=1), "`num_paths=1`"),
        (lambda: sp.guidance.LimitState(beyond(1.0), widening=0.5), "`widening=0.5`"),
    ],
)
def test_bad_methods_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_impossible_event_is_said_to_be_out_of_reach():
    def impossible(x):
        return -1.0 - jnp.sum(x**2)

    with pytest.raises(ValueError, match="None of 50 paths met the event"):
        sp.estimators.rare_event(
            jax.random.key(0), normal(1), impossible,
            method=GUIDED(num_paths=50, num_steps=5, num_pilots=16),
        )  # fmt: skip
    for method in (SPLITTING, TEMPERING):
        with pytest.raises(ValueError, match="The event was not reached in .* come up to -1"):
            sp.estimators.rare_event(
                jax.random.key(0), normal(1), impossible,
                method=method(num_particles=50, max_levels=8), num_runs=2,
            )  # fmt: skip


def test_the_outside_of_a_ball_with_a_reference_from_few_pilots():
    """Also see tests/samplers/test_regression_targets.py, on a ladder of its own."""
    problem, truth = rare_problems.problem("shell8"), rare_problems.truth("shell8")
    found = sp.estimators.rare_event(
        jax.random.key(10), problem.prior, problem.limit_state,
        method=GUIDED(num_paths=500), num_runs=2,
    )  # fmt: skip
    check(found, truth.log_evidence, 0.4)
