"""The calibration study's tests: exact ranks pass, known errors are seen, and so is the control."""

import bz2
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.stats import binom, norm

import scoreppl as sp
from case_studies.calibration import published, tasks
from case_studies.calibration.compare import compare
from case_studies.calibration.judge import FALSE_ALARM_RATE, judge, row
from case_studies.calibration.kernels import by_chain, exact
from case_studies.calibration.plans import Plan, on_mixture
from case_studies.calibration.problems import little_seen, overlapping, separated
from case_studies.calibration.ranks import (
    band,
    correlation,
    coverage_range,
    inside,
    ranks,
    uniformity,
)
from case_studies.calibration.run import FULL, USUAL, on_mixtures
from case_studies.calibration.study import rank_truths, store, stored

SETS, DRAWS = 200, 19
SUMMARIES = ("x", "TARP")


def normal_ranks(seed, scale=1.0, shift=0.0):
    """Ranks of truths N(y/2, 1/2) among draws of that law, made wider or shifted in its sds.

    The second column is of TARP's distances from random points, halfway between y and a prior draw.
    """
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(SETS)
    y = truth + rng.standard_normal(SETS)
    noise = rng.standard_normal((SETS, DRAWS))
    draws = y[:, None] / 2 + np.sqrt(0.5) * (scale * noise + shift)
    point = (y + rng.standard_normal(SETS)) / 2
    far, true_far = np.abs(draws - point[:, None]), np.abs(truth - point)
    return ranks(np.stack([draws, far], -1), np.stack([truth, true_far], -1))


def test_uniform_ranks_have_uniform_p_values():
    rng = np.random.default_rng(0)
    found = [uniformity(rng.integers(0, DRAWS + 1, SETS), DRAWS).p_value for _ in range(1000)]
    # The statistic is discrete, so p is not below its level too often, and not by far too seldom:
    # bounds of a binomial with false-alarm rate 1e-4 each.
    for level in (0.01, 0.1, 0.5):
        low, high = binom.ppf([1e-4, 1 - 1e-4], len(found), level)
        assert 0.5 * low <= np.sum(np.array(found) <= level) <= high


@pytest.mark.parametrize("false_alarm_rate", [0.01, 0.1])
def test_the_whole_ecdf_leaves_the_band_as_often_as_it_says(false_alarm_rate):
    low, high = band(SETS, DRAWS, false_alarm_rate)
    rng = np.random.default_rng(1)
    counts = rng.multinomial(SETS, np.full(DRAWS + 1, 1 / (DRAWS + 1)), size=20_000)
    ecdf = np.cumsum(counts, 1)[:, :-1] / SETS
    share = np.mean(np.any((ecdf < low - 1e-9) | (ecdf > high + 1e-9), 1))
    # Six standard errors of 20,000 simulations; the statistic is discrete.
    assert 0.5 * false_alarm_rate < share < false_alarm_rate + 6 * np.sqrt(false_alarm_rate / 2e4)
    # A pointwise band would be left far more often.
    points = np.arange(1, DRAWS + 1) / (DRAWS + 1)
    narrow = binom.ppf(false_alarm_rate / 2, SETS, points) / SETS
    assert np.all(low <= narrow) and np.any(low < narrow)


def test_exact_ranks_hold_and_coverage_is_nominal():
    found = [judge(normal_ranks(seed), SUMMARIES) for seed in range(20)]
    # One of 20 fails with probability 2 % at most.
    assert all(each.holds for each in found)
    for level in (0.5, 0.9):
        share = np.mean([inside(normal_ranks(s), level, DRAWS).mean(0) for s in range(20)], 0)
        assert np.all(np.abs(share - level) < 4 * np.sqrt(level * (1 - level) / (20 * SETS)))
    assert coverage_range(0.9, SETS) == (0.865, 0.935)


@pytest.mark.parametrize("wrong", [{"scale": 0.6}, {"scale": 2.0}, {"shift": 0.7}])
def test_known_errors_are_seen(wrong):
    """Too narrow, too wide, shifted: each by ranks of the number alone."""
    for seed in range(5):
        rank = normal_ranks(seed, **wrong)
        assert not judge(rank, SUMMARIES).holds
        assert uniformity(rank[:, 0], DRAWS).p_value < FALSE_ALARM_RATE / 2


def test_the_dearest_kernels_run_where_they_are_asked_for():
    def rows(sizes):
        return {problem.name: len(plans) for problem, plans, _ in on_mixtures(sizes)}

    names, whole = ("overlapping", "little seen", "separated"), rows(FULL)["separated"]
    assert rows(FULL) == dict.fromkeys(names, whole)
    assert rows(USUAL) == dict.fromkeys(names, whole - 5)
    chosen = USUAL._replace(dear_on=("separated",))
    assert rows(chosen) == dict.fromkeys(names, whole - 5) | {"separated": whole}


def test_of_summaries_that_all_fail_the_farthest_is_named():
    ends, low, even = np.repeat([0, DRAWS], SETS // 2), np.zeros(SETS, int), np.arange(SETS)
    found = judge(np.stack([ends, low, even % (DRAWS + 1)], 1), ("both ends", "low"))
    assert found.worst_name == "low" and found.worst.deviation == pytest.approx(0.95)


@pytest.mark.parametrize("wrong", [{"scale": 0.6}, {"shift": 1.5}])
def test_tarp_alone_sees_them(wrong):
    for seed in range(5):
        assert uniformity(normal_ranks(seed, **wrong)[:, 1], DRAWS).p_value < FALSE_ALARM_RATE


def test_levels_without_an_interval_are_refused():
    with pytest.raises(ValueError, match="19 draws give 0.5 and 0.9"):
        inside(np.zeros(3, int), 0.8, 19 + 3)


def test_correlation_of_draws():
    """An autoregression's own, and nothing for independent draws."""
    rng = np.random.default_rng(2)
    values = rng.standard_normal((2000, DRAWS, 2))
    for i in range(1, DRAWS):
        values[:, i, 1] = 0.5 * values[:, i - 1, 1] + np.sqrt(0.75) * values[:, i, 1]
    found = correlation(values)
    assert abs(found[0]) < 0.02 and 0.35 < found[1] < 0.55


def test_exact_draws_of_the_mixture_hold_and_narrowed_ones_fail():
    """Of the study's own problem: this is its positive control, and one of the negative ones."""
    problem = overlapping()
    plans = {plan.name: plan for plan in on_mixture(problem)}
    sets = problem.simulate(jax.random.key(3), SETS)
    for plan in plans.values():
        if plan.control is None or not plan.name.startswith(("exact", "the same")):
            continue
        ranked = rank_truths(plan, problem, sets, jax.random.key(4), plan.name)
        found = judge(ranked.rank, problem.summaries)
        assert found.holds == (plan.control == "exact"), plan.name


@pytest.mark.slow
def test_exact_draws_have_the_moments_of_a_weighted_prior():
    """The positive control is independent of the kernels; here it is held to plain weighting."""
    problem = separated()
    sets = jax.tree.map(lambda v: v[0], problem.simulate(jax.random.key(5), 1))
    drawn = exact(problem)(problem.prior, jax.random.key(6), sets.y, 5_000).values
    x = np.asarray(problem.prior.sample_exact(jax.random.key(7), (200_000,)), float)
    rng = np.random.default_rng(8)
    scale = problem.scale_median * np.exp(problem.scale_spread * rng.standard_normal(len(x)))
    residual = (np.asarray(sets.y, float) - x @ problem.operator.T) / scale[:, None]
    log_weight = -0.5 * np.sum(residual**2, 1) - len(problem.operator) * np.log(scale)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    for values, other in (
        (np.asarray(drawn["x"], float), x),
        (np.asarray(drawn["scale"], float)[:, None], scale[:, None]),
    ):
        mean = weight @ other
        error = np.sqrt(weight**2 @ (other - mean) ** 2 + values.var(0) / len(values))
        assert np.all(np.abs(values.mean(0) - mean) < 4.5 * error)


def test_two_moons_density_and_draws_agree():
    """The density integrates to one over what is seen; the exact draws weigh it rightly."""
    theta = np.array([0.2, -0.1])
    shift = np.array([-abs(theta.sum()), theta[1] - theta[0]]) / np.sqrt(2)
    grid = np.linspace(-0.2, 0.2, 401)
    y = shift + [0.25, 0.0] + np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    density = np.exp(
        jax.vmap(jax.vmap(lambda y: tasks.moons_log_density(jnp.asarray(theta), y)))(jnp.asarray(y))
    )
    np.testing.assert_allclose(np.sum(density) * (grid[1] - grid[0]) ** 2, 1.0, rtol=0.01)
    seen = tasks.SBIBM["two_moons"][2]
    draws = tasks.moons_draws(seen, np.random.default_rng(0))
    # Every draw explains what is seen, in both moons alike.
    value = jax.vmap(lambda t: tasks.moons_log_density(t, jnp.asarray(seen)))(jnp.asarray(draws))
    assert draws.shape == (tasks.NUM_REFERENCE, 2) and np.all(np.isfinite(value))
    assert abs(np.mean(draws.sum(1) > 0) - 0.5) < 4 * 0.005


def test_mixture_draws_are_cut_at_the_square():
    y = np.array([9.5, 0.0])
    draws = tasks.mixture_draws(y, np.random.default_rng(0), 20_000)

    def density(x):
        return 0.5 * sum(
            s**-2 * np.exp(-0.5 * ((x - y[0]) / s) ** 2)
            * s * (norm.cdf(10 / s) - norm.cdf(-10 / s))
            for s in (tasks.WIDE, tasks.NARROW)
        )  # fmt: skip

    whole = integrate.quad(density, -10, 10, points=[9.5])[0]
    mean = integrate.quad(lambda x: x * density(x), -10, 10, points=[9.5])[0] / whole
    error = draws[:, 0].std() / np.sqrt(len(draws))
    assert draws.shape == (20_000, 2) and abs(draws[:, 0].mean() - mean) < 4.5 * error


def test_the_square_is_uniform():
    u = jax.random.normal(jax.random.key(0), (1000, 2))
    square = tasks.ToSquare(10.0)
    np.testing.assert_allclose(square.inv(square(u)), u, atol=2e-3)
    volume = jax.vmap(lambda u: jnp.linalg.slogdet(jax.jacobian(square)(u))[1])(u)
    np.testing.assert_allclose(
        jax.vmap(square.log_abs_det_jacobian)(u, square(u)), volume, rtol=1e-3, atol=1e-3
    )


def test_compared_draws():
    """Exact ones hold; narrower and shifted ones, and ones off in a corner, do not."""
    rng = np.random.default_rng(0)
    reference = np.exp(0.5 * rng.standard_normal((10_000, 2)))
    draws = np.exp(0.5 * rng.standard_normal((20, 100, 2)))
    assert compare(draws, reference).holds
    assert not compare(1 + 0.85 * (draws - 1), reference).holds
    assert not compare(draws + 0.2, reference).holds
    corner = draws.copy()
    corner[:, :8] = 4.0
    found = compare(corner, reference)
    assert found.distance > 2 * found.split_distance and found.distance_p < 0.001


def test_published_draws_are_read(tmp_path):
    folder = "sbibm/tasks/two_moons/files/num_observation_3"
    draws = b"p_1,p_2\n1.0,2.0\n3.0,4.0\n"
    with zipfile.ZipFile(tmp_path / "sbibm-1.1.0-py2.py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{folder}/observation.csv", "data_1,data_2\n0.5,0.25\n")
        wheel.writestr(f"{folder}/reference_posterior_samples.csv.bz2", bz2.compress(draws))
    y, found = published.sbibm(tmp_path, "two_moons", 3)
    np.testing.assert_array_equal(y, [0.5, 0.25])
    np.testing.assert_array_equal(found, [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="give the wheel of sbibm"):
        published.sbibm(tmp_path, "two_moons", 4)

    chains = [{"mu": [c], "tau": [c + 1]} | {f"theta[{j}]": [c + j] for j in range(1, 9)}
              for c in (0.0, 10.0)]  # fmt: skip
    name = "eight_schools-eight_schools_noncentered"
    place = tmp_path / "posterior_database" / "reference_posteriors" / "draws" / "draws"
    with pytest.raises(ValueError, match="give a checkout of posteriordb"):
        published.posteriordb_schools(tmp_path)
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / f"{name}.json.zip", "w") as archive:
        archive.writestr(f"{name}.json", json.dumps(chains))
    mu, tau, theta = published.posteriordb_schools(tmp_path)
    np.testing.assert_array_equal(mu, [0, 10])
    np.testing.assert_array_equal(theta[1], 10 + np.arange(1, 9))


def test_a_kernel_runs_and_its_ranks_are_kept(tmp_path, capsys):
    problem = overlapping()
    plan = Plan("`ScoreMALA`", by_chain(lambda: sp.ScoreMALA(problem.model), 20, 2), 4)
    sets = problem.simulate(jax.random.key(0), 4)
    ranked = rank_truths(plan, problem, sets, jax.random.key(1), plan.name)
    assert ranked.rank.shape == (4, 6) and ranked.rank.min() >= 0 and ranked.rank.max() <= DRAWS
    # MALA takes one score a transition: the warm-up, and two for each kept draw.
    assert ranked.evaluations == 20 + 2 * DRAWS
    assert "4/4" in capsys.readouterr().err
    store(tmp_path / "ranks.npz", {plan.name: ranked})
    kept = stored(tmp_path / "ranks.npz")
    np.testing.assert_array_equal(kept[plan.name].rank, ranked.rank)
    assert kept[plan.name][1:] == ranked[1:] and stored(tmp_path / "none.npz") == {}
    assert row(problem, plan, ranked).startswith("| overlapping | `ScoreMALA` | 4 |")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, problem",
    [
        ("log density zero, NUTS", little_seen()),
        ("DPS", overlapping()),
        ("`ScoreMALA`", little_seen()),
    ],
    ids=["zero", "DPS", "ScoreMALA"],
)
def test_the_wrong_practices_fail_and_a_kernel_holds(name, problem):
    plan = next(plan for plan in on_mixture(problem) if plan.name == name)
    sets = problem.simulate(jax.random.key(3), USUAL.mixture)
    ranked = rank_truths(plan, problem, sets, jax.random.key(4), name)
    assert judge(ranked.rank, problem.summaries).holds == (plan.control is None)
