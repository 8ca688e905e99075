"""Every weight move leaves a skewed density invariant; what is not a number is refused."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from jax import Array

from scoreppl.samplers.weight_moves import WEIGHT_MOVES
from tests.mutants import without_weight_ratio
from tests.oracle import OracleResult, one_step_oracle
from tests.samplers.exact import moments

QUICK = {"xla_backend_optimization_level": 0}
# Acceptance between 0.3 and 0.95 on the density below, where a wrong acceptance shows.
STEP_SIZES = {
    "mala": 0.9,
    "hmc": 0.5,
    "nuts": 0.6,
    "barker": 0.9,
    "random_walk": 0.9,
    "slice": 1.0,
}
INVERSE_MASS = jnp.array([0.7, 1.3])
EVERY_MOVE = pytest.mark.parametrize("name", WEIGHT_MOVES)


def log_density(x: Array) -> Array:
    """A log-gamma number and a normal one around its square, not normalised."""
    return 2.5 * x[0] - jnp.exp(x[0]) - 0.5 * ((x[1] - 0.5 * x[0] ** 2) / 0.8) ** 2 + 7.0


def draw(key: Array, count: int) -> Array:
    key_first, key_second = jax.random.split(key)
    first = jnp.log(jax.random.gamma(key_first, 2.5, (count,)))
    second = 0.5 * first**2 + 0.8 * jax.random.normal(key_second, (count,))
    return jnp.stack([first, second], 1)


class Info(NamedTuple):
    acceptance_rate: Array
    is_nan: Array


def kernel(name: str, density: Any = log_density) -> SamplingAlgorithm:
    """One move at its working step size."""
    move = WEIGHT_MOVES[name]()

    def step(key: Array, state: Any) -> tuple[Any, Info]:
        new, rate, is_nan = move.step(
            key, state, density, jnp.asarray(STEP_SIZES[name]), INVERSE_MASS
        )
        return new, Info(rate, is_nan)

    return SamplingAlgorithm(lambda x, key: move.init(x, density), step)


# Three seeds a move at this family-wise rate: 0.9 % of false alarms for all six moves together.
SEEDS, FALSE_ALARM_RATE = range(3), 0.0005


def check(algorithm: SamplingAlgorithm) -> list[OracleResult]:
    run = one_step_oracle(
        algorithm, lambda state: moments(state.position), false_alarm_rate=FALSE_ALARM_RATE
    )
    keys = [jax.random.split(jax.random.key(seed)) for seed in SEEDS]
    return [run(key_step, draw(key_draw, 20_000)) for key_draw, key_step in keys]


def test_the_draws_are_exact():
    # Mean and variance of log Gamma(2.5): digamma and trigamma, 0.703157 and 0.490358. Five
    # standard errors of 100,000 draws; the second number has mean and variance by those.
    x = np.asarray(draw(jax.random.key(9), 100_000), float)
    assert x[:, 0].mean() == pytest.approx(0.703157, abs=5 * np.sqrt(0.49 / 1e5))
    residual = (x[:, 1] - 0.5 * x[:, 0] ** 2) / 0.8
    assert residual.var() == pytest.approx(1.0, abs=5 * np.sqrt(2 / 1e5))
    assert np.exp(x[:, 0]).mean() == pytest.approx(2.5, abs=5 * np.sqrt(2.5 / 1e5))


@EVERY_MOVE
def test_a_move_leaves_the_density_invariant(name):
    found = check(kernel(name))
    assert not any(result.alarm for result in found), [result.max_abs_z for result in found]
    # Where everything is accepted the check of an acceptance has no power; a slice always moves.
    rate = found[0].acceptance_rate
    assert rate == 1.0 if name == "slice" else 0.3 < rate < 0.95


@EVERY_MOVE
def test_mutant_without_the_density_in_its_acceptance(name):
    found = check(kernel(name, without_weight_ratio(log_density)))
    assert all(result.alarm for result in found), [result.max_abs_z for result in found]


# What a move tells the annealer.


@EVERY_MOVE
def test_state_and_gradient(name):
    move, x = WEIGHT_MOVES[name](), jnp.array([0.4, -0.2])
    state = move.init(x, log_density)
    np.testing.assert_array_equal(state.position, x)
    new, _ = kernel(name).step(jax.random.key(3), state)
    assert (move.gradient is None) == (name in ("random_walk", "slice"))
    if move.gradient is not None:
        for at in (state, new):
            expected = jax.grad(log_density)(at.position)
            np.testing.assert_allclose(move.gradient(at), expected, rtol=1e-5, atol=1e-6)
    assert (move.target_acceptance_rate is None) == (name == "slice")
    assert name == "slice" or 0.0 < move.target_acceptance_rate < 1.0


@EVERY_MOVE
def test_step_size_and_preconditioner_set_the_length(name):
    """From the mode, short steps go by step_size * sqrt(inverse_mass) in each coordinate."""
    move = WEIGHT_MOVES[name]()
    x = jnp.array([np.log(2.5), 0.5 * np.log(2.5) ** 2])

    @jax.jit
    def lengths(step_size: Array) -> tuple[Array, Array]:
        def one(key: Array) -> tuple[Array, Array]:
            state, mass = move.init(x, log_density), jnp.array([1.0, 1e-4])
            new, rate, _ = move.step(key, state, log_density, step_size, mass)
            return jnp.abs(new.position - x), rate

        moved, rates = jax.vmap(one)(jax.random.split(jax.random.key(0), 1_000))
        return jnp.median(moved, 0), jnp.mean(rates)

    short, rate = lengths(jnp.asarray(0.01))
    # A factor 100, less where the density ends sooner; medians have errors of a few per cent.
    assert 40 < short[0] / short[1] < 130 and rate > 0.9
    longer, _ = lengths(jnp.asarray(0.04))
    # A slice finds its length by itself, and NUTS goes on until it turns.
    if name == "slice":
        np.testing.assert_array_equal(longer, short)
    elif name != "nuts":
        np.testing.assert_allclose(longer / short, 4.0, rtol=0.2)


# What is not a number.


def hole(x: Array, bottom: Any = jnp.nan) -> Array:
    """The density, not a number beyond x_0 = 1, where a third of it lies."""
    return jnp.where(x[0] > 1.0, bottom, log_density(x))


@EVERY_MOVE
def test_a_move_leaves_the_density_outside_a_hole_invariant(name):
    """A proposal into the hole is rejected, and nothing else is."""
    x = draw(jax.random.key(10), 40_000)
    kept = x[x[:, 0] <= 1.0][:20_000]
    run = one_step_oracle(
        kernel(name, hole), lambda state: moments(state.position), false_alarm_rate=0.001
    )
    result = run(jax.random.key(11), kept)
    assert not result.alarm, result.max_abs_z
    assert np.isfinite(result.acceptance_rate)


@cache
def beside_the_hole(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Fifty moves of chains that start outside the hole: positions and flags, by its bottom."""
    key = jax.random.key(5)
    starts = draw(key, 200).at[:, 0].min(0.95)

    @partial(jax.jit, compiler_options=QUICK)
    @partial(jax.vmap, in_axes=(0, 0, None))
    def chain(key: Array, x: Array, bottom: float) -> tuple[Array, Array]:
        algorithm = kernel(name, partial(hole, bottom=bottom))

        def step(state: Any, key: Array) -> tuple[Any, tuple]:
            state, info = algorithm.step(key, state)
            return state, (state.position, info.is_nan)

        return jax.lax.scan(step, algorithm.init(x, key), jax.random.split(key, 50))[1]

    keys, bottoms = jax.random.split(key, len(starts)), {"nan": np.nan, "-inf": -np.inf}
    return {b: jax.device_get(chain(keys, starts, value)) for b, value in bottoms.items()}


@EVERY_MOVE
@pytest.mark.parametrize("bottom", ["nan", "-inf"])
def test_a_chain_never_enters_the_hole(name, bottom):
    positions, _ = beside_the_hole(name)[bottom]
    assert np.isfinite(positions).all() and (positions[..., 0] <= 1.0).all()
    assert (np.ptp(positions[..., 0], 1) > 0.2).mean() > 0.9


# blackjax's slice tells nothing of the points that it tried.
@pytest.mark.parametrize("name", [name for name in WEIGHT_MOVES if name != "slice"])
def test_a_proposal_into_the_hole_is_flagged(name):
    _, is_nan = beside_the_hole(name)["nan"]
    assert 0.05 < is_nan.mean() < 0.9


@EVERY_MOVE
def test_a_density_of_zero_is_rejected_without_a_flag(name):
    _, is_nan = beside_the_hole(name)["-inf"]
    assert not is_nan.any()


@EVERY_MOVE
def test_what_is_a_number_is_not_flagged(name):
    algorithm, keys = kernel(name), jax.random.split(jax.random.key(7), 200)
    starts = draw(jax.random.key(6), 200)

    @partial(jax.jit, compiler_options=QUICK)
    @jax.vmap
    def flags(key: Array, x: Array) -> Array:
        return algorithm.step(key, algorithm.init(x, key))[1].is_nan

    assert not np.asarray(flags(keys, starts)).any()


@EVERY_MOVE
def test_a_start_in_the_hole_stays_and_is_flagged(name):
    algorithm, x = kernel(name, hole), jnp.array([1.5, 0.2])

    @partial(jax.jit, compiler_options=QUICK)
    @jax.vmap
    def step(key: Array) -> tuple[Array, Array]:
        state, info = algorithm.step(key, algorithm.init(x, key))
        return state.position, info.is_nan

    positions, is_nan = step(jax.random.split(jax.random.key(8), 20))
    np.testing.assert_array_equal(positions, np.broadcast_to(x, (20, 2)))
    assert np.asarray(is_nan).all()
