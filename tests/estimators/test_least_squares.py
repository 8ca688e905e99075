"""Least squares from random designs, on a skewed mixture whose projections quadrature knows."""

from functools import cache
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer import MCMC
from scipy.stats import chi2

import scoreppl as sp
from scoreppl.estimators.designs import projection_process

MEANS = np.array([-1.5, 0.3, 2.2])
SCALES = np.array([0.3, 0.5, 0.7])
WEIGHTS = np.array([0.55, 0.3, 0.15])
SIZE = 6


def prior():
    return sp.analytic.GaussianMixture(MEANS[:, None], scales=SCALES[:, None], weights=WEIGHTS)


def basis(x):
    return x[..., 0] ** jnp.arange(SIZE)


def dear(x):
    return np.exp(0.6 * x[..., 0]) + np.sin(2 * x[..., 0])


@cache
def exact():
    """Grid, masses, orthonormal functions, kernel, projection's coefficients, error of the best."""
    grid = np.linspace(-6, 9, 30_001)
    z = (grid[:, None] - MEANS) / SCALES
    masses = (np.exp(-0.5 * z**2) / SCALES) @ WEIGHTS
    masses /= masses.sum()
    powers = grid[:, None] ** np.arange(SIZE)
    root = np.linalg.cholesky((powers.T * masses) @ powers)
    functions = np.linalg.solve(root, powers.T).T
    values = dear(grid[:, None])
    projected = functions.T @ (masses * values)
    best = np.sqrt(masses @ (values - functions @ projected) ** 2)
    return (
        grid,
        masses,
        root,
        np.sum(functions**2, axis=1),
        np.linalg.solve(root.T, projected),
        best,
    )


def prior_draws(rng, size):
    chosen = rng.choice(3, size, p=WEIGHTS)
    return (MEANS[chosen] + SCALES[chosen] * rng.standard_normal(size))[:, None]


def christoffel_draws(rng, size):
    """Exact draws of the Christoffel law and their log weights."""
    grid, masses, _, kernel, _, _ = exact()
    share = np.cumsum(masses * kernel)
    x = np.interp(rng.uniform(size=size), share / share[-1], grid)
    return x[:, None], -np.log(np.interp(x, grid, kernel))


def true_error(coefficients):
    """Root mean square error under p."""
    _, _, root, _, truth, best = exact()
    return np.sqrt(np.sum((root.T @ (coefficients - truth)) ** 2) + best**2)


def fit(seed, draws, log_weight=None, *, n, design="volume", fn=dear):
    return sp.estimators.least_squares(
        jax.random.key(seed), fn, basis, draws, log_weight, num_evaluations=n, design=design
    )


@pytest.mark.parametrize("design", ["volume", "repeated", "independent"])
def test_a_function_in_the_span_is_found_exactly(design):
    wanted = np.array([0.5, -1.0, 0.0, 0.2, 0.1, -0.05])
    calls = []

    def polynomial(x):
        calls.append(x)
        return np.polynomial.polynomial.polyval(np.float64(x[0]), wanted)

    draws = prior_draws(np.random.default_rng(0), 2_000).astype(np.float32)
    found = fit(1, draws, n=5 * SIZE, design=design, fn=polynomial)
    # The functions are computed in single precision.
    np.testing.assert_allclose(found.coefficients, wanted, atol=2e-5)
    np.testing.assert_allclose(found.predict(draws[7]), polynomial(draws[7]), rtol=1e-4)
    assert found.error < 1e-4 and np.all(found.standard_error < 1e-4)
    assert len(calls) - 1 == found.num_evaluations == len(np.unique(found.indices))
    assert found.indices.shape == found.weights.shape == (5 * SIZE,)
    assert 1.0 <= found.gram_condition < 1e4


def test_the_functions_are_orthonormal_and_their_christoffel_weight_has_mean_one():
    draws, log_weight = christoffel_draws(np.random.default_rng(0), 3_000)
    found = sp.estimators.orthonormalise(basis, jnp.asarray(draws), log_weight)
    share = np.exp(log_weight) / np.exp(log_weight).sum()
    values = np.asarray(jax.vmap(found)(jnp.asarray(draws)), np.float64)
    # Single precision, times the condition number of the powers.
    np.testing.assert_allclose((values.T * share) @ values, np.eye(SIZE), atol=2e-3)
    kernel = np.exp(jax.vmap(found.christoffel_log_weight)(jnp.asarray(draws)))
    np.testing.assert_allclose(share @ kernel, 1.0, rtol=1e-3)
    assert found.condition > 1.0


def test_the_projection_process_has_its_law():
    """All 20 subsets of 3 of 6 rows, 4,000 draws: chi-square at a false-alarm rate of 1e-4."""
    rng = np.random.default_rng(4)
    columns = np.linalg.qr(rng.standard_normal((6, 3)) * [[0.3], [1], [3], [1], [1], [2]])[0]
    subsets = list(combinations(range(6), 3))
    wanted = np.array([np.linalg.det(columns[list(rows)]) ** 2 for rows in subsets])
    np.testing.assert_allclose(wanted.sum(), 1.0)

    def statistic(draw):
        counts = dict.fromkeys(subsets, 0)
        for _ in range(4_000):
            counts[tuple(sorted(map(int, draw())))] += 1
        found = np.array(list(counts.values()))
        return np.sum((found - 4_000 * wanted) ** 2 / (4_000 * wanted))

    def without_distances():
        leverage = np.sum(columns**2, axis=1)
        return rng.choice(6, 3, replace=False, p=leverage / 3)

    limit = chi2.isf(1e-4, len(subsets) - 1)
    assert statistic(lambda: projection_process(rng, columns)) < limit
    assert statistic(without_distances) > limit


def bias_p_value(coefficients, truth):
    """Of "the mean over rows is the truth", by the normal law of a mean."""
    deviations = coefficients - truth
    mean, spread = deviations.mean(0), np.cov(deviations.T)
    return chi2.sf(len(deviations) * mean @ np.linalg.solve(spread, mean), len(mean))


@pytest.mark.parametrize("n", [SIZE, 2 * SIZE])
def test_the_volume_design_is_unbiased_and_needs_its_weights(n):
    """For the projection under 500 weighted draws, over 1,000 designs; false-alarm rate 1e-4."""
    draws, log_weight = christoffel_draws(np.random.default_rng(1), 500)
    root = np.exp(0.5 * log_weight)[:, None]
    powers = draws ** np.arange(SIZE)
    truth = np.linalg.lstsq(root * powers, root[:, 0] * dear(draws), rcond=None)[0]
    fits = [fit(seed, draws, log_weight, n=n) for seed in range(1_000)]
    assert bias_p_value(np.array([found.coefficients for found in fits]), truth) > 1e-4
    if n == SIZE:
        assert all(np.isnan(found.error) and np.isnan(found.standard_error).all() for found in fits)
        return
    unweighted = [
        np.linalg.lstsq(powers[found.indices], dear(draws[found.indices]), rcond=None)[0]
        for found in fits
    ]
    assert bias_p_value(np.array(unweighted), truth) < 1e-8


@cache
def repeated_fits(design, n):
    """200 fits, each on draws of its own."""
    found = []
    for seed in range(200):
        draws, log_weight = christoffel_draws(np.random.default_rng(seed), 4_000)
        found.append(fit(seed, draws, log_weight, n=n, design=design))
    return found


@pytest.mark.parametrize("design", ["volume", "repeated", "independent"])
def test_standard_errors_are_calibrated(design):
    """Root mean square z-score of 6 dependent coefficients, 200 seeds: known to about 4 %."""
    fits = repeated_fits(design, 8 * SIZE)
    z = np.array([(found.coefficients - exact()[4]) / found.standard_error for found in fits])
    assert 0.9 < np.sqrt(np.mean(z**2)) < 1.15


@pytest.mark.parametrize("design", ["volume", "repeated"])
def test_the_error_estimate_is_honest(design):
    """Mean squares agree up to five standard errors, and what the points left out are worth."""
    fits = repeated_fits(design, 8 * SIZE)
    stated = np.array([found.error for found in fits]) ** 2
    actual = np.array([true_error(found.coefficients) for found in fits]) ** 2
    difference = stated - actual
    noise = 5 * difference.std() / np.sqrt(len(fits))
    assert -noise < difference.mean() < noise + 0.1 * actual.mean()


def test_designs_that_keep_points_apart_are_more_accurate():
    """Mean logarithms of errors over 200 seeds, at equal n; z-scores above 5."""
    n = 2 * SIZE
    errors = {
        design: np.log([true_error(found.coefficients) for found in repeated_fits(design, n)])
        for design in ("volume", "repeated", "independent")
    }
    plain = []
    for seed in range(200):
        x = prior_draws(np.random.default_rng(seed), n)
        coefficients = np.linalg.lstsq(x ** np.arange(SIZE), dear(x), rcond=None)[0]
        plain.append(np.log(true_error(coefficients)))
    ordered = [errors["repeated"], errors["volume"], errors["independent"], np.array(plain)]
    for better, worse in zip(ordered[:-1], ordered[1:], strict=True):
        gap = worse - better
        assert gap.mean() > 5 * gap.std() / np.sqrt(len(gap))


def test_repeated_draws_count_once_and_draws_without_weight_are_left_out():
    draws = prior_draws(np.random.default_rng(3), 40)
    log_weight = np.where(np.arange(40) < 20, 0.0, -np.inf)
    found = fit(0, np.where(np.arange(40)[:, None] < 20, draws, np.nan), log_weight, n=60)
    assert found.num_evaluations == len(np.unique(found.indices)) <= 20
    assert found.indices.max() < 20


@pytest.mark.slow
def test_the_christoffel_law_over_a_score_prior_by_particles():
    """Mean of a bounded function under k p / m; 2,000 particles, limit of five standard errors."""
    score_model = prior()
    first = sp.estimators.orthonormalise(
        basis, score_model.sample(jax.random.key(0), (20_000,), num_steps=50)
    )
    smc = sp.ScoreSMC(
        score_model=score_model,
        log_weight=first.christoffel_log_weight,
        num_particles=1_000,
        num_steps=50,
    )
    smc.run(jax.random.key(1))
    values, log_weight = smc.get_weighted_samples()
    grid, masses, _, kernel, _, _ = exact()
    wanted = (masses * kernel / SIZE) @ np.tanh(grid)
    share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    drawn = np.tanh(np.asarray(values["x"])[:, 0])
    assert abs(share @ drawn - wanted) < 5 * drawn.std() * np.sqrt(np.sum(share**2))
    assert abs(masses @ np.tanh(grid) - wanted) > 0.2  # the prior would not do
    # Weights of the particles for the prior: their own less the Christoffel weight.
    back = log_weight - jax.vmap(first.christoffel_log_weight)(values["x"])
    found = sp.estimators.least_squares(
        jax.random.key(2), lambda draw: dear(draw["x"]), lambda draw: basis(draw["x"]),
        values, back, num_evaluations=8 * SIZE,
    )  # fmt: skip
    assert true_error(found.coefficients) < 1.4 * exact()[5]


@pytest.mark.slow
def test_the_christoffel_law_over_a_score_prior_by_annealing():
    first = sp.estimators.orthonormalise(
        basis, jnp.asarray(prior_draws(np.random.default_rng(0), 20_000))
    )

    def model():
        x = numpyro.sample("x", sp.ScorePrior(prior()))
        numpyro.factor("christoffel", first.christoffel_log_weight(x))

    mcmc = MCMC(
        sp.AnnealedScoreMCMC(model, num_levels=40, steps_per_level=12),
        num_warmup=256,
        num_samples=1_024,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    grid, masses, _, kernel, _, _ = exact()
    wanted = (masses * kernel / SIZE) @ np.tanh(grid)
    drawn = np.tanh(np.asarray(mcmc.get_samples()["x"])[:, 0])
    assert abs(drawn.mean() - wanted) < 5 * drawn.std() / np.sqrt(len(drawn))
    assert abs(masses @ np.tanh(grid) - wanted) > 0.2  # the prior would not do


def some_draws(size=100):
    return prior_draws(np.random.default_rng(0), size)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"basis": lambda x: jnp.stack([x[0], x[0] ** 2, 3 * x[0]])}, "span only 2 dimensions"),
        ({"basis": lambda x: jnp.stack([x[0], 0 * x[0]])}, "span only 1 dimensions"),
        ({"basis": lambda x: jnp.log(x)}, "`basis` is NaN or infinite at"),
        ({"basis": lambda x: x[0]}, r"`basis` returned shape \(\)"),
        ({"draws": some_draws(5)}, "`draws` has 5 draws with weight and `basis` 6 functions"),
        ({"draws": {"x": some_draws(5), "y": some_draws(6)}}, r"leading axes of \[5, 6\]"),
        ({"log_weight": np.zeros(3)}, r"`log_weight` has shape \(3,\)"),
        ({"log_weight": np.full(100, np.nan)}, "not a number"),
        ({"log_weight": np.full(100, -np.inf)}, "-inf for every draw"),
        ({"num_evaluations": 5}, "`num_evaluations=5` must be at least the 6 functions"),
        ({"num_evaluations": 6.5}, "`num_evaluations=6.5` must be an integer"),
        ({"num_evaluations": 13, "design": "repeated"}, "must be a multiple of the 6 functions"),
        ({"design": "volumes"}, "`design='volumes'` is not known"),
        ({"fn": lambda x: np.log(-1.0 - x[0])}, "`fn` is nan at draw"),
        ({"fn": lambda x: x}, r"`fn` returned shape \(1,\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_input_is_named(change, message):
    arguments = {
        "fn": dear, "basis": basis, "draws": some_draws(), "num_evaluations": 12, **change
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        sp.estimators.least_squares(jax.random.key(0), **arguments)


def test_an_independent_design_that_does_not_suffice_is_refused():
    draws = np.concatenate([np.zeros((1_000, 1)), some_draws(6)])
    with pytest.raises(ValueError, match="does not determine the 6 coefficients"):
        fit(0, draws, n=SIZE, design="independent")
