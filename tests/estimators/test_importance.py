"""Expectations from weighted draws: right, with errors that are the spread of repetitions."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC
from scipy.stats import norm

import scoreppl as sp
from tests.estimators.laws import TRUTH, chain_draws, importance_draws

NUM_SEEDS = 200
# The standard deviation of 200 z-scores is known to 5 %: beyond 0.83 or 1.18, about 5e-4.
CALIBRATED = (0.83, 1.18)


def z_scores(estimate, truth):
    found = [estimate(seed) for seed in range(NUM_SEEDS)]
    values = np.array([one.value for one in found])
    return (values - truth) / np.array([one.standard_error for one in found])


def check_calibrated(z):
    assert np.all((z.std(0) > CALIBRATED[0]) & (z.std(0) < CALIBRATED[1])), z.std(0)
    # A bias of the order of the error over the root of the draws is a ratio's own.
    assert np.all(np.abs(z.mean(0)) < 0.3), z.mean(0)


@pytest.mark.parametrize("normalised", [True, False])
def test_errors_of_weighted_draws_are_calibrated(normalised):
    def estimate(seed):
        draws, values = importance_draws(seed)
        return sp.estimators.expectation(values, draws, normalised=normalised)

    check_calibrated(z_scores(estimate, TRUTH))


def test_errors_of_chains_are_calibrated_and_those_of_independent_draws_would_not_be():
    def estimate(seed, independent=False):
        draws = chain_draws(seed)
        if independent:
            draws = draws._replace(cluster=np.arange(len(draws.cluster)), chain=None)
        x = draws.values["x"]
        return sp.estimators.expectation(np.stack([x, x**2], 1), draws)

    truth = np.array([0.0, 1.0])
    check_calibrated(z_scores(estimate, truth))
    assert np.all(z_scores(lambda seed: estimate(seed, True), truth).std(0) > 1.5)


# Chains of six effective draws each may differ by chance: one in sixty such runs warns.
@pytest.mark.filterwarnings("ignore:Chains differ")
def test_errors_of_batches_shorter_than_the_autocorrelation_are_calibrated():
    """Batches of 31 draws whose autocorrelation is 0.95: without their own errors are too small."""

    def estimate(seed, is_chain=True):
        draws = chain_draws(seed, 0.95, 250)
        draws = draws if is_chain else draws._replace(chain=None)
        return sp.estimators.expectation(draws.values["x"][:, None], draws)

    check_calibrated(z_scores(estimate, np.zeros(1)))
    assert z_scores(lambda seed: estimate(seed, False), np.zeros(1)).std() > 1.25


def test_a_function_of_one_draw_and_its_values_are_the_same():
    draws, values = importance_draws(0)
    found = sp.estimators.expectation(lambda d: jnp.stack([d["x"], d["x"] ** 2]), draws)
    given = sp.estimators.expectation(values[:, :2], draws)
    np.testing.assert_allclose(found.value, given.value, rtol=1e-5)
    np.testing.assert_allclose(found.standard_error, given.standard_error, rtol=1e-5)
    assert given.num_draws == given.num_clusters == 500
    share = np.exp(draws.log_weight)
    np.testing.assert_allclose(given.ess, share.sum() ** 2 / (share**2).sum())


def test_plain_estimates_keep_the_evidence_and_ratios_lose_it():
    draws, values = importance_draws(1)
    scaled = draws._replace(log_weight=draws.log_weight + 700.0)
    with np.errstate(over="raise"):
        ratio = sp.estimators.expectation(values, scaled)
    np.testing.assert_allclose(ratio.value, sp.estimators.expectation(values, draws).value)
    plain = sp.estimators.expectation(values, draws, normalised=False)
    up = draws._replace(log_weight=draws.log_weight + 1.0)
    np.testing.assert_allclose(
        sp.estimators.expectation(values, up, normalised=False).value, np.e * plain.value
    )


def test_draws_without_weight_do_not_count_and_may_have_no_value():
    draws, values = importance_draws(2)
    more = sp.estimators.weighted_draws(
        {"x": np.concatenate([draws.values["x"], np.zeros(500)])},
        np.concatenate([draws.log_weight, np.full(500, -np.inf)]),
    )
    padded = np.concatenate([values, np.full((500, 3), np.nan)])
    found = sp.estimators.expectation(padded, more)
    expected = sp.estimators.expectation(values, draws)
    np.testing.assert_allclose(found.value, expected.value)
    np.testing.assert_allclose(found.standard_error, expected.standard_error, rtol=2e-3)


def heavy_draws(seed, shape):
    """Draws of N(0, 1) whose weights have a Pareto tail, unrelated to them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(4_000)
    return sp.estimators.weighted_draws({"x": x}, shape * rng.exponential(size=4_000)), x


def test_heavy_tails_warn():
    draws, x = heavy_draws(0, 0.8)
    with pytest.warns(UserWarning, match="`balance_heuristic` with a share"):
        assert sp.estimators.expectation(x**2 < 1, draws).pareto_k > 0.7


@pytest.mark.filterwarnings("ignore:The Pareto k:UserWarning")
def test_smoothing_tames_heavy_tails():
    truth, found = 2 * norm.cdf(1.0) - 1, []
    for seed in range(60):
        draws, x = heavy_draws(seed, 0.65)
        both = [sp.estimators.expectation(x**2 < 1, draws, smooth=smooth) for smooth in (0, 1)]
        found.append([float(one.value) for one in both])
    rough, smooth = np.transpose(found)
    # The same draws: a smaller spread, by more than the 9 % that 60 seeds know it to.
    assert smooth.std() < 0.9 * rough.std()
    assert abs(smooth.mean() - truth) < 5 * smooth.std() / 60**0.5


def test_smoothing_is_that_of_arviz():
    log_weight = importance_draws(3)[0].log_weight
    smoothed, pareto_k = sp.estimators.psis(log_weight)
    if hasattr(az, "psislw"):
        expected, shape = az.psislw(log_weight)
        assert pareto_k == pytest.approx(float(shape))
        np.testing.assert_allclose(smoothed - smoothed[0], expected - expected[0], atol=1e-9)
    np.testing.assert_allclose(np.logaddexp.reduce(smoothed), np.logaddexp.reduce(log_weight))


def test_a_tail_of_the_function_alone_is_seen():
    x = np.random.default_rng(0).standard_cauchy(4_000)
    with pytest.warns(UserWarning, match="of 1 of 2 expectations"):
        found = sp.estimators.expectation(
            np.stack([x, x > 0], 1), sp.estimators.weighted_draws({"x": x})
        )
    assert found.pareto_k[0] > 0.7 > found.pareto_k[1]


def test_the_balance_heuristic_pools_proposals_and_bounds_weights():
    def pooled(seed, counts=(800, 200)):
        rng = np.random.default_rng(seed)
        x = np.concatenate([
            3.0 + 0.5 * rng.standard_normal(counts[0]), 3.0 * rng.standard_normal(counts[1])
        ])  # fmt: skip
        log_proposals = np.stack([norm.logpdf(x, 3.0, 0.5), norm.logpdf(x, 0.0, 3.0)], 1)
        target = norm.logpdf(x, 2.5, 0.6)
        log_weight = sp.estimators.balance_heuristic(target, log_proposals, counts)
        # No weight is above that of the defensive draws alone, times n / n_2.
        bound = target - norm.logpdf(x, 0.0, 3.0) + np.log(sum(counts) / counts[1])
        assert np.all(log_weight <= bound + 1e-9)
        draws = sp.estimators.weighted_draws({"x": x}, log_weight)
        return sp.estimators.expectation(np.stack([x, x > 3], 1), draws)

    check_calibrated(z_scores(pooled, np.array([2.5, norm.sf(0.5 / 0.6)])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 0.0], np.zeros((2, 2)), [1]), "column for each of the 1 proposals"),
        (([0.0, 0.0], np.zeros((2, 2)), [1, 2]), "add up to 2 draws"),
        (([0.0, 0.0], np.full((2, 2), -np.inf), [1, 1]), "do not belong together"),
        (([np.nan, 0.0], np.zeros((2, 2)), [1, 1]), "not a number"),
    ],
)
def test_bad_proposals_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sp.estimators.balance_heuristic(*arguments)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"x": np.zeros(3)}, {"log_weight": np.full(3, -np.inf)}, "-inf for every draw"),
        ({"x": np.zeros(3)}, {"log_weight": [0.0, np.nan, 0.0]}, "not a number"),
        ({"x": np.zeros(3)}, {"log_weight": np.zeros(4)}, "must agree"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, {}, "must agree"),
        ({"x": 1.0}, {}, "must agree"),
        ({}, {}, "must agree"),
        ({"x": np.zeros(1)}, {}, "at least two"),
        ({"x": np.zeros(3)}, {"cluster": [0, 1]}, r"must be \(3,\)"),
        ({"x": np.zeros(3)}, {"score": np.zeros((2, 1))}, "must be 3 draws"),
        ({"x": np.zeros(3)}, {"score": np.full((3, 1), np.nan)}, "not finite"),
    ],
)
def test_bad_draws_are_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        sp.estimators.weighted_draws(values, **options)


def test_bad_functions_and_runs_are_refused():
    draws, values = importance_draws(0)
    with pytest.raises(ValueError, match="not finite at 500 of the 500"):
        sp.estimators.expectation(np.full(500, np.nan), draws)
    with pytest.raises(ValueError, match="first axis must be the 500 draws"):
        sp.estimators.expectation(np.zeros(3), draws)
    with pytest.raises(ValueError, match="Only 1.0 of 500 draws are effective"):
        sp.estimators.expectation(values, draws._replace(log_weight=100.0 * np.arange(500)))
    with pytest.raises(ValueError, match="weighted_draws"):
        sp.estimators.expectation(values, object())
    with pytest.raises(ValueError, match="`control_variates='regression'` is not known"):
        sp.estimators.expectation(values, draws, control_variates="regression")


def test_runs_of_every_kind_are_read():
    prior = sp.analytic.GaussianMixture(np.zeros((1, 1)), scales=1.0)

    def model(y):
        x = numpyro.sample("x", sp.ScorePrior(prior))
        numpyro.sample("y", dist.Normal(x[0], 1.0), obs=y)

    local = MCMC(
        sp.ScoreMALA(model), num_warmup=300, num_samples=500, num_chains=2,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="call its `run` first"):
        sp.estimators.expectation(lambda d: d["x"], local)
    local.run(jax.random.key(0), 1.0, extra_fields=("position", "target_score"))
    guided = MCMC(
        sp.GuidedDiffusion(model, accept=None, num_steps=20),
        num_warmup=0, num_samples=500, progress_bar=False,
    )  # fmt: skip
    guided.run(jax.random.key(1), 1.0)
    smc = sp.ScoreSMC(model, num_particles=500, num_steps=20)
    smc.run(jax.random.key(2), 1.0)
    for run, clusters in ((local, 32), (guided, 500), (smc, None)):
        found = sp.estimators.expectation(lambda d: d["x"][0], run)
        # The posterior is N(0.5, 0.5). Twenty steps are off by less than 0.02; 1e-5 each.
        assert abs(found.value - 0.5) < 4.5 * found.standard_error + 0.02
        assert 0 < found.standard_error < 0.2
        assert clusters in (None, found.num_clusters)
    helped = sp.estimators.expectation(lambda d: d["x"][0], local, control_variates="stein")
    # All of a normal posterior's mean is explained, in single precision.
    assert abs(helped.value - 0.5) < 1e-3
    assert helped.variance_reduction > 1e3
    with pytest.raises(ValueError, match="extra_fields=..position"):
        sp.estimators.expectation(lambda d: d["x"], guided, control_variates="stein")


def test_functions_that_no_draw_meets_have_no_error():
    draws, values = importance_draws(0)
    with pytest.warns(UserWarning, match="1 of 2 functions are zero at all draws"):
        found = sp.estimators.expectation(np.stack([values[:, 0], 0 * values[:, 0]], 1), draws)
    assert np.isinf(found.standard_error[1]) and np.isfinite(found.standard_error[0])


def test_one_cluster_has_no_error_and_says_so():
    draws = sp.estimators.weighted_draws({"x": np.arange(20.0)}, cluster=np.zeros(20, int))
    with pytest.warns(UserWarning, match="All draws are one cluster"):
        found = sp.estimators.expectation(lambda draw: draw["x"], draws)
    assert np.isnan(found.standard_error)


def test_chains_in_different_modes_are_noticed():
    rng = np.random.default_rng(0)

    def estimate(shift):
        x = rng.standard_normal((4, 500)) + shift * np.array([-1.0, -1.0, 1.0, 1.0])[:, None]
        batch = (np.arange(4)[:, None] * 8 + np.arange(500) * 8 // 500).ravel()
        draws = sp.estimators.weighted_draws({"x": x.ravel()}, cluster=batch)
        draws = draws._replace(chain=np.repeat(np.arange(4), 500))
        return sp.estimators.expectation(draws.values["x"], draws)

    with pytest.warns(UserWarning, match="they have not mixed"):
        estimate(1.0)
    # The false-alarm rate is 1e-4; warnings are errors in this suite.
    for _ in range(50):
        estimate(0.0)


def test_draws_and_weights_are_not_weighed_twice():
    draws, _ = importance_draws(0)
    with pytest.raises(ValueError, match="give their `values` and"):
        sp.estimators.resample(jax.random.key(0), draws, draws.log_weight, 100)
    drawn = sp.estimators.resample(jax.random.key(0), draws.values, draws.log_weight, 400)
    again = sp.estimators.expectation(lambda draw: draw["x"], sp.estimators.weighted_draws(drawn))
    assert abs(again.value - TRUTH[0]) < 0.25  # 400 draws of 350 effective ones: 4 errors


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: sp.estimators.weighted_draws(np.zeros(9)), "must be a dictionary"),
        (lambda: sp.estimators.weighted_draws({"x": np.zeros(9)}, 0.0), "it must be a vector"),
        (lambda: sp.estimators.weighted_draws({"x": np.zeros(2)}, ["a", "b"]), "holds no numbers"),
        (
            lambda: sp.estimators.weighted_draws({"x": np.zeros(2)}, cluster=[0.5, np.nan]),
            "must be a whole number",
        ),
        (
            lambda: sp.estimators.expectation(
                lambda draw: {"a": draw["x"]}, importance_draws(0)[0]
            ),
            "`fn` could not be evaluated",
        ),
        (
            lambda: sp.estimators.expectation(
                lambda draw: draw["x"], importance_draws(0)[0],
                control_variates=sp.estimators.Stein,
            ),
            "could not be evaluated",
        ),
        (
            lambda: sp.estimators.expectation(
                lambda draw: draw["x"],
                sp.estimators.weighted_draws({"x": np.arange(99.0)}, np.full(99, 800.0)),
                normalised=False,
            ),
            "use `normalised=True`",
        ),
        (lambda: sp.estimators.SteinFunctions("sin"), "is no function"),
        (lambda: sp.estimators.SteinKernel(length_scale="a"), "`length_scale='a'`"),
        (
            lambda: sp.estimators.balance_heuristic(np.zeros(4), np.zeros((4, 2)), [1.5, 2.5]),
            "vector of whole numbers",
        ),
    ],
)  # fmt: skip
def test_what_is_no_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
