"""Annealing over noise levels: many independent draws at once, each from pure noise."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.adaptation.step_size import dual_averaging_adaptation
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.samplers.inner import Inner, Level
from scoreppl.target import Position, Target

START_LOG_SNR = -10.0
"""Log-SNR at which a draw starts as noise alone (or the schedule's noisiest, if that is less)."""


class LevelTuning(NamedTuple):
    """What warm-up learns, with a leading axis over the noise levels.

    Attributes
    ----------
    averaging
        Dual-averaging state of the step size.
    inverse_mass
        Diagonal preconditioner, shape ``(num_levels, d)``.
    squared_gradient, count
        Sum and number behind the preconditioner.
    """

    averaging: Any
    inverse_mass: Array
    squared_gradient: Array
    count: Array

    @property
    def step_size(self) -> Array:
        """The frozen step size of each level."""
        return jnp.exp(self.averaging.log_step_size_avg)


class Annealed(NamedTuple):
    """Result of one block of draws.

    Attributes
    ----------
    position
        Values of all sites, leading axis over the draws.
    acceptance_rate
        Mean acceptance at each level, shape ``(draws, num_levels)``.
    num_nan
        Inner steps that met a value that was not a number, shape ``(draws,)``.
    tuning
        The tuning, updated if `adapt` was true.
    """

    position: Position
    acceptance_rate: Array
    num_nan: Array
    tuning: LevelTuning


def noise_ladder(
    target: Target, num_levels: int, first_log_snr: float = -4.0, last_log_snr: float = 10.0
) -> Array:
    """Log-SNR of the levels, increasing uniformly down to the floor of the least noisy site."""
    floors = [
        model.noise.log_snr(target.floors[name]) for name, model in target.score_models.items()
    ]
    last = jnp.minimum(jnp.max(jnp.stack(floors)), last_log_snr)
    return jnp.linspace(first_log_snr, last, num_levels)


def initial_tuning(
    target: Target, position: Position, ladder: Array, inner: Inner
) -> LevelTuning:
    """Untuned start: the noise variance as preconditioner, d^(-1/6) as the step."""
    size = ravel_pytree(position)[0].size

    def level(log_snr: Array) -> LevelTuning:
        scales = target.scales(target.times(log_snr))
        variances = {
            name: jnp.full_like(value, scales[name] ** 2 if name in scales else 1.0)
            for name, value in position.items()
        }
        mass = ravel_pytree(variances)[0]
        return LevelTuning(_fresh_averaging(inner, size), mass, jnp.zeros(size), jnp.zeros(()))

    return jax.vmap(level)(ladder)


def start_from_noise(key: Array, position: Position, target: Target) -> Position:
    """Replace every score site by pure noise at the start of the ladder, in data units."""
    scales = target.scales(target.times(jnp.asarray(START_LOG_SNR)))
    noisy = dict(position)
    for index, name in enumerate(target.score_models):
        value = position[name]
        draw = jax.random.normal(jax.random.fold_in(key, index), value.shape, value.dtype)
        noisy[name] = scales[name] * draw
    return noisy


def anneal(
    keys: Array,
    position: Position,
    target: Target,
    ladder: Array,
    tuning: LevelTuning,
    inner: Inner,
    adapt: Array,
) -> Annealed:
    """Take a block of draws from pure noise down the ladder.

    Parameters
    ----------
    keys
        One key a draw, shape ``(draws,)``. A draw depends on its own key and the tuning alone.
    position
        Starting values of the ordinary latents (those of score sites are ignored), leading axis
        over the draws.
    target
        Score models and weight.
    ladder
        Log-SNR of the levels, increasing.
    tuning
        Step sizes and preconditioners by level.
    inner
        What happens at a level.
    adapt
        Whether to update the tuning: true in warm-up only.
    """

    def each(fold: int | Array) -> Array:
        return jax.vmap(lambda key: jax.random.fold_in(key, fold))(keys)

    def visit(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        position, num_nan = carry
        index, log_snr, previous, tuning = inputs
        times, come_from = target.times(log_snr), target.times(previous)
        is_last = index == len(ladder) - 1

        def sweep(carry: tuple, number: Array) -> tuple[tuple, Array]:
            position, tuning, num_nan = carry
            level = Level(times, come_from, number == 0, is_last, log_snr, ladder[0])
            visit_keys = jax.vmap(jax.random.fold_in, (0, None))(
                each(1 + index), number
            )
            split = jax.vmap(jax.random.split)(visit_keys)
            state = jax.vmap(lambda k, z: inner.enter(k, z, target, level))(split[:, 0], position)

            def move(carry: tuple, k: Array) -> tuple[tuple, Array]:
                state, averaging, squares, count, num_nan = carry
                step_keys = jax.vmap(jax.random.fold_in, (0, None))(split[:, 1], k)
                step_size = jnp.where(
                    adapt, jnp.exp(averaging.log_step_size), jnp.exp(averaging.log_step_size_avg)
                )
                state, info = jax.vmap(
                    lambda key, s: inner.step(
                        key, s, target, level, step_size, tuning.inverse_mass
                    )
                )(step_keys, state)
                averaging = _update_averaging(inner, averaging, info.acceptance_rate, adapt)
                # The first half of a sweep relaxes; its gradients say little of the target's.
                late = (adapt & (2 * (k + 1) > inner.num_steps)).astype(squares.dtype)
                squares = squares + late * jnp.nan_to_num(jnp.mean(info.squared_gradient, 0))
                carry = (state, averaging, squares, count + late, num_nan + info.is_nan)
                return carry, info.acceptance_rate

            start = (state, tuning.averaging, tuning.squared_gradient, tuning.count, num_nan)
            end, rates = jax.lax.scan(move, start, jnp.arange(inner.num_steps))
            state, averaging, squares, count, num_nan = end
            tuning = tuning._replace(averaging=averaging, squared_gradient=squares, count=count)
            return (jax.vmap(inner.position)(state), tuning, num_nan), jnp.mean(rates, 0)

        end, rates = jax.lax.scan(
            sweep, (position, tuning, num_nan), jnp.arange(inner.num_sweeps)
        )
        position, tuning, num_nan = end
        return (position, num_nan), (_finish_level(tuning, inner, adapt), jnp.mean(rates, 0))

    start = jax.vmap(lambda key, z: start_from_noise(key, z, target))(each(0), position)
    previous = jnp.concatenate([jnp.full(1, START_LOG_SNR), ladder[:-1]])
    (end, num_nan), (tuning, rates) = jax.lax.scan(
        visit,
        (start, jnp.zeros(len(keys), int)),
        (jnp.arange(len(ladder)), ladder, previous, tuning),
    )
    return Annealed(end, rates.T, num_nan, tuning)


def _finish_level(tuning: LevelTuning, inner: Inner, adapt: Array) -> LevelTuning:
    """Set the preconditioner from the mean squared gradient, which estimates the precision."""
    if not inner.uses_gradient:
        return tuning
    first = tuning.count <= inner.num_sweeps * ((inner.num_steps + 1) // 2)
    mean = tuning.squared_gradient / jnp.maximum(tuning.count, 1.0)
    usable = adapt & (tuning.count > 0)
    mass = jnp.where(usable & (mean > 0), 1.0 / jnp.maximum(mean, 1e-20), tuning.inverse_mass)
    # The step size that fitted the initial preconditioner means nothing for the estimated one.
    averaging = jax.tree.map(
        lambda new, old: jnp.where(usable & first, new, old),
        _fresh_averaging(inner, mass.size),
        tuning.averaging,
    )
    return tuning._replace(inverse_mass=mass, averaging=averaging)


def _fresh_averaging(inner: Inner, size: int) -> Any:
    """Dual averaging at the start: in preconditioned units a step of d^(-1/6) is about right."""
    begin, _, _ = dual_averaging_adaptation(inner.target_acceptance_rate or 0.5)
    state = begin(jnp.asarray(size ** (-1 / 6)))
    state = state._replace(log_step_size_avg=state.log_step_size)
    return jax.tree.map(
        lambda v: jnp.asarray(v, jnp.int32 if isinstance(v, int) else jnp.float32), state
    )


def _update_averaging(inner: Inner, state: Any, acceptance_rate: Array, adapt: Array) -> Any:
    if inner.target_acceptance_rate is None:
        return state
    _, update, _ = dual_averaging_adaptation(inner.target_acceptance_rate)
    changed = update(state, jnp.nanmean(acceptance_rate))
    return jax.tree.map(
        lambda new, old: jnp.where(adapt, new, old).astype(old.dtype), changed, state
    )
