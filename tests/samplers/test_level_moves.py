"""The line-integral moves of a level leave its target invariant; entering a level; mutants."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from jax import Array

from scoreppl.line_integral import Quadrature
from scoreppl.samplers.inner import Inner
from scoreppl.samplers.level_moves import jump, level_moves, move_latents
from scoreppl.target import Position
from tests import mutants
from tests.samplers.exact import (
    LOG_SNR,
    PRIOR,
    ExactReverse,
    alarms,
    level,
    log_weight,
    moments,
    target,
)

# Working step sizes by number of leapfrog steps: acceptance between 0.5 and 0.9.
STEP_SIZES = {1: 0.8, 3: 0.6}


class Info(NamedTuple):
    acceptance_rate: Array


def move(inner: Inner, step_size: float, *, is_last: bool = False) -> SamplingAlgorithm:
    """One move at a level, on the position alone."""
    problem = target()

    def step(key: Array, position: Position) -> tuple[Position, Info]:
        here, mass = level(problem, is_last=is_last), jnp.array([0.5, 1.0, 1.0])
        # Entering from the same level leaves the position alone.
        state = inner.enter(key, position, problem, here)
        state, info = inner.step(key, state, problem, here, jnp.full(1, step_size), mass)
        return inner.position(state), Info(info.acceptance_rate[0])

    return SamplingAlgorithm(lambda draws, key: draws.position, step)


def functions(position: Position) -> Array:
    return moments(position["theta"], position["x"])


@pytest.mark.parametrize("num_integration_steps", STEP_SIZES)
@pytest.mark.parametrize("quadrature", [None, "simpson", "gauss_legendre"])
def test_a_move_leaves_the_level_invariant(num_integration_steps, quadrature):
    inner = level_moves(
        num_integration_steps=num_integration_steps, quadrature=quadrature, num_jumps=0
    )
    kernel = move(inner, STEP_SIZES[num_integration_steps])
    assert not any(alarms(kernel, functions, judged="denoised"))


@pytest.mark.parametrize("num_integration_steps", STEP_SIZES)
def test_at_the_last_level_the_weight_is_felt_at_the_position_itself(num_integration_steps):
    inner = level_moves(num_integration_steps=num_integration_steps, num_jumps=0)
    kernel = move(inner, STEP_SIZES[num_integration_steps], is_last=True)
    assert not any(alarms(kernel, functions, judged="noisy"))


def latent_moves(
    weight: Callable[[Position], Array] = log_weight, *, is_last: bool = False
) -> SamplingAlgorithm:
    """Moves of theta alone at a level."""
    problem = target(weight=weight)

    def step(key: Array, position: Position) -> tuple[Position, None]:
        return move_latents(key, position, problem, level(problem, is_last=is_last), 3), None

    return SamplingAlgorithm(lambda draws, key: draws.position, step)


@pytest.mark.parametrize(
    "judged, is_last",
    [pytest.param("denoised", False, marks=pytest.mark.slow), ("noisy", True)],
)
def test_moves_of_the_latents_leave_the_level_invariant(judged, is_last):
    found = alarms(latent_moves(is_last=is_last), functions, count=40_000, judged=judged)
    assert not any(found)


def jumps(weight: Callable[[Position], Array] = log_weight) -> SamplingAlgorithm:
    """One jump at the last level, with exact reverse steps."""
    problem = target(ExactReverse(PRIOR), weight)

    def step(key: Array, position: Position) -> tuple[Position, None]:
        return jump(key, position, problem, level(problem, is_last=True), 1), None

    return SamplingAlgorithm(lambda draws, key: draws.position, step)


def test_a_jump_leaves_the_level_invariant():
    assert not any(alarms(jumps(), functions, judged="noisy"))


# Mutants.


def test_mutant_jump_without_acceptance():
    assert all(alarms(jumps(lambda position: jnp.zeros(())), functions, judged="noisy"))


def test_mutant_moves_of_the_latents_without_weight():
    assert all(alarms(latent_moves(lambda p: jnp.zeros(())), functions, judged="denoised"))


@pytest.mark.parametrize("rule", [mutants.half_integral(), mutants.left_endpoint()])
def test_mutant_quadrature(rule: Quadrature):
    kernel = move(level_moves(quadrature=rule, num_jumps=0), STEP_SIZES[1])
    assert all(alarms(kernel, functions, judged="denoised"))


@pytest.mark.parametrize(
    "judged, is_last",
    [pytest.param("denoised", True, marks=pytest.mark.slow), ("noisy", False)],
)
def test_mutant_weight_at_the_wrong_place(judged, is_last):
    kernel = move(level_moves(num_jumps=0), STEP_SIZES[1], is_last=is_last)
    assert all(alarms(kernel, functions, judged=judged))


# Entering a level.


def test_entering_is_one_ancestral_step():
    """Over many keys, mean and spread of the entered position are those of the step's formula."""
    problem = target()
    noisier = level(problem, LOG_SNR - 1.0)
    here = level(problem, is_entry=True)._replace(previous=noisier.times)
    position = {"theta": jnp.asarray(0.3), "x": jnp.array([0.8, -1.1])}
    inner = level_moves(num_jumps=0, num_latent_moves=0)

    @jax.jit
    @jax.vmap
    def entered(key: Array) -> Position:
        return inner.position(inner.enter(key, position, problem, here))

    found: Any = entered(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_array_equal(found["theta"], np.full(20_000, 0.3, np.float32))
    # In data units: u_s = D + r (u_t - D) + sqrt(s^2 (1 - r)) z with r = exp(-1) and D = D(u_t).
    alpha, _ = PRIOR.noise(noisier.times["x"])
    clean = PRIOR.denoise(alpha * position["x"], noisier.times["x"])
    r, scale = np.exp(-1.0), problem.scales(here.times)["x"]
    x = np.asarray(found["x"], float)
    spread = float(scale) * np.sqrt(1 - r)
    # Six standard errors of 20,000 draws, for the mean and for the standard deviation.
    error = spread / np.sqrt(len(x))
    np.testing.assert_allclose(x.mean(0), clean + r * (position["x"] - clean), atol=6 * error)
    np.testing.assert_allclose(x.std(0), spread, atol=6 * error)
