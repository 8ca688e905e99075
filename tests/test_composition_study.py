"""The composition case study: its truth, its metrics at their floor, and every sampler once."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from case_studies.composition.metrics import judge, wasserstein
from case_studies.composition.network import load
from case_studies.composition.normalise import normalised
from case_studies.composition.problem import (
    MIXTURE,
    NEGATION,
    NOISE,
    PROBLEMS,
    PRODUCT,
    RING_SCALE,
    bar,
    ring,
)
from case_studies.composition.samplers import (
    BY_DENSITY,
    METHODS,
    annealed,
    particles,
    reverse,
    unadjusted_hamiltonian,
    unadjusted_langevin,
)
from case_studies.composition.truth import classify, truth_of

BY_NAME = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
cached_truth = cache(truth_of)


def test_the_product_is_that_of_its_pairs_of_gaussians():
    """Products of Gaussians are known: their integral, and the masses of the ring's modes."""
    first, second, truth = ring(), bar(), cached_truth(PRODUCT)
    variances = RING_SCALE**2 + np.asarray(second.scales) ** 2
    apart = np.asarray(first.means)[:, None] - np.asarray(second.means)
    pairs = np.exp(-0.5 * np.sum(apart**2 / variances, -1)) / np.prod(np.sqrt(variances), -1)
    integrals = pairs @ np.asarray(second.weights) / (2 * np.pi * len(first.means))
    np.testing.assert_allclose(truth.log_integral, np.log(integrals.sum()), atol=1e-4)
    np.testing.assert_allclose(truth.masses[:8], integrals / integrals.sum(), atol=2e-4)


def test_the_mixture_needs_no_integral():
    truth = cached_truth(MIXTURE)
    np.testing.assert_allclose(truth.log_integral, 0.0, atol=1e-4)
    moments = [np.asarray(law.moments()[1]) for law in (ring(), bar())]
    np.testing.assert_allclose(truth.covariance, np.mean(moments, 0), atol=1e-4)


@BY_NAME
def test_exact_draws_have_the_truths_moments_and_masses(problem):
    truth, size = cached_truth(problem), 40_000
    draws = truth.draw(np.random.default_rng(0), size)
    shares = np.bincount(classify(draws), minlength=10) / size
    errors = np.sqrt(truth.masses * (1 - truth.masses) / size)
    # Ten classes, 4.5 standard errors: false-alarm rate 7e-5.
    assert np.all(np.abs(shares - truth.masses) < 4.5 * errors + 1e-6)
    np.testing.assert_allclose(truth.masses.sum(), 1.0, atol=1e-9)
    spread = np.std((draws - draws.mean(0)) ** 2, axis=0) / np.sqrt(size)
    assert np.all(np.abs(draws.var(0) - np.diag(truth.covariance)) < 4.5 * spread)
    inside = np.mean(truth.log_prob(draws) > truth.bulk_level)
    assert abs(inside - 0.99) < 4.5 * np.sqrt(0.0099 / size)


def test_the_negation_has_less_of_the_modes_within_the_bar():
    masses = cached_truth(NEGATION).masses
    inside, outside = masses[[2, 6]], masses[[0, 1, 3, 4, 5, 7]]
    assert 5 < outside.min() / inside.max() < 6
    np.testing.assert_allclose(masses[:8].sum(), 1.0, atol=1e-3)


def test_wasserstein_is_a_root_mean_square():
    """All of the points moved by one vector: W2 is its length, whatever the number of points."""
    x = np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_allclose(wasserstein(x, x[::-1] + [0.3, 0.4]), 0.5, rtol=1e-9)


@BY_NAME
def test_metrics_of_exact_and_of_wrong_draws(problem):
    truth, rng = cached_truth(problem), np.random.default_rng(1)
    exact, other = truth.draw(rng, 400), truth.draw(rng, 400)
    floor, wrong = judge(truth, exact, other), judge(truth, exact + [0.1, 0.0], other)
    assert floor.in_bulk > 0.96 and floor.mode_distance < 0.12
    assert wrong.in_bulk < floor.in_bulk and wrong.log_likelihood < floor.log_likelihood - 0.2
    # The mean log density of exact draws is minus the entropy.
    entropy = -np.mean(truth.log_prob(truth.draw(rng, 20_000)))
    spread = np.std(truth.log_prob(exact)) / 20
    assert abs(floor.log_likelihood + entropy) < 4.5 * spread


@pytest.mark.parametrize(
    "kernel", [unadjusted_langevin, unadjusted_hamiltonian], ids=["langevin", "hamiltonian"]
)
def test_unadjusted_kernels_have_the_law_of_their_step_size(kernel):
    """On a standard normal law their stationary variance is known in closed form."""
    model = sp.analytic.GaussianMixture(jnp.zeros((1, 2)), scales=1.0, noise=NOISE)
    stretch = 15.0
    step_size = stretch * 0.03 if kernel is unadjusted_hamiltonian else stretch**2 * 0.001
    factor = step_size**2 / 4 if kernel is unadjusted_hamiltonian else step_size / 2
    algorithm = kernel(model, jnp.asarray(0.0), stretch)

    def chain(key):
        key_start, key_noise, key_steps = jax.random.split(key, 3)
        start = algorithm.init(jax.random.normal(key_noise, (2,)), key_start)
        steps = jax.random.split(key_steps, 60)
        return jax.lax.scan(lambda s, k: (algorithm.step(k, s)[0], None), start, steps)[0].position

    draws = np.asarray(jax.vmap(chain)(jax.random.split(jax.random.key(0), 20_000)))
    expected = 1 / (1 - factor)
    # 4.5 standard errors of a variance from 40,000 normal numbers: false-alarm rate 7e-6.
    assert abs(draws.var() / expected - 1) < 4.5 * np.sqrt(2 / draws.size)
    assert expected > 1 + 6 * np.sqrt(2 / draws.size)


@pytest.mark.parametrize("prediction", ["epsilon", "energy"])
def test_networks_know_their_laws(prediction):
    """At a middle level: root mean squared error of the predicted noise below a tenth."""
    for name, law in (("ring", ring()), ("bar", bar())):
        network, t = load(name, prediction), 0.1
        x = law.sample_exact(jax.random.key(0), (500,), t)
        times = jnp.full(len(x), t)
        found, exact = (jax.vmap(m.score)(x, times) for m in (network, law))
        error = NOISE(t)[1] * (found - exact)
        assert float(jnp.sqrt(jnp.mean(error**2))) < 0.1


@pytest.mark.slow
def test_normalised_energies_are_log_densities():
    for name, law in (("ring", ring()), ("bar", bar())):
        network = normalised(load(name, "energy"), jax.random.key(0))
        x, times = law.sample_exact(jax.random.key(1), (200,), 0.3), jnp.full(200, 0.3)
        found, exact = (jax.vmap(m.log_prob)(x, times) for m in (network, law))
        assert float(jnp.abs(jnp.mean(found - exact))) < 0.05


@pytest.mark.parametrize("name", ["U-LA", "LA", "U-HMC", "HMC", "HMC, energy difference"])
def test_annealed_samplers_run(name):
    method, model = (METHODS | BY_DENSITY)[name], sp.product(ring(), bar())
    found = method(jax.random.split(jax.random.key(0), 2), model, 16, num_levels=5)
    assert found.draws.shape == (2, 16, 2) and np.all(np.isfinite(found.draws))
    if found.acceptance_rate is not None:
        assert found.acceptance_rate.shape == (5,)
        assert 0.1 < found.acceptance_rate[-1] < found.acceptance_rate[0]


def test_reverse_diffusion_runs():
    keys = jax.random.split(jax.random.key(0), 2)
    found = reverse(keys, sp.product(ring(), bar()), 64, num_steps=20)
    assert found.draws.shape == (2, 64, 2) and np.all(np.isfinite(found.draws))


@pytest.mark.slow
def test_particles_have_the_masses_that_annealed_moves_miss():
    truth, rng = cached_truth(PRODUCT), np.random.default_rng(2)
    model, keys = sp.product(ring(), bar()), jax.random.split(jax.random.key(1), 2)
    moved = annealed(keys, model, 500, kernel=METHODS["HMC"].keywords["kernel"], cost=6).draws[0]
    weighed = particles(keys, model, 500).draws[0]
    exact = truth.draw(rng, 500)
    assert judge(truth, moved, exact).in_bulk < 0.92
    assert judge(truth, weighed, exact).in_bulk > 0.96
