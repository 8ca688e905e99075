"""Several expectations from one sample: known truths, honest errors, gains, mutants, bad input."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import scoreppl as sp
from scoreppl.estimators import multi_expectation as public
from scoreppl.score import flow_map

module = inspect.getmodule(public)
FAR = 1.8


def skewed(z):
    """Two moments, an exponential, a probability and a tail, of unequal sizes."""
    tail = z[0] + z[1] - FAR
    return jnp.stack([z[0], z[1] ** 2, jnp.exp(0.8 * z[0]), 1.0 * (tail > 0), jnp.maximum(tail, 0)])


SCALE = np.sqrt(2)
TRUTH = np.array(
    [
        0.0,
        1.0,
        np.exp(0.32),
        norm.sf(FAR / SCALE),
        SCALE * norm.pdf(FAR / SCALE) - FAR * norm.sf(FAR / SCALE),
    ]
)


def tails(z):
    """Means beyond a threshold in one direction, at four orders."""
    away = jnp.maximum(z[0] + 0.5 * z[1] - 2.5, 0)
    return jnp.stack([1.0 * (away > 0), away, away**2, jnp.exp(z[0] + z[1])])


def tails_truth():
    sd = np.sqrt(1.25)
    grid = np.linspace(2.5, 14, 200_001)
    density, step, away = norm.pdf(grid, scale=sd), grid[1] - grid[0], grid - 2.5
    ends = np.ones_like(grid)
    ends[[0, -1]] = 0.5
    sums = [np.sum(ends * away**power * density) * step for power in range(3)]
    return np.array([*sums, np.e])


def runs(functions, seeds, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return [public(jax.random.key(seed), functions, **arguments) for seed in seeds]


def scores(found, truth):
    return np.array([(run.value - truth) / run.standard_error for run in found])


def mutate(monkeypatch, old, new):
    """Replace a line of the estimate from the last sample."""
    source = inspect.getsource(module._estimate)
    assert source.count(old) == 1
    scope = dict(vars(module))
    exec(source.replace(old, new), scope)
    monkeypatch.setattr(module, "_estimate", scope["_estimate"])


def test_estimates_and_errors_are_right():
    """20 seeds and 5 expectations: each mean within 4.5 of its errors, false-alarm rate 4e-5."""
    found = runs(skewed, range(20), size=2, num_draws=4_000)
    z = scores(found, TRUTH)
    assert np.all(np.abs(z.mean(0)) < 4.5 / np.sqrt(20))
    assert 0.75 < np.sqrt(np.mean(z**2)) < 1.3
    for run in found:
        assert run.num_evaluations <= 4_000
        assert 2_000 <= run.num_draws < run.num_evaluations
        assert 0 < run.ess <= run.num_draws * 1.0001


@pytest.mark.slow
def test_z_scores_have_unit_spread():
    """200 seeds: the spread of each expectation's scores is known to 5 %."""
    z = scores(runs(skewed, range(200), size=2, num_draws=4_000), TRUTH)
    assert np.all(z.std(0) > 0.9) and np.all(z.std(0) < 1.15)
    assert np.all(np.abs(z.mean(0)) < 4.5 / np.sqrt(200))


@pytest.mark.slow
def test_one_sample_beats_plain_draws_and_one_sample_each():
    budget, seeds, truth = 8_000, range(30), tails_truth()
    together = np.array([run.value for run in runs(tails, seeds, size=2, num_draws=budget)])
    alone = []
    for index in range(4):

        def one(z, index=index):
            return tails(z)[index][None]

        found = runs(one, seeds, size=2, num_draws=budget // 4)
        alone.append([run.value[0] for run in found])
    plain = []
    for seed in seeds:
        z = jax.random.normal(jax.random.key(seed), (budget, 2))
        plain.append(np.asarray(jax.vmap(tails)(z), np.float64).mean(0))
    errors = [np.mean((each - truth) ** 2, 0) for each in (together, np.array(alone).T, plain)]
    assert np.exp(np.mean(np.log(errors[1] / errors[0]))) > 3
    assert np.exp(np.mean(np.log(errors[2] / errors[0]))) > 3


@pytest.mark.parametrize(
    "old, new",
    [
        ("np.exp(logs - log_drawn[:, None]) - 1.0", "np.exp(logs - log_drawn[:, None])"),
        ("log_mixture(logs, proposal.share)", "logs[np.arange(count), component]"),
        ("log_mixture(logs, proposal.share)", "log_mixture(logs, np.ones(len(proposal.share)))"),
        ("[component][:, None] / count", "[component][:, None] / count**0.9"),
    ],
    ids=["mean forgotten", "own component", "shares forgotten", "error too large"],
)
def test_mutants_fail(monkeypatch, old, new):
    mutate(monkeypatch, old, new)
    z = scores(runs(skewed, range(20), size=2, num_draws=4_000), TRUTH)
    right = np.all(np.abs(z.mean(0)) < 4.5 / np.sqrt(20))
    right &= 0.75 < np.sqrt(np.mean(z**2)) < 1.3
    assert not right


def test_a_law_with_edges():
    """Uniform inputs: outside p the functions may be anything, and only p is drawn from there."""

    def functions(x):
        return jnp.stack([-jnp.log(x[0]), x[0] * x[1]])

    def log_density(x):
        return jnp.where(jnp.all((x > 0) & (x < 1)), 0.0, -jnp.inf)

    def draw(key):
        return jax.random.uniform(key, (2,), minval=1e-7)

    found = runs(functions, range(10), log_density=log_density, draw=draw, size=2, num_draws=2_000)
    z = scores(found, np.array([1.0, 0.25]))
    # False-alarm rate 7e-6 an expectation.
    assert np.all(np.abs(z.mean(0)) < 4.5 / np.sqrt(10)) and np.all(np.abs(z) < 4.5)


def test_constants_repeats_and_combinations():
    def functions(z):
        first, second = jnp.exp(z[0]), z[1] ** 2
        return jnp.stack([first, first, second, first - 2 * second, 3.0 + 0.0 * z[0]])

    (run,) = runs(functions, [0], size=2, num_draws=2_000)
    for field in (run.value, run.standard_error, run.covariance):
        assert np.all(np.isfinite(field))
    np.testing.assert_allclose(run.value[1], run.value[0], rtol=1e-9)
    np.testing.assert_allclose(run.value[3], run.value[0] - 2 * run.value[2], rtol=1e-5)
    along = np.array([1.0, 0.0, -2.0, 0.0, 0.0])
    np.testing.assert_allclose(along @ run.covariance @ along, run.covariance[3, 3], rtol=1e-4)
    np.testing.assert_allclose(run.value[4], 3.0, rtol=1e-6)
    assert run.standard_error[4] < 1e-6


def test_a_function_that_is_zero_wherever_it_is_drawn_is_flagged():
    def functions(z):
        return jnp.stack([z[0] ** 2, 1.0 * (z[0] > 30)])

    with pytest.warns(UserWarning, match=r"Functions \[1\] are zero at all"):
        run = public(jax.random.key(0), functions, size=1, num_draws=400)
    assert run.value[1] == 0 and run.standard_error[1] == np.inf and run.pareto_k[1] == np.inf
    assert np.isfinite(run.standard_error[0]) and not np.any(np.isnan(run.covariance))


def test_the_same_key_gives_the_same_estimates():
    first, second = runs(skewed, [3, 3], size=2, num_draws=400)
    np.testing.assert_array_equal(first.value, second.value)
    other = runs(skewed, [4], size=2, num_draws=400)[0]
    assert np.all(other.value != first.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_draws": 100}, "`num_draws=100` must be at least"),
        ({"size": 0}, "`size=0`"),
        ({"components_per_function": 0}, "`components_per_function=0`"),
        ({"least_reference": 0.0}, "`least_reference=0.0` must lie between 0 and 1"),
        ({"log_density": lambda x: -jnp.sum(x**2)}, "belong together"),
        ({"draw": lambda key: jnp.zeros(2)}, "belong together"),
        (
            {"log_density": lambda x: jnp.sum(x), "draw": lambda key: jnp.zeros(3)},
            r"points of shape \(3,\)",
        ),
        (
            {"log_density": lambda x: x, "draw": lambda key: jnp.zeros(2)},
            "must give a scalar",
        ),
        (
            {"log_density": lambda x: jnp.log(-1.0 - x[0] ** 2), "draw": lambda key: jnp.zeros(2)},
            "`log_density` is NaN",
        ),
        ({"functions": lambda z: z[0]}, r"`functions` gives shape \(\)"),
        ({"functions": lambda z: jnp.stack([z[0], jnp.log(z[1])])}, "Function 1 of `functions`"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    given = {"functions": skewed, "size": 2, "num_draws": 400} | arguments
    with pytest.raises(ValueError, match=message):
        public(jax.random.key(0), given.pop("functions"), **given)


@pytest.fixture(scope="module")
def law():
    means = jnp.array([[-1.5, 0.0], [1.5, 0.5]])
    return sp.analytic.GaussianMixture(means, scales=0.5, noise=sp.noise.VPLinear())


def test_expectations_under_a_score_prior_are_those_of_its_flow(law):
    flow = flow_map(law)

    def functions(z):
        x = flow(z)
        return jnp.stack([x[0], x @ x, jnp.maximum(x[0] - 2.0, 0)])

    (run,) = runs(functions, [0], size=2, num_draws=2_000)
    z = jax.random.normal(jax.random.key(1), (50_000, 2))
    drawn = np.asarray(jax.jit(jax.vmap(functions))(z), np.float64)
    errors = np.hypot(run.standard_error, drawn.std(0) / np.sqrt(len(drawn)))
    assert np.all(np.abs(run.value - drawn.mean(0)) < 4.5 * errors)
    # The flow of 20 steps is near the model's own law: its E|x|^2 is 2.5 % too large.
    exact = float(jnp.sum(law.sample_exact(jax.random.key(2), (200_000,)) ** 2, -1).mean())
    assert abs(drawn.mean(0)[1] / exact - 1) < 0.04


def test_a_flow_takes_flat_points_and_deterministic_solvers_alone(law):
    flow = jax.jit(flow_map(law, num_steps=3, solver=sp.solvers.ddim()))
    assert flow(jnp.zeros(2)).shape == (2,)
    with pytest.raises(ValueError, match="draws noise"):
        flow_map(law, num_steps=3, solver=sp.solvers.ancestral)
    with pytest.raises(ValueError, match="num_steps"):
        flow_map(law, num_steps=0)
