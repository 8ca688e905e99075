"""The eight schools case study: its truth, its network, and the samplers' claims in small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import halfcauchy, norm

import scoreppl as sp
from case_studies.eight_schools import methods
from case_studies.eight_schools.judge import (
    estimates,
    judge,
    log_evidence,
    pseudo_values,
    summarise,
)
from case_studies.eight_schools.methods import Drawn, proposed, weighed
from case_studies.eight_schools.model import (
    ERRORS,
    SCORES,
    draw_effects,
    log_prior,
    to_effects,
)
from case_studies.eight_schools.network import as_network, initial, load
from case_studies.eight_schools.truth import QUANTILES, posterior


def _weighed_prior(num_draws):
    """Exact prior draws weighed by the likelihood, as twenty runs."""
    effects = np.asarray(to_effects(draw_effects(jax.random.key(0), num_draws)), np.float64)
    log_weight = norm.logpdf(SCORES, effects, ERRORS).sum(1)
    return effects.reshape(20, -1, 8), log_weight.reshape(20, -1)


def test_quadrature_agrees_with_weighed_prior_draws():
    """No formula in common. Twelve comparisons at 4.5 errors of 20 runs: false alarms 3e-3."""
    truth, (effects, log_weight) = posterior(401), _weighed_prior(200_000)
    drawn = Drawn(effects, log_weight, None, 0, 0.0, 0.0, 0.0, None)
    found = estimates(drawn)
    for values, exact in zip(found, (truth.mean, truth.sd, truth.quantiles), strict=True):
        error = values.std(0, ddof=1) / np.sqrt(20)
        assert np.all(np.abs(values.mean(0) - exact) < 4.5 * error)
    evidence = log_evidence(logsumexp(log_weight, axis=1) - np.log(log_weight.shape[1]))
    assert abs(evidence.mean() - truth.log_evidence) < 4.5 * evidence.std(ddof=1) / np.sqrt(20)
    assert judge(found, truth).mean_error < 0.2
    shifted = drawn._replace(effects=effects + 1.0)
    assert judge(estimates(shifted), truth).worst > 10


def test_summaries_of_weighted_draws():
    """Half of the draws have no weight, and draws come in no order."""
    values = np.arange(100.0)[::-1, None] * np.ones(8)
    found = summarise(values, np.where(values[:, 0] < 50, 0.0, -np.inf))
    expected = [24.5, np.sqrt((50**2 - 1) / 12), 2, 24, 47]
    np.testing.assert_allclose(found, np.array(expected)[:, None] * np.ones(8))
    assert QUANTILES == (0.05, 0.5, 0.95)


def test_pseudo_values_of_a_mean_are_the_runs():
    runs = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(pseudo_values(lambda kept: runs[kept].mean(0), 20), runs)


def test_the_priors_density_is_the_mean_over_the_hierarchy():
    """Against 200,000 draws of mu and tau; three places at 4.5 errors, false alarms 2e-5."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 5, (200_000, 1))
    spread = halfcauchy.rvs(scale=5, size=(200_000, 1), random_state=rng)
    for z in (jnp.linspace(-1, 1, 8), jnp.linspace(-2, 4, 8), jnp.full(8, 0.3) + 0.1 * SCORES / 28):
        effects = np.asarray(to_effects(z), np.float64)
        found = np.exp(norm.logpdf(effects, mean, spread).sum(1))
        jacobian = np.sum(np.log(10 * np.cosh(np.asarray(z))))
        error = found.std() / found.mean() / np.sqrt(len(found))
        assert error < 0.2
        assert abs(np.log(found.mean()) + jacobian - float(log_prior(z))) < 4.5 * error


def test_the_network_treats_schools_alike():
    network, order = load(), jnp.array([3, 1, 0, 2, 7, 5, 6, 4])
    x = draw_effects(jax.random.key(0), 1)[0]
    permuted = network.score(x[order], 0.3)
    np.testing.assert_allclose(permuted, network.score(x, 0.3)[order], rtol=1e-4, atol=1e-4)


def test_the_network_has_the_priors_quantiles():
    """Of the spread over schools, to a tenth, between the deciles."""
    network = load()
    z = jax.jit(lambda m: m.sample(jax.random.key(0), (5_000,), num_steps=50))(network)
    spreads = [
        np.asarray(to_effects(v)).std(1) for v in (z, draw_effects(jax.random.key(1), 20_000))
    ]
    found, exact = (np.quantile(s, (0.1, 0.3, 0.5, 0.7, 0.9)) for s in spreads)
    np.testing.assert_allclose(np.log(found), np.log(exact), atol=0.12)


@pytest.mark.slow
def test_a_wrong_network_costs_acceptance_and_not_correctness():
    """Eight means of 20 chains, 5.5 errors by Student's t of 19 degrees: false alarms 2e-4."""
    truth, accepted = posterior(1001), []
    for network in (load(), as_network(initial(jax.random.key(0)))):
        drawn = proposed(jax.random.key(1), network)
        assert judge(estimates(drawn), truth).worst < 5.5
        accepted.append(drawn.accept_prob)
    assert accepted[1] < 0.7 * accepted[0]


@pytest.mark.slow
def test_particles_agree_with_the_networks_own_posterior():
    network = load()
    own = weighed(jax.random.key(0), network, num_draws=5_000)
    smc = methods.particles(jax.random.key(1), network)
    difference = smc.log_evidence.mean() - own.log_evidence.mean()
    noise = np.hypot(smc.log_evidence.std(ddof=1), own.log_evidence.std(ddof=1)) / np.sqrt(20)
    # Fifty steps of the reference cost a few hundredths besides.
    assert abs(difference) < 4.5 * noise + 0.05
    assert isinstance(network, sp.ScoreNetwork)
