"""The split Gibbs sweep and its jump leave the augmented target invariant; mutants do not."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from jax import Array

from scoreppl.noise import VE, register_part
from scoreppl.samplers.inner import Inner
from scoreppl.samplers.renoising import draw_cleaner
from scoreppl.samplers.split_gibbs import STRETCH, cleaner_log_snrs, jump, split_gibbs
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
    noisy_pairs,
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
    return moments(state.cleaner, state.position["theta"], state.position["x"])


def sweep(inner: Inner, problem: Target, step_size: float) -> SamplingAlgorithm:
    """One sweep at a level that was entered before."""

    def step(key: Array, state: Draws) -> tuple[Draws, Info]:
        key_enter, *keys = jax.random.split(key, 1 + inner.num_steps)
        here, mass = level(problem), jnp.array([2.0, 0.5, 0.5])  # any positive preconditioner
        within = inner.enter(key_enter, state.position, problem, here)
        for key_move in keys:
            within, info = inner.step(key_move, within, problem, here, jnp.full(2, step_size), mass)
        end = Draws(within.cleaner["x"], inner.position(within))
        return end, Info(info.acceptance_rate[0])

    return SamplingAlgorithm(lambda state, key: state, step)


def jumps(problem: Target, how: Any = jump) -> SamplingAlgorithm:
    """One jump at the level."""

    def step(key: Array, state: Draws) -> tuple[Draws, None]:
        cleaner, noisy = how(key, {"x": state.cleaner}, state.position, problem, level(problem), 1)
        return Draws(cleaner["x"], noisy), None

    return SamplingAlgorithm(lambda state, key: state, step)


# Invariance.


@pytest.mark.parametrize("name", STEP_SIZES)
def test_a_sweep_leaves_the_level_invariant(name):
    inner = split_gibbs(WEIGHT_MOVES[name](), num_steps=2, num_reverse_steps=1)
    kernel = sweep(inner, target(EXACT), STEP_SIZES[name])
    assert not any(alarms(kernel, functions))


def test_a_sweep_with_jumps_leaves_the_level_invariant():
    inner = split_gibbs(
        mala(), num_sweeps=2, num_steps=1, num_reverse_steps=1, num_jumps=2, num_jump_steps=1
    )
    assert not any(alarms(sweep(inner, target(EXACT), 0.9), functions))


def test_a_jump_leaves_the_level_invariant():
    assert not any(alarms(jumps(target(EXACT)), functions))


@pytest.mark.parametrize("num_steps, fine_enough", [(1, False), (100, True)])
def test_what_remains_is_the_discretisation_of_the_reverse_diffusion(num_steps, fine_enough):
    # The analytic score model itself, whose reverse steps are too narrow by O(1 / num_steps).
    inner = split_gibbs(mala(), num_steps=1, num_reverse_steps=num_steps)
    found = alarms(sweep(inner, target(PRIOR), 0.9), functions, count=4_000)
    assert not any(found) if fine_enough else all(found)


def gibbs() -> WeightMove:
    """Exact draw of u given v without a weight, from the density's slope and curvature."""

    def step(
        key: Array, state: Any, log_density: Any, step_size: Array, inverse_mass: Array
    ) -> tuple[Any, Array, Array]:
        slope, curvature = jax.grad(log_density), jax.hessian(log_density)
        zero = jnp.zeros_like(state.position)
        variance = -1.0 / curvature(zero)[0, 0]
        noise = jnp.sqrt(variance) * jax.random.normal(key, zero.shape)
        new = state._replace(position=variance * slope(zero) + noise)
        return new, jnp.ones(()), jnp.zeros((), bool)

    return mala()._replace(step=step, gradient=None)


# Mutants.


class CouplingIsNotSquared(Target):
    """Its scales turn the coupling's standard deviation into the root of it."""

    def scales(self, times: Any) -> dict[str, Array]:
        return {name: jnp.sqrt(scale) for name, scale in super().scales(times).items()}


class NoiseDoesNotShrink(Target):
    """Its scales at the noisier level are such that entering the next keeps the noise."""

    def scales(self, times: Any) -> dict[str, Array]:
        level_scale = super().scales(super().times(jnp.asarray(LOG_SNR)))
        kept = jnp.sqrt(-jnp.expm1(-STRETCH) / -jnp.expm1(-STRETCH - 3.0))
        return {
            name: jnp.where(scale > 1.5 * level_scale[name], kept * level_scale[name], scale)
            for name, scale in super().scales(times).items()
        }


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
    key: Array, cleaner: Position, noisy: Position, problem: Target, *rest: Any
) -> tuple[Position, Position]:
    flat = Target(problem.score_models, problem.floors, lambda position: jnp.zeros(()))
    return jump(key, cleaner, noisy, flat, *rest)


def jump_without_translation(
    key: Array, cleaner: Position, noisy: Position, *rest: Any
) -> tuple[Position, Position]:
    cleaner, _ = jump(key, cleaner, noisy, *rest)
    return cleaner, noisy


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
    def enter(key: Array, u: Array) -> Array:
        state = inner.enter(key, {"x": u}, problem, entry)
        return moments(state.cleaner["x"], inner.position(state)["x"])

    _, noisy = noisy_pairs(keys[0], keys[1], COUNT, LOG_SNR - 3.0)
    entered = jax.jit(enter)(jax.random.split(keys[1], COUNT), noisy)
    exact = jax.vmap(moments)(*noisy_pairs(keys[2], keys[0], COUNT, LOG_SNR))
    return paired_z_scores(np.asarray(entered) - np.asarray(exact))


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


# The cleaner event.


@pytest.mark.parametrize("noise_level", [0.0, 0.3])
def test_the_cleaner_event_is_drawn_below_the_floor_of_the_ladder(noise_level):
    problem = Target({"x": PRIOR}, {"x": noise_level}, lambda position: jnp.zeros(()))
    times = {"x": jnp.asarray(0.3)}
    alpha, sigma = PRIOR.noise(0.3)
    u = jnp.array([0.4, -0.3])

    @jax.jit
    @jax.vmap
    def draws(key: Array) -> Array:
        goals = cleaner_log_snrs(problem, times)
        return draw_cleaner(key, {"x": u}, problem, times, goals, 100)["x"]

    found = np.asarray(draws(jax.random.split(jax.random.key(0), 4_000)))
    clean = PRIOR.posterior_given(alpha * u, 0.3).sample_exact(jax.random.key(1), (4_000,))
    share = np.exp(-STRETCH)
    bridge = (sigma / alpha) * np.sqrt(share * (1 - share))
    noise = bridge * jax.random.normal(jax.random.key(2), clean.shape)
    exact = np.asarray(share * u + (1 - share) * clean + noise)
    # Standard deviations have relative errors of 1.1 % each: 5 % is three of their difference,
    # and a mean instead of a draw, or noise left out, is off by a third and more.
    np.testing.assert_allclose(found.std(0), exact.std(0), rtol=0.05)
    np.testing.assert_allclose(found.mean(0), exact.mean(0), atol=0.03)


@register_part
@dataclass(frozen=True)
class EndsEarly:
    """A normal law whose denoiser gives nonsense below the smallest time that is valid."""

    scale: float
    min_time: float = 0.1
    noise = VE(0.01, 10.0)
    event_shape = ()
    has_log_density = False

    def denoise(self, x: Array, t: Array) -> Array:
        _, sigma = self.noise(t)
        gain = self.scale**2 / (self.scale**2 + sigma**2)
        return jnp.where(t < self.min_time, jnp.nan, gain * x)


@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.05, 1.0])
def test_below_the_smallest_valid_time_the_noise_prediction_is_kept(scale):
    """Sweeps at the lowest valid level keep its width to an eighth, whatever the prior's."""
    model = EndsEarly(scale)
    problem = Target({"x": model}, {"x": model.min_time}, lambda position: jnp.zeros(()))
    here = level(problem, 14.0)
    width = np.sqrt(scale**2 + float(model.noise(0.1)[1]) ** 2)
    inner = split_gibbs(gibbs(), num_steps=1)

    @jax.jit
    @jax.vmap
    def run(key: Array) -> Array:
        def sweep(u: Array, key: Array) -> tuple[Array, None]:
            state = inner.enter(key, {"x": u}, problem, here)
            state, _ = inner.step(key, state, problem, here, jnp.ones(2), jnp.ones(1))
            return state.position["x"], None

        start = width * jax.random.normal(key)
        return jax.lax.scan(sweep, start, jax.random.split(key, 200))[0]

    u = np.asarray(run(jax.random.split(jax.random.key(0), 4_000)))
    assert u.std() == pytest.approx(width, rel=0.125)


def test_two_sites_are_drawn_independently_and_plates_too():
    models = {"a": PRIOR, "b": PRIOR}
    problem = Target(models, dict.fromkeys(models, 0.0), lambda position: jnp.zeros(()))
    times = problem.times(jnp.asarray(-2.0))
    u = {"a": jnp.zeros((2, 3, 2)), "b": jnp.zeros((2, 3, 2))}
    goals = cleaner_log_snrs(problem, times)
    cleaner = draw_cleaner(jax.random.key(0), u, problem, times, goals, 4)
    values = np.concatenate([np.asarray(v).reshape(6, 2) for v in cleaner.values()])
    assert cleaner["a"].shape == (2, 3, 2)
    assert len(np.unique(values, axis=0)) == 12
