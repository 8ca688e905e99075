"""ScoreMALA, ScoreHMC and ScoreNUTS against NumPyro's NUTS on the true density, and closed forms.

Every comparison divides by Monte Carlo standard errors that ArviZ estimates from the effective
sample size, so that no tolerance is chosen.
"""

import warnings
from functools import partial

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS
from scipy import stats

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VPLinear
from scoreppl.ppl.local_kernels import ScoreHMC, ScoreMALA, ScoreNUTS
from scoreppl.ppl.prior import ScorePrior
from scoreppl.score import ScoreNetwork

KERNELS = {
    "mala": ScoreMALA,
    "hmc": partial(ScoreHMC, num_steps=5),
    "nuts": ScoreNUTS,
}
QUANTILES = (0.05, 0.5, 0.95)
# |z| > 4 has probability 6e-5 for a standard normal. A standard error from a few hundred
# effective draws is itself off by some per cent, which makes it about 1e-4 a comparison.
MAX_Z = 4.0


def slow_unless(default):
    """All kernels as parameters, the others than `default` marked slow."""
    return [
        pytest.param(name, marks=() if name == default else pytest.mark.slow) for name in KERNELS
    ]


def run(kernel, *args, num_warmup, num_samples, seed=0, extra_fields=(), **kwargs):
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(seed), *args, extra_fields=extra_fields, **kwargs)
    draws = mcmc.get_samples(group_by_chain=True)
    return jax.tree.map(np.asarray, (draws, mcmc.get_extra_fields(group_by_chain=True)))


def mean_and_error(draws):
    """Mean of draws (chain, draw) and its Monte Carlo standard error."""
    draws = np.asarray(draws, float)
    return np.array([draws.mean(), float(az.mcse(draws, method="mean"))])


def statistics(draws):
    """Mean, standard deviation and quantiles of draws (chain, draw), with their errors: (5, 2)."""
    draws = np.asarray(draws, float)
    spread = [draws.std(), float(az.mcse(draws, method="sd"))]
    quantiles = [
        [np.quantile(draws, prob), float(az.mcse(draws, method="quantile", prob=prob))]
        for prob in QUANTILES
    ]
    return np.array([mean_and_error(draws), spread, *quantiles])


def exact_statistics(points, density):
    """Those of a density on a fine grid, with errors 0."""
    mass = density / density.sum()
    mean = points @ mass
    cumulative = np.cumsum(mass) - mass / 2
    spread = np.sqrt(((points - mean) ** 2) @ mass)
    values = np.array([mean, spread, *np.interp(QUANTILES, cumulative, points)])
    return np.stack([values, np.zeros(5)], 1)


def assert_agree(found, expected):
    """Compare statistics, shape (..., 2), within four of their combined standard errors."""
    found, expected = np.asarray(found), np.asarray(expected)
    z = (found - expected)[..., 0] / np.hypot(found[..., 1], expected[..., 1])
    assert np.isfinite(z).all() and np.abs(z).max() < MAX_Z, f"z-scores {np.round(z, 2)}"


# The main case: a mixture prior, a HalfNormal scale, Gaussian and Poisson observations.

PRIOR = GaussianMixture(
    jnp.array([[-1.5, 0.0], [1.5, 0.5], [0.0, 2.0]]),
    weights=jnp.array([0.2, 0.5, 0.3]),
    scales=jnp.array([[0.8, 0.5], [0.4, 0.7], [0.6, 0.6]]),
)
VALUES = np.array([0.6, 1.1, 0.3, 0.9])
COUNTS = np.array([3.0, 2.0, 5.0])


def counts_and_values(values, counts, exact=False):
    if exact:
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        numpyro.factor("prior", PRIOR.log_prob(x))
    else:
        x = numpyro.sample("x", ScorePrior(PRIOR))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("values", dist.Normal(x[0], s), obs=values)
    numpyro.sample("counts", dist.Poisson(jnp.exp(0.6 * x[1] + 0.2)), obs=counts)


def by_name(draws):
    return {"x0": draws["x"][..., 0], "x1": draws["x"][..., 1], "s": draws["s"]}


def reference(num_warmup, num_samples, seed=100):
    draws, _ = run(
        NUTS(counts_and_values), VALUES, COUNTS,
        num_warmup=num_warmup, num_samples=num_samples, seed=seed, exact=True,
    )  # fmt: skip
    return by_name(draws)


@pytest.fixture(scope="module")
def short_reference():
    return reference(500, 2000)


@pytest.fixture(scope="module")
def truth():
    """Exact marginals: given x0, the pairs (x1) and (s) are independent."""
    x0, x1 = np.linspace(-4, 4, 801), np.linspace(-4, 6, 1001)
    s = np.linspace(5e-4, 5, 2000)
    weights, means, scales = (
        np.array([0.2, 0.5, 0.3]),
        np.array([[-1.5, 0.0], [1.5, 0.5], [0.0, 2.0]]),
        np.array([[0.8, 0.5], [0.4, 0.7], [0.6, 0.6]]),
    )
    prior = np.einsum(
        "k,ki,kj->ij",
        weights,
        stats.norm.pdf(x0, means[:, :1], scales[:, :1]),
        stats.norm.pdf(x1, means[:, 1:], scales[:, 1:]),
    )
    poisson = stats.poisson.logpmf(COUNTS[:, None], np.exp(0.6 * x1 + 0.2)).sum(0)
    normal = stats.norm.logpdf(VALUES[:, None, None], x0[:, None], s).sum(0)
    by_x = prior * np.exp(poisson)
    by_s = np.exp(normal) * stats.halfnorm.pdf(s)
    return {
        "x0": exact_statistics(x0, by_x.sum(1) * by_s.sum(1)),
        "x1": exact_statistics(x1, by_x.T @ by_s.sum(1)),
        "s": exact_statistics(s, by_x.sum(1) @ by_s),
    }


def check_main_case(kernel, reference, truth, num_warmup, num_samples, seed):
    draws, fields = run(
        kernel, VALUES, COUNTS,
        num_warmup=num_warmup, num_samples=num_samples, seed=seed,
        extra_fields=("log_ratio_error", "num_score_evaluations", "num_steps"),
    )  # fmt: skip
    for name, chain in by_name(draws).items():
        # 3 latents * 5 statistics * 2 references: 3e-3 false alarms a run.
        found = statistics(chain)
        assert_agree(found, statistics(reference[name]))
        assert_agree(found, truth[name])
        # Far above what 2000 effective draws leave: about 1.002.
        assert az.rhat(np.asarray(chain, float)) < 1.01, name
    # The line integral was used: midpoint and end of each segment, and an error to report.
    np.testing.assert_array_equal(fields["num_score_evaluations"], 2 * fields["num_steps"])
    assert (fields["log_ratio_error"] > 0).any()


SHORT = {"mala": (500, 6000), "hmc": (400, 1500), "nuts": (400, 1500)}


@pytest.mark.parametrize("name", KERNELS)
def test_agreement_with_nuts_given_the_density(name, short_reference, truth):
    kernel = KERNELS[name](counts_and_values, quadrature="simpson")
    check_main_case(kernel, short_reference, truth, *SHORT[name], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name, seed", [("mala", 11), ("hmc", 11), ("nuts", 12)])
def test_agreement_with_nuts_given_the_density_at_length(name, seed, truth):
    kernel = KERNELS[name](counts_and_values, quadrature="simpson", dense_mass=seed == 12)
    num_samples = 30_000 if name == "mala" else 8000
    check_main_case(kernel, reference(1000, 8000, seed), truth, 1000, num_samples, seed)


# A linear Gaussian model: several score sites, one of them scalar, in a plate and at its own level.

PAIR_MEAN, PAIR_COVARIANCE = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.8]])
PAIR = GaussianMixture(PAIR_MEAN[None], covariances=PAIR_COVARIANCE[None])
SCALAR = GaussianMixture(np.array([0.3]), scales=0.7)
LEVEL = 0.2
GROUPS, DIFFERENCE = np.array([1.0, -0.4, 2.0]), 0.8


def linear_gaussian(groups, difference):
    x = numpyro.sample("x", ScorePrior(PAIR))
    theta = numpyro.sample("theta", dist.Normal(0.0, 1.5))
    with numpyro.plate("group", 3):
        u = numpyro.sample("u", ScorePrior(SCALAR, noise_level=LEVEL))
        numpyro.sample("groups", dist.Normal(x[0] + 2 * u + theta, 0.5), obs=groups)
    numpyro.sample("difference", dist.Normal(x[1] - x[0], 0.7), obs=difference)
    numpyro.deterministic("total", theta + u.sum())


def linear_gaussian_posterior():
    """Moments of (x0, x1, u0, u1, u2, theta), the first six of them and all their products."""
    alpha, sigma = (float(v) for v in VPLinear()(LEVEL))
    prior_mean = np.array([*PAIR_MEAN, 0.3, 0.3, 0.3, 0.0])
    prior = np.diag([0.0, 0.0, *[0.7**2 + (sigma / alpha) ** 2] * 3, 1.5**2])
    prior[:2, :2] = PAIR_COVARIANCE
    rows = np.zeros((4, 6))
    rows[:3, 0] = rows[:3, 5] = 1.0
    rows[:3, 2:5] = 2.0 * np.eye(3)
    rows[3, :2] = -1.0, 1.0
    noise = np.diag([0.25, 0.25, 0.25, 0.49])
    gain = prior @ rows.T @ np.linalg.inv(rows @ prior @ rows.T + noise)
    mean = prior_mean + gain @ (np.array([*GROUPS, DIFFERENCE]) - rows @ prior_mean)
    second = prior - gain @ rows @ prior + np.outer(mean, mean)
    return np.array([*mean, *second[np.triu_indices(6)]])


@pytest.mark.parametrize("name", slow_unless("hmc"))
def test_several_score_sites_with_a_plate_scalar_events_and_levels(name):
    draws, _ = run(
        KERNELS[name](linear_gaussian, quadrature="simpson", dense_mass=True),
        GROUPS, DIFFERENCE,
        num_warmup=400, num_samples=6000 if name == "mala" else 2000, seed=2,
    )  # fmt: skip
    flat = np.concatenate([draws["x"], draws["u"], draws["theta"][..., None]], -1).astype(float)
    products = [flat[..., i] * flat[..., j] for i, j in zip(*np.triu_indices(6), strict=True)]
    found = [mean_and_error(f) for f in [*np.moveaxis(flat, -1, 0), *products]]
    # 27 comparisons: 3e-3 false alarms.
    assert_agree(found, np.stack([linear_gaussian_posterior(), np.zeros(27)], 1))
    np.testing.assert_allclose(draws["total"], flat[..., 5] + flat[..., 2:5].sum(-1), atol=1e-5)


# Only a prior; only a weight.

MODES = GaussianMixture(np.array([-1.0, 1.5]), scales=np.array([0.7, 0.5]), weights=[0.4, 0.6])


def only_a_prior():
    numpyro.sample("x", ScorePrior(MODES))


@pytest.mark.parametrize("name", slow_unless("mala"))
def test_a_score_site_without_weight_has_the_law_of_the_level(name):
    level = 0.15
    draws, _ = run(
        KERNELS[name](only_a_prior, noise_level=level, quadrature="simpson"),
        num_warmup=400, num_samples=5000, seed=3,
    )  # fmt: skip
    alpha, sigma = (float(v) for v in VPLinear()(level))
    spread = np.hypot([0.7, 0.5], sigma / alpha)
    points = np.linspace(-8, 8, 4001)
    density = stats.norm.pdf(points[:, None], [-1.0, 1.5], spread) @ [0.4, 0.6]
    assert draws["x"].shape == (4, 5000)
    # 5 comparisons: 5e-4 false alarms. Without the noise of the level the sd is 6 % smaller.
    assert_agree(statistics(draws["x"]), exact_statistics(points, density))


def gamma_poisson(counts):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    numpyro.sample("counts", dist.Poisson(rate), obs=counts)


@pytest.mark.parametrize("name", slow_unless("nuts"))
def test_without_score_sites_they_are_exact_samplers(name):
    draws, fields = run(
        KERNELS[name](gamma_poisson), COUNTS,
        num_warmup=300, num_samples=5000 if name == "mala" else 2000, seed=4,
        extra_fields=("log_ratio", "log_ratio_error"),
    )  # fmt: skip
    points = np.linspace(1e-3, 15, 6000)
    density = stats.gamma.pdf(points, 2.0 + COUNTS.sum(), scale=1 / (0.5 + len(COUNTS)))
    # 5 comparisons: 5e-4 false alarms; without the Jacobian of log(rate) the mean is 8 % lower.
    assert_agree(statistics(draws["rate"]), exact_statistics(points, density))
    assert not fields["log_ratio"].any() and not fields["log_ratio_error"].any()


# Energy networks: the log-ratio is a difference of energies.

PRECISION = np.array([[2.0, -0.6], [-0.6, 0.7]], np.float32)


def energy(params, x, t, condition):
    return -0.5 * x @ params @ x + 3.0  # an energy may have any constant


ENERGY = ScoreNetwork(
    energy, PRECISION, noise=VPLinear(), prediction="energy", event_shape=(2,), min_time=1e-4
)


def energy_model(value):
    x = numpyro.sample("x", ScorePrior(ENERGY))
    numpyro.sample("value", dist.Normal(x[0] - x[1], 0.6), obs=value)


@pytest.mark.parametrize("name", slow_unless("hmc"))
def test_energy_networks_use_exact_ratios(name):
    # Warnings are errors here: no kernel warns of an energy network.
    draws, fields = run(
        KERNELS[name](energy_model), 1.3,
        num_warmup=300, num_samples=5000 if name == "mala" else 1500, seed=5,
        extra_fields=("log_ratio", "log_ratio_error", "num_score_evaluations", "num_steps"),
    )  # fmt: skip
    assert not fields["log_ratio_error"].any()
    # One evaluation a leapfrog step, at its end: no quadrature node.
    np.testing.assert_array_equal(fields["num_score_evaluations"], fields["num_steps"])
    x = draws["x"].astype(float)
    level = -0.5 * np.einsum("...i,ij,...j->...", x, PRECISION.astype(float), x)
    moved = (x[:, 1:] != x[:, :-1]).any(-1)
    change, ratio = np.diff(level, axis=1)[moved], fields["log_ratio"][:, 1:][moved]
    assert moved.mean() > 0.3
    # Rounding: float32 differences of energies up to 20, a few a trajectory. (alpha = 1 - 1e-5.)
    np.testing.assert_allclose(ratio, change, atol=2e-4, rtol=2e-4)
    row = np.array([1.0, -1.0])
    covariance = np.linalg.inv(PRECISION + np.outer(row, row) / 0.36)
    mean = covariance @ row * 1.3 / 0.36
    found = [mean_and_error(f) for f in (*np.moveaxis(x, -1, 0), x[..., 0] * x[..., 1])]
    expected = [*mean, covariance[0, 1] + mean.prod()]
    assert_agree(found, np.stack([expected, np.zeros(3)], 1))  # 3e-4 false alarms


# A likelihood that is not a number in places, and one that forbids places.

NORMAL = GaussianMixture(np.zeros((1, 2)), scales=1.0)


def broken_likelihood(bound):
    x = numpyro.sample("x", ScorePrior(NORMAL))
    numpyro.factor("broken", jnp.where(x[0] < 0.0, jnp.nan, 0.0))
    numpyro.factor("forbidden", jnp.where(x[1] > bound, -jnp.inf, 0.0))


@pytest.mark.parametrize("name", slow_unless("mala"))
def test_weights_that_are_not_a_number_are_rejected_and_counted(name):
    draws, fields = run(
        # A wall drives the step size of a chain that starts beside it down, so it is fixed here.
        KERNELS[name](
            broken_likelihood, quadrature="simpson", step_size=0.5, adapt_step_size=False
        ),
        0.5, num_warmup=300, num_samples=5000 if name == "mala" else 2000, seed=6,
        extra_fields=("is_nan",),
    )  # fmt: skip
    x = draws["x"]
    assert np.isfinite(x).all() and x[..., 0].min() >= 0.0 and x[..., 1].max() <= 0.5
    assert 0.01 < fields["is_nan"].mean() < 0.9
    # Every chain moves: it started where the weight is a number.
    assert all(len(np.unique(chain)) > 100 for chain in x[..., 0])
    points = np.linspace(-6, 6, 24_001)
    # The law restricted to where the weight is a number. 10 comparisons: 1e-3 false alarms.
    half = exact_statistics(points, stats.norm.pdf(points) * (points >= 0))
    cut = exact_statistics(points, stats.norm.pdf(points) * (points <= 0.5))
    assert_agree(statistics(x[..., 0]), half)
    assert_agree(statistics(x[..., 1]), cut)


@pytest.mark.slow
def test_forbidden_places_are_no_failures():
    def forbidden(bound):
        x = numpyro.sample("x", ScorePrior(NORMAL))
        numpyro.factor("forbidden", jnp.where(x[1] > bound, -jnp.inf, 0.0))

    draws, fields = run(
        ScoreMALA(forbidden), 0.0, num_warmup=50, num_samples=100, extra_fields=("is_nan",)
    )
    assert not fields["is_nan"].any() and draws["x"][..., 1].max() <= 0.0


def test_quadrature_names_warn_and_fail_as_they_should():
    with pytest.raises(ValueError, match="quadrature='sympson'.*'simpson'"):
        run(ScoreMALA(only_a_prior, quadrature="sympson"), num_warmup=0, num_samples=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ScoreMALA(only_a_prior, quadrature="trapezoid").init(random.key(0), 0, None, (), {})
    assert any("biases the stationary law" in str(w.message) for w in caught)
