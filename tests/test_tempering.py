"""The pieces of the annealing case study: energies, symmetries, powers, chains and distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import special_ortho_group, wasserstein_distance

pytest.importorskip("optax")

import scoreppl as sp  # noqa: E402
from case_studies.annealing import mixtures, networks, truth  # noqa: E402
from case_studies.annealing.distances import wasserstein  # noqa: E402
from case_studies.annealing.methods import Method, anneal  # noqa: E402
from case_studies.annealing.particle_study import judge, methods, observe  # noqa: E402
from case_studies.annealing.particles import DW4, LJ13, SYSTEMS, basis  # noqa: E402
from case_studies.annealing.train import load, train  # noqa: E402

BY_NAME = pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)


def energy_of_positions(system, x: np.ndarray) -> float:
    """Written out over ordered pairs, each of which counts half."""
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                d = np.linalg.norm(x[i] - x[j])
                if system.name == "DW4":
                    total += 0.5 * (-4 * (d - 4) ** 2 + 0.9 * (d - 4) ** 4)
                else:
                    total += d**-12 - 2 * d**-6
    if system.name == "LJ13":
        total += 0.5 * np.sum((x - x.mean(0)) ** 2)
    return total


@BY_NAME
def test_the_basis_keeps_all_but_the_centre(system):
    rows = basis(system.num_particles)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-12)
    np.testing.assert_allclose(rows.sum(1), 0.0, atol=1e-12)


@BY_NAME
def test_energies_are_those_of_positions(system):
    rng = np.random.default_rng(0)
    shape = (system.num_particles, system.dimension)
    for _ in range(5):
        x = 3.0 + 2.0 * rng.standard_normal(shape)
        z = system.to_event(jnp.asarray(x))
        centred = np.asarray(networks.positions(system, z))
        np.testing.assert_allclose(centred, x - x.mean(0), atol=1e-5)
        np.testing.assert_allclose(system.energy(z), energy_of_positions(system, x), rtol=2e-3)


def test_energies_of_known_places():
    """Four particles at distance 4 + sqrt(2 / 0.9) are at the least energy a pair can have.

    The other is the icosahedron, whose Lennard-Jones energy in single pairs is -44.3268.
    """
    pair = float(DW4.pair_energy(jnp.asarray((4 + np.sqrt(2 / 0.9)) ** 2)))
    np.testing.assert_allclose(pair, -4.0 / 0.9, rtol=1e-5)
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a in (1, -1) for b in (1, -1)]
    cluster = np.array([(0, 0, 0), *(np.roll(c, k) for c in corners for k in range(3))], float)
    cluster /= np.linalg.norm(cluster[1])
    least = min(
        float(LJ13.energy(LJ13.to_event(jnp.asarray(scale * cluster)))) - 6.0 * scale**2
        for scale in np.linspace(0.94, 0.98, 41)
    )
    np.testing.assert_allclose(least, 2 * -44.3268, atol=0.01)


@BY_NAME
def test_the_network_turns_with_the_particles(system):
    """Rotations, reflections and renumberings of the particles change its output alike."""
    network, rng = load(system.name), np.random.default_rng(1)
    turn = special_ortho_group.rvs(system.dimension, random_state=2)
    turn[:, 0] *= -1.0
    order = rng.permutation(system.num_particles)
    for time in (0.1, 0.4, 0.7):
        x = rng.standard_normal((system.num_particles, system.dimension)) * 1.5
        moved = (x @ turn.T)[order] + 7.0
        first, second = (
            np.asarray(
                networks.positions(
                    system, network.denoise(system.to_event(jnp.asarray(p, jnp.float32)), time)
                )
            )
            for p in (x, moved)
        )
        np.testing.assert_allclose(second, (first @ turn.T)[order], atol=1e-3)
        assert np.abs(first - x + x.mean(0)).max() > 0.01


@pytest.mark.parametrize("mixture", mixtures.MIXTURES, ids=lambda mixture: mixture.name)
def test_powers_have_their_density(mixture):
    """Ratios of densities at draws, and the integral by importance sampling from the power."""
    law, rng = mixtures.power(mixture.name), np.random.default_rng(0)
    x = jnp.asarray(law.draw(rng, 64))
    noise = mixture.noise
    base = sp.analytic.GaussianMixture(mixture.means, mixture.covariances, mixture.weights, noise)
    found = sp.analytic.GaussianMixture(law.means, law.covariances, law.weights, noise)
    logs = jax.vmap(lambda v: mixture.beta * base.log_prob(v, None) - found.log_prob(v, None))(x)
    np.testing.assert_allclose(logs, law.log_integral, atol=5e-3)


def test_distances_on_a_line():
    rng = np.random.default_rng(0)
    x, y, share = rng.standard_normal(50), rng.standard_normal(30) + 0.3, rng.dirichlet(np.ones(50))
    expected = wasserstein_distance(x, y, share)
    np.testing.assert_allclose(wasserstein(x, y, share), expected, rtol=1e-9)
    np.testing.assert_allclose(wasserstein(x, x - 2.0, order=2), 2.0, rtol=1e-9)


def test_chains_have_the_moments_of_a_known_law():
    """Without pairs' energies the law is Gaussian with variance T in every coordinate."""
    free = LJ13._replace(pair_energy=lambda squared: 0.0 * squared)
    found = truth.sample(jax.random.key(0), free, (0.5, 2.0), 32, 20, 5, 100)
    variances = np.var(found.events.reshape(2, 640, -1), axis=1)
    # Of 36 coordinates' mean: a standard error of 0.01 for independent draws.
    np.testing.assert_allclose(variances.mean(1) / np.array([0.5, 2.0]), 1.0, atol=0.06)


def test_swaps_keep_ladders_apart():
    """A ladder's draws at two temperatures are never those of another ladder."""
    found = truth.sample(jax.random.key(0), DW4, (1.0, 1.2, 1.5), 4, 6, 1, 20)
    flat = np.asarray(found.events).transpose(2, 0, 1, 3).reshape(6, 12, -1)
    assert all(len(np.unique(draws, axis=0)) == 12 for draws in flat)
    assert np.all(found.swaps > 0.1)


def test_training_learns():
    """The denoiser of a normal law much narrower than the network assumes."""
    noise = sp.noise.VE(0.05, 20.0)

    def build(params):
        return networks.point_model(params, 2, noise, 1.0)

    params = train(
        jax.random.key(1), build, networks.initial_points(jax.random.key(0), 2),
        lambda key, count: 0.5 * jax.random.normal(key, (count, 2)),
        num_steps=500, batch=64, rate=2e-3, decay=0.98, report=lambda line: None,
    )  # fmt: skip
    x = jnp.array([[0.4, -0.3], [0.0, 0.5], [-0.6, 0.1]])
    found = jax.vmap(lambda v: build(params).denoise(v, noise.time(-2 * jnp.log(0.5))))(x)
    # Half of x is right, and the untrained network gives 0.8 of it.
    np.testing.assert_allclose(found, 0.5 * x, atol=0.08)


@pytest.mark.slow
def test_a_small_run():
    """DW4 to T = 1: weights lower the energies, which the summed score alone leaves too high."""
    exact = truth.sample(jax.random.key(0), DW4, (1.0, 2.0), 64, 10, 20, 300)
    cold = observe(DW4, exact.events[0])
    method = methods()[3]._replace(num_steps=50)
    found = anneal(jax.random.key(1), load("DW4"), 2.0, method, 300, 2)
    seen = [
        judge(observe(DW4, x), cold, share) for x, share in zip(found.x, found.share, strict=True)
    ]
    hot = judge(observe(DW4, exact.events[1]), cold)
    assert np.mean(seen, 0)[0] < 0.3 * hot[0]
    assert np.isfinite(found.log_evidence).all() and found.evaluations == 300 * 50 * 2


def test_no_corrector_is_a_plain_reverse_diffusion():
    found = anneal(jax.random.key(0), load("forty"), 3.0, Method("none", None, 10), 8, 2)
    assert found.x.shape == (2, 8, 2) and np.isnan(found.log_evidence).all()
    np.testing.assert_allclose(found.share.sum(1), 1.0)
