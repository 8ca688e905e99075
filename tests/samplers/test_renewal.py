"""Moves of resampled particles, waste-free chains, and levels moved by a pilot run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from scoreppl.mcmc import mala
from scoreppl.samplers import correctors
from scoreppl.samplers.correctors import CorrectedLevel, CorrectedPaths
from scoreppl.samplers.smc import Moves, respaced
from scoreppl.target import Target
from tests.compose.laws import FIRST, LAWS, NOISE, SECOND, reward

LOG_SNR, TILT = 2.0, 0.6


def exact_draws(count: int, seed: int) -> np.ndarray:
    """Draws of the product's law at the level, tilted, by its distribution function."""
    time = NOISE.time(LOG_SNR)
    alpha, _ = NOISE(time)
    grid = jnp.linspace(-5.0, 5.0, 40_001)[:, None]

    def log_density(u):
        prior = FIRST.log_prob(alpha * u, time) + SECOND.log_prob(alpha * u, time)
        return prior + TILT * reward(u)

    logs = np.asarray(jax.jit(jax.vmap(log_density))(grid), float)
    mass = np.cumsum(np.exp(logs - logs.max()))
    uniform = np.random.default_rng(seed).uniform(size=count)
    return np.interp(uniform, mass / mass[-1], np.asarray(grid[:, 0]))


def renewed(moves: Moves, count: int = 40_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Exact draws, and all states of the chains that begin there, shape ``(count, states)``."""
    target = Target(
        {"x": sp.product(FIRST, SECOND)}, {"x": jnp.zeros(())}, lambda z: reward(z["x"])
    )
    method = CorrectedPaths(target, sp.correctors.LaplacianOnly(), None)
    level = CorrectedLevel(jnp.array(3), *[jnp.array(LOG_SNR)] * 3, *[jnp.array(TILT)] * 3)
    keys = jax.random.split(jax.random.key(seed), count)

    def run(u: jax.Array) -> jax.Array:
        particles, _ = method.start(keys, {}, jnp.array(LOG_SNR), jnp.array(1.0))
        particles = particles._replace(u=u[:, None])
        seen = method.look(keys, particles, level).seen
        return method.renew(keys, particles, seen, level, moves)[0].u[..., 0]

    before = exact_draws(count, seed)
    return before, np.asarray(jax.jit(run)(jnp.asarray(before)), float)


def scores(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    tests = [lambda x: x, np.square, np.sin, lambda x: x > 1.0, lambda x: np.sin(3 * x)]
    changes = np.stack([np.asarray(f(after), float) - f(before) for f in tests])
    return changes.mean(1) / (changes.std(1) / np.sqrt(changes.shape[1]))


@pytest.mark.parametrize("seed", [0, 1])
def test_moves_keep_the_law_of_the_level(seed):
    before, states = renewed(Moves(2), seed=seed)
    np.testing.assert_array_equal(states[:, 0], before.astype(np.float32))
    assert np.mean(states[:, 2] != states[:, 0]) > 0.8
    # Five functions after one and two steps at 3.9: false-alarm rate 1e-3.
    z = [np.abs(scores(before, states[:, k])).max() for k in (1, 2)]
    assert max(z) < 3.9, z


MUTANTS = {
    "half of the integral": lambda score, weight, **options: mala(
        lambda u: 0.5 * score(u), weight, **options
    ),
    "no tilt": lambda score, weight, **options: mala(score, lambda u: 0.0 * jnp.sum(u), **options),
    "trapezoid": functools.partial(mala, quadrature="trapezoid"),
}


@pytest.mark.filterwarnings("ignore:.*trapezoid.*:UserWarning")
@pytest.mark.parametrize("name", list(MUTANTS))
def test_mutants_of_the_moves_are_caught(monkeypatch, name):
    monkeypatch.setattr(correctors, "mala", MUTANTS[name])
    before, states = renewed(Moves(1))
    assert np.abs(scores(before, states[:, 1])).max() > 6


def run(name, num_runs=12, **options):
    law = LAWS[name]
    sampler = sp.ScoreSMC(
        score_model=law.model, log_weight=law.log_weight, num_particles=500, num_steps=60,
        num_runs=num_runs, num_pilots=64, corrector=sp.correctors.LaplacianOnly(), **options,
    )  # fmt: skip
    sampler.run(jax.random.key(0))
    return law, sampler


OPTIONS = {
    "moves": {"moves": Moves(3)},
    "waste free": {"moves": Moves(4, waste_free=True)},
    "respaced": {"num_level_pilots": 100},
}


@pytest.mark.parametrize(
    "name", ["moves", *(pytest.param(n, marks=pytest.mark.slow) for n in list(OPTIONS)[1:])]
)
def test_the_evidence_and_the_mean_stay_right(name):
    law, sampler = run("tilted and sharpened", **OPTIONS[name])
    result = sampler.result
    weight = np.exp(result.log_weight - result.log_weight.max()).reshape(12, -1)
    x = np.asarray(result.samples["x"])[:, 0].reshape(12, -1)
    means = (weight * x).sum(1) / weight.sum(1) - law.mean()
    bias = sampler.log_evidence - law.log_evidence()
    # Student's t with 11 degrees of freedom at 4: false-alarm rate 2e-3 each.
    assert abs(bias) < 4 * result.log_evidence_error_of_runs
    assert abs(means.mean()) < 4 * means.std(ddof=1) / np.sqrt(12)
    accepted = np.asarray(result.trace.acceptance_rate)
    if name == "respaced":
        assert np.isnan(accepted).all()
        return
    is_resampled = np.asarray(result.trace.is_resampled)
    assert np.array_equal(np.isfinite(accepted), is_resampled) and is_resampled.any()
    assert np.all(accepted[is_resampled] > 0.7)
    moves = OPTIONS[name]["moves"]
    chains = 100 if moves.waste_free else 500
    each = chains * (1 + 2 * moves.num_steps + 2 * (moves.num_steps + 1))
    assert result.num_score_evaluations == 12 * 500 * 60 * 2 + is_resampled.sum() * each


def test_levels_go_where_weights_vary():
    ladder = jnp.linspace(-6.0, 6.0, 61)
    variance = jnp.where(jnp.abs(ladder - 2.0) < 0.5, 1.0, 1e-6)
    moved = np.asarray(respaced(ladder, variance))
    assert moved[0] == -6.0 and abs(moved[-1] - 6.0) < 1e-5 and np.all(np.diff(moved) > 0)
    near = (np.abs(np.asarray(ladder) - 2.0) < 0.5).sum(), (np.abs(moved - 2.0) < 0.5).sum()
    assert near[1] > 4 * near[0]
    np.testing.assert_allclose(respaced(ladder, jnp.zeros(61)), ladder, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"moves": 5, "corrector": sp.correctors.LaplacianOnly()}, "`moves` of type int"),
        ({"moves": Moves(2), "log_weight": reward}, "`moves` need the law of a level"),
        ({"moves": Moves(0)}, "`moves.num_steps=0`"),
        ({"moves": Moves(2, step_size=-1.0)}, "`moves.step_size=-1.0`"),
        ({"moves": Moves(2, waste_free=True), "num_particles": 100}, "multiple of the 3 states"),
        ({"num_level_pilots": 1}, "`num_level_pilots=1`"),
        ({"num_level_pilots": -1}, "`num_level_pilots=-1`"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError) as caught:
        sp.ScoreSMC(score_model=FIRST, **options)
    assert message in str(caught.value)
