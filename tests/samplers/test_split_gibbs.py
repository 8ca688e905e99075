"""The split Gibbs sweep and its jump leave the augmented target invariant; mutants do not."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from jax import Array

from scoreppl.samplers.inner import Inner
from scoreppl.samplers.split_gibbs import draw_clean, jump, split_gibbs
from scoreppl.samplers.weight_moves import WEIGHT_MOVES, WeightMove, mala
from scoreppl.target import Position, Target
from tests.oracle import paired_z_scores
from tests.samplers.exact import (
    LOG_SNR,
    PRIOR,
    Draws,
    ExactReverse,
    alarms,
    level,
    moments,
    target,
)

EXACT = ExactReverse(PRIOR)
COUNT = 10_000
# Acceptance between 0.4 and 0.9 at this level.
STEP_SIZES = {
    "mala": 0.9,
    "hmc": 0.5,
    "nuts": 0.5,
    "barker": 0.9,
    "random_walk": 0.9,
    "slice": 1.0,
}


class Info(NamedTuple):
    acceptance_rate: Array


def functions(state: Draws) -> Array:
    return moments(state.clean, state.position["theta"], state.position["x"])


def sweep(inner: Inner, problem: Target, step_size: float) -> SamplingAlgorithm:
    """One sweep at a level that was entered before."""

    def step(key: Array, state: Draws) -> tuple[Draws, Info]:
        key_enter, *keys = jax.random.split(key, 1 + inner.num_steps)
        here, mass = level(problem), jnp.array([2.0, 0.5, 0.5])  # any positive preconditioner
        within = inner.enter(key_enter, state.position, problem, here)
        for key_move in keys:
            within, info = inner.step(key_move, within, problem, here, jnp.full(2, step_size), mass)
        end = Draws(within.clean["x"], inner.position(within))
        return end, Info(info.acceptance_rate[0])

    return SamplingAlgorithm(lambda state, key: state, step)


def jumps(problem: Target, how: Any = jump) -> SamplingAlgorithm:
    """One jump at the level."""

    def step(key: Array, state: Draws) -> tuple[Draws, None]:
        clean, noisy = how(key, {"x": state.clean}, state.position, problem, level(problem), 1)
        return Draws(clean["x"], noisy), None

    return SamplingAlgorithm(lambda state, key: state, step)


# Invariance.


@pytest.mark.parametrize("name", STEP_SIZES)
def test_a_sweep_leaves_the_level_invariant(name):
    inner = split_gibbs(WEIGHT_MOVES[name](), num_steps=2, num_reverse_steps=1)
    kernel = sweep(inner, target(EXACT), STEP_SIZES[name])
    assert not any(alarms(kernel, functions))


def test_a_sweep_with_jumps_leaves_the_level_invariant():
    inner = split_gibbs(mala(), num_sweeps=2, num_steps=1, num_reverse_steps=1, num_jumps=2)
    assert not any(alarms(sweep(inner, target(EXACT), 0.9), functions))


def test_a_jump_leaves_the_level_invariant():
    assert not any(alarms(jumps(target(EXACT)), functions))


@pytest.mark.parametrize("num_steps, fine_enough", [(3, False), (200, True)])
def test_what_remains_is_the_discretisation_of_the_reverse_diffusion(num_steps, fine_enough):
    # The analytic score model itself, whose reverse diffusion shrinks x_0 by O(1 / num_steps).
    inner = split_gibbs(mala(), num_steps=1, num_reverse_steps=num_steps)
    found = alarms(sweep(inner, target(PRIOR), 0.9), functions, count=4_000)
    assert not any(found) if fine_enough else all(found)


# Mutants.


class CouplingIsNotSquared(Target):
    """Its scales turn the coupling's variance s^2 into s."""

    def scales(self, times: Any) -> dict[str, Array]:
        return {name: jnp.sqrt(scale) for name, scale in super().scales(times).items()}


class NoiseDoesNotShrink(Target):
    """Its scales are the same at all levels, so that entering one keeps the noise of the last."""

    def scales(self, times: Any) -> dict[str, Array]:
        return {name: jnp.ones_like(scale) for name, scale in super().scales(times).items()}


def unadjusted(move: WeightMove) -> WeightMove:
    """Langevin without acceptance."""

    def step(
        key: Array, state: Any, log_density: Any, step_size: Array, inverse_mass: Array
    ) -> tuple[Any, Array, Array]:
        noise = jnp.sqrt(inverse_mass) * jax.random.normal(key, state.position.shape)
        drift = 0.5 * step_size**2 * inverse_mass * state.logdensity_grad
        new = move.init(state.position + drift + step_size * noise, log_density)
        return new, jnp.ones(()), jnp.zeros((), bool)

    return move._replace(step=step)


def jump_without_acceptance(
    key: Array, clean: Position, noisy: Position, problem: Target, *rest: Any
) -> tuple[Position, Position]:
    flat = Target(problem.score_models, problem.floors, lambda position: jnp.zeros(()))
    return jump(key, clean, noisy, flat, *rest)


def jump_without_translation(
    key: Array, clean: Position, noisy: Position, *rest: Any
) -> tuple[Position, Position]:
    clean, _ = jump(key, clean, noisy, *rest)
    return clean, noisy


def test_mutant_unadjusted_weight_move():
    inner = split_gibbs(unadjusted(mala()), num_steps=2, num_reverse_steps=1)
    assert all(alarms(sweep(inner, target(EXACT), 0.9), functions))


def test_mutant_coupling_variance():
    wrong = CouplingIsNotSquared(**vars(target(EXACT)))
    inner = split_gibbs(mala(), num_steps=10, num_reverse_steps=1)
    assert all(alarms(sweep(inner, wrong, 0.9), functions))


@pytest.mark.parametrize("mutant", [jump_without_acceptance, jump_without_translation])
def test_mutant_jumps(mutant):
    assert all(alarms(jumps(target(EXACT), mutant), functions))


# Entering a level.


def entry_z_scores(problem: Target, seed: int) -> np.ndarray:
    """Compare entering from a noisier level, without weight, with exact draws of the new level."""
    keys = jax.random.split(jax.random.key(seed), 3)
    noisier = level(problem, LOG_SNR - 3.0)
    entry = level(problem, is_entry=True)._replace(previous=noisier.times)
    inner = split_gibbs(mala(), num_reverse_steps=1)

    @jax.vmap
    def enter(key: Array, clean: Array, key_noise: Array) -> Array:
        scale = Target.scales(problem, noisier.times)["x"]
        u = clean + scale * jax.random.normal(key_noise, clean.shape)
        state = inner.enter(key, {"x": u}, problem, entry)
        return moments(state.clean["x"], inner.position(state)["x"])

    scale = Target.scales(problem, entry.times)["x"]
    clean = PRIOR.sample_exact(keys[0], (2, COUNT))
    entered = jax.jit(enter)(
        jax.random.split(keys[1], COUNT), clean[0], jax.random.split(keys[2], COUNT)
    )
    u = clean[1] + scale * jax.random.normal(keys[1], clean[1].shape)
    return paired_z_scores(np.asarray(entered) - np.asarray(jax.vmap(moments)(clean[1], u)))


def without_weight(model: Any) -> Target:
    return target(model, lambda position: jnp.zeros(()))


@pytest.mark.parametrize("seed", range(3))
def test_entry_brings_the_prior_to_the_level(seed):
    # 19 functions: max|z| > 4.6 has probability below 1e-4. A draw and its reference are
    # independent, so their difference has the standard error of two samples.
    assert np.abs(entry_z_scores(without_weight(EXACT), seed)).max() < 4.6


def test_mutant_entry_without_shrinking():
    mutant = NoiseDoesNotShrink(**vars(without_weight(EXACT)))
    assert np.abs(entry_z_scores(mutant, 0)).max() > 20


# The clean event.


@pytest.mark.parametrize("noise_level", [0.0, 0.3])
def test_the_clean_event_is_drawn_below_the_floor_of_the_ladder(noise_level):
    """At the last level too, x_0 is a draw and not the mean: a floor above 0 has width."""
    problem = Target({"x": PRIOR}, {"x": noise_level}, lambda position: jnp.zeros(()))
    times = {"x": jnp.asarray(0.3)}
    alpha, _ = PRIOR.noise(0.3)
    u = jnp.array([0.4, -0.3])

    @jax.jit
    @jax.vmap
    def draws(key: Array) -> Array:
        return draw_clean(key, {"x": u}, problem, times, level(problem).top_log_snr, 100)["x"]

    x0 = np.asarray(draws(jax.random.split(jax.random.key(0), 4_000)))
    law = PRIOR.posterior_given(alpha * u, 0.3)
    exact = np.asarray(law.sample_exact(jax.random.key(1), (4_000,)))
    # Standard deviations have relative errors of about 1.5 % each; 100 steps shrink by 1 %.
    np.testing.assert_allclose(x0.std(0), exact.std(0), rtol=0.1)


def test_two_sites_are_drawn_independently_and_plates_too():
    models = {"a": PRIOR, "b": PRIOR}
    problem = Target(models, dict.fromkeys(models, 0.0), lambda position: jnp.zeros(()))
    times = problem.times(jnp.asarray(-2.0))
    u = {"a": jnp.zeros((2, 3, 2)), "b": jnp.zeros((2, 3, 2))}
    clean = draw_clean(jax.random.key(0), u, problem, times, level(problem).top_log_snr, 4)
    values = np.concatenate([np.asarray(v).reshape(6, 2) for v in clean.values()])
    assert clean["a"].shape == (2, 3, 2)
    assert len(np.unique(values, axis=0)) == 12
