"""The portfolio case study: coverage tests, tail estimators, forecasts and the networks."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom, chi2, norm

from case_studies.portfolio_tail import backtest, run
from case_studies.portfolio_tail.coverage_tests import coverage_tests
from case_studies.portfolio_tail.data import NUM_TEST_DAYS, Returns, load_returns, volatility_of
from case_studies.portfolio_tail.network import FOLDER, NOISE, load
from case_studies.portfolio_tail.paths import (
    Tilt,
    fit_law,
    guided_losses,
    line_search,
    plain_events,
)
from case_studies.portfolio_tail.portfolios import PORTFOLIOS, loss_slopes, unit
from case_studies.portfolio_tail.shortfall import PROBABILITY, tail_risk, tilt_slope
from scoreppl.network_file import read_card

NEEDS_PRICES = pytest.mark.skipif(
    importlib.util.find_spec("skfolio") is None, reason="the prices come with skfolio"
)
QUANTILE = norm.isf(PROBABILITY)
SHORTFALL = norm.pdf(QUANTILE) / PROBABILITY


def with_transitions(after_calm: int, after_exceeded: int, calm: int) -> np.ndarray:
    """Return days with so many exceedances after a calm day, after another one, and calm days."""
    runs = [[True]] * after_calm
    runs[0] = [True] * (1 + after_exceeded)
    days = [day for hits in runs for day in [*hits, False]]
    return np.array([False, *days, *[False] * calm])


def test_coverage_tests_are_those_of_the_literature():
    """J.P. Morgan's 20 exceedances in 252 days, six of them after another (Jorion, 2007)."""
    hits = with_transitions(14, 6, 218)
    assert hits.sum() == 20 and len(hits) == 253
    found = coverage_tests(hits, 0.05)
    uniform = 2 * (20 * np.log(20 / 253 / 0.05) + 233 * np.log(233 / 253 / 0.95))
    np.testing.assert_allclose(found.unconditional, chi2.sf(uniform, 1), rtol=1e-9)
    # Published as 3.91, of 252 days, and 9.53.
    assert abs(uniform - 3.91) < 0.08
    np.testing.assert_allclose(chi2.isf(found.independence, 1), 9.53, atol=0.005)
    np.testing.assert_allclose(chi2.isf(found.conditional, 2), uniform + 9.53, atol=0.005)


def test_coverage_tests_of_no_exceedance():
    found = coverage_tests(np.zeros(250, bool), 0.01)
    np.testing.assert_allclose(found.unconditional, chi2.sf(-500 * np.log(0.99), 1), rtol=1e-9)
    assert found.independence == 1.0


def test_right_forecasts_are_rejected_as_often_as_said():
    """And wrong ones more often: too many exceedances, or exceedances that come in pairs."""
    rng, days, runs = np.random.default_rng(0), 2_000, 2_000
    right = [coverage_tests(rng.random(days) < 0.05, 0.05) for _ in range(runs)]
    counts = np.arange(days + 1)
    levels = np.array([_unconditional(count, days, 0.05) for count in counts])
    exact = binom.pmf(counts, days, 0.05)[levels < 0.05].sum()
    error = np.sqrt(exact * (1 - exact) / runs)
    # 4.5 standard errors: false-alarm rate 7e-6.
    assert abs(np.mean([test.unconditional < 0.05 for test in right]) - exact) < 4.5 * error
    # These two have their law for many exceedances only: it is nearly reached at a hundred.
    for name in ("independence", "conditional"):
        rates = [np.mean([getattr(test, name) < level for test in right]) for level in (0.05, 0.5)]
        assert 0.03 < rates[0] < 0.08 and 0.45 < rates[1] < 0.56, (name, rates)
    many = [coverage_tests(rng.random(days) < 0.07, 0.05) for _ in range(100)]
    assert np.mean([test.unconditional < 0.05 for test in many]) > 0.9
    singles = rng.random((100, days)) < 0.025
    pairs = [coverage_tests(single | np.roll(single, 1), 0.05) for single in singles]
    assert np.mean([test.independence < 0.05 for test in pairs]) > 0.9
    assert np.mean([test.unconditional < 0.05 for test in pairs]) < 0.4


def _unconditional(count: int, days: int, probability: float) -> float:
    return coverage_tests(np.arange(days) < count, probability).unconditional


@pytest.mark.parametrize(
    "exceeded, probability, message",
    [
        (np.ones(3), 0.05, "Booleans"),
        (np.ones((3, 2), bool), 0.05, "vector"),
        (np.ones(3, bool), 1.0, "between 0 and 1"),
    ],
)
def test_coverage_tests_refuse(exceeded, probability, message):
    with pytest.raises(ValueError, match=message):
        coverage_tests(exceeded, probability)


@pytest.mark.parametrize("use_control", [False, True])
def test_tail_risk_of_tilted_normal_losses(use_control):
    """Quantile and shortfall of a normal law are known; the tilt is the best one."""
    rng, runs, size = np.random.default_rng(1), 300, 1_000
    found = []
    for _ in range(runs):
        loss = rng.normal(QUANTILE, 1.0, size)
        log_ratio = 0.5 * QUANTILE**2 - QUANTILE * loss
        found.append(tail_risk(loss, log_ratio, use_control=use_control))
    z = np.array([(risk.shortfall - SHORTFALL) / risk.shortfall_error for risk in found])
    # The mean of 300 z-scores, 4.5 of its errors; sd of z within 0.9 and 1.15.
    assert abs(z.mean()) < 4.5 / np.sqrt(runs) and 0.9 < z.std() < 1.15
    inside = np.mean([risk.interval[0] <= QUANTILE <= risk.interval[1] for risk in found])
    # Binomial with 300 runs, 4 standard errors.
    assert abs(inside - 0.95) < 4 * np.sqrt(0.0475 / runs)
    # A plain draw's term has the variance that the second moment of the excess gives.
    second = (1 + QUANTILE**2) * PROBABILITY - QUANTILE * norm.pdf(QUANTILE)
    plain = second / PROBABILITY**2 - (SHORTFALL - QUANTILE) ** 2
    assert plain / size > 100 * np.var([risk.shortfall for risk in found])


def test_plain_losses_are_the_empirical_tail():
    loss = np.random.default_rng(2).normal(size=5_000)
    found, ordered = tail_risk(loss, probability=0.01), np.sort(loss)[::-1]
    # Of 5,000 losses the fiftieth has one per cent at or above it.
    np.testing.assert_allclose(found.value_at_risk, ordered[49])
    np.testing.assert_allclose(found.shortfall, ordered[:50].mean())
    assert found.num_beyond == 50 and 0 < found.largest_share < 1


def test_tail_risk_refuses():
    loss = np.arange(100.0)
    with pytest.raises(ValueError, match="must be numbers"):
        tail_risk(loss, np.full(100, np.nan), probability=0.1)
    with pytest.raises(ValueError, match="draw more"):
        tail_risk(loss)
    with pytest.raises(ValueError, match="guide them further or less far"):
        tail_risk(loss, np.full(100, -20.0))


def test_half_of_the_tilted_law_lies_beyond():
    loss = np.random.default_rng(3).normal(size=20_000)
    slope = tilt_slope(loss, np.zeros_like(loss), 2.0)
    weights = 1 / (1 + np.exp(-slope * (loss - 2.0)))
    np.testing.assert_allclose(weights[loss > 2].sum() / weights.sum(), 0.5, atol=1e-6)


def test_volatility_knows_no_day_before_it_is_over():
    simple = np.random.default_rng(4).normal(scale=0.01, size=(400, 2))
    found = volatility_of(simple)
    np.testing.assert_allclose(
        found[300:301] ** 2, 0.94 * found[299:300] ** 2 + 0.06 * simple[299:300] ** 2
    )
    changed = simple.copy()
    changed[350:] *= 3
    np.testing.assert_array_equal(volatility_of(changed)[:351], found[:351])
    assert np.all(volatility_of(changed)[351] > found[351])


def test_forecasts_use_days_before_alone():
    rng = np.random.default_rng(5)
    simple = rng.normal(scale=0.01, size=(NUM_TEST_DAYS + 1_100, 2))
    volatility, holdings = np.full_like(simple, 0.01), np.array([0.5, 0.5])
    draws = rng.normal(size=(5_000, 2))

    def all_forecasts(simple):
        returns = Returns(("A", "B"), np.arange(len(simple)), simple, volatility)
        static = np.full(2, 0.01)
        return returns, backtest.forecasts(returns, holdings, draws, draws, static)

    returns, found = all_forecasts(simple)
    changed = simple.copy()
    changed[-10:] -= 1.0
    _, later = all_forecasts(changed)
    for name, risk in found.items():
        assert risk.shape == (NUM_TEST_DAYS, 3)
        np.testing.assert_array_equal(risk[:-9], later[name][:-9])
        # Normal losses of sd 0.01 / sqrt(2); the shortest window has 25 losses beyond 95 %.
        exact = 0.01 / np.sqrt(2) * norm.isf(backtest.PROBABILITIES[0])
        np.testing.assert_allclose(risk[:, 0].mean(), exact, rtol=0.1)
    judged = backtest.judge(returns, holdings, found)
    # Forecasts that are right but for the windows' chance: 4.5 standard errors and that.
    assert all(abs(tests[0].num_exceeded - 100) < 4.5 * 9.7 + 15 for tests in judged.values())


@pytest.mark.parametrize("name", ["scaled", "static"])
def test_networks_are_small_and_say_what_they_are(name):
    path = FOLDER / f"{name}.safetensors"
    card, network = read_card(path), load(name)
    assert path.stat().st_size < 300_000
    assert len(card["stocks"]) == 20 and unit(name).shape == (20,)
    assert "skfolio" in card["licence"] and network.event_shape == (20,)
    # Without noise to remove an event stays as it is, and of pure noise only the mean is left.
    x = jnp.asarray(np.random.default_rng(6).normal(size=20), jnp.float32)
    np.testing.assert_allclose(network.denoise(x, 0.0), x, atol=0.02)
    far = network.denoise(50.0 * x, NOISE.time(-2 * np.log(50.0))) - network.params["mean"]
    assert float(jnp.sqrt(jnp.mean(far**2))) < 0.2


@pytest.mark.slow
def test_guided_paths_have_the_tail_of_plain_ones():
    """At one per cent, where plain paths know it well; 20 steps, so that it is quick."""
    law = fit_law(jax.random.key(0), load("scaled"), num_steps=20)
    slopes = loss_slopes("scaled", PORTFOLIOS["equal weights"])
    losses = np.float64(plain_events(jax.random.key(1), law, 40_000)) @ slopes
    plain = tail_risk(losses, probability=0.01)
    tilt = Tilt(2.0 / losses.std(), plain.value_at_risk)
    found = guided_losses(jax.random.key(2), law, slopes, tilt, line_search, 2_000)
    guided = tail_risk(*found, probability=0.01)
    error = np.hypot(plain.shortfall_error, guided.shortfall_error)
    # 4.5 standard errors: false-alarm rate 7e-6.
    assert abs(guided.shortfall - plain.shortfall) < 4.5 * error
    # Without their ratios the guided paths are far beyond.
    assert np.mean(found.loss > plain.value_at_risk) > 0.1


@NEEDS_PRICES
@pytest.mark.filterwarnings("ignore")
def test_networks_are_of_the_days_before_the_test():
    returns = load_returns()
    assert returns.simple.shape == (8_062, 20)
    np.testing.assert_allclose(unit("scaled"), returns.volatility[-NUM_TEST_DAYS], rtol=1e-9)
    np.testing.assert_allclose(unit("static"), returns.simple[:-NUM_TEST_DAYS].std(0), rtol=1e-9)
    for name in ("scaled", "static"):
        card = read_card(FOLDER / f"{name}.safetensors")
        assert card["stocks"] == list(returns.names)
        assert str(returns.days[-NUM_TEST_DAYS - 1])[:10] in card["data"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_study_runs(tmp_path):
    run.main(tmp_path, num_plain=20_000, num_runs=2, num_draws=2_000)
    table = (tmp_path / "shortfall.md").read_text()
    assert table.count("`LineSearch`") == 4 and (tmp_path / "shortfall.png").exists()
    has_prices = importlib.util.find_spec("skfolio") is not None
    assert (tmp_path / "backtest.md").exists() == has_prices
