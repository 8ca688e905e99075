"""Annealing over noise levels: many independent draws at once, each from pure noise."""

# blackjax annotates arrays as float and its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.adaptation.step_size import dual_averaging_adaptation
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.samplers.inner import Inner, Level
from scoreppl.target import Position, Target

START_LOG_SNR = -10.0
"""Log-SNR at which a draw starts as noise alone, or that of a noisier first level.

A schedule that begins later begins with its noisiest.
"""


class LevelTuning(NamedTuple):
    """What warm-up learns of one chain, with a leading axis over the noise levels.

    Attributes
    ----------
    averaging
        Dual-averaging state of the step sizes, one a block of latents.
    inverse_mass
        Diagonal preconditioner, shape ``(num_levels, d)``.
    visits
        Sweeps that the preconditioner was learnt from; stays 0 for gradient-free moves.
    """

    averaging: Any
    inverse_mass: Array
    visits: Array

    @property
    def step_size(self) -> Array:
        """The frozen step sizes, shape ``(num_levels, num_blocks)``."""
        return jnp.exp(self.averaging.log_step_size_avg)


class Annealed(NamedTuple):
    """Result of one block of draws of each chain.

    Attributes
    ----------
    position
        Values of all sites, leading axes over the chains and their draws.
    acceptance_rate
        Mean acceptance at each level, shape ``(chains, draws, num_levels)``.
    num_nan
        Inner steps that met a value that was not a number, shape ``(chains, draws)``.
    has_weight
        Whether the draw itself has a finite log weight, shape ``(chains, draws)``.
    tuning
        The chains' tunings, updated if `adapt` was true.
    """

    position: Position
    acceptance_rate: Array
    num_nan: Array
    has_weight: Array
    tuning: LevelTuning


def noise_ladder(
    target: Target, num_levels: int, first_log_snr: float = -4.0, last_log_snr: float = 10.0
) -> Array:
    """Log-SNR of the levels, increasing uniformly down to the floor of the least noisy site."""
    floors = [
        model.noise.log_snr(target.floors[name]) for name, model in target.score_models.items()
    ]
    last = jnp.minimum(jnp.max(jnp.stack(floors)), last_log_snr)
    # From the last upwards, so that a single level is the last; a floor above the top is the top.
    return jnp.linspace(last, jnp.minimum(first_log_snr, last), num_levels)[::-1]


def initial_tuning(target: Target, position: Position, ladder: Array, inner: Inner) -> LevelTuning:
    """Untuned start: the noise variance as preconditioner, d^(-1/6) as the step."""
    size = ravel_pytree(position)[0].size

    def level(log_snr: Array) -> LevelTuning:
        scales = target.scales(target.times(log_snr))
        variances = {
            name: jnp.full_like(value, scales[name] ** 2 if name in scales else 1.0)
            for name, value in position.items()
        }
        mass = ravel_pytree(variances)[0]
        averaging = _fresh_averaging(size, inner.num_blocks(target, position))
        return LevelTuning(averaging, mass, jnp.zeros((), int))

    return jax.vmap(level)(ladder)


def start_from_noise(
    key: Array, position: Position, target: Target, log_snr: Array | float = START_LOG_SNR
) -> Position:
    """Replace every score site by pure noise of a level, in data units."""
    scales = target.scales(target.times(jnp.asarray(log_snr)))
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
    """Take a block of draws of each chain from pure noise down the ladder.

    Draws of all chains make one batch for the network, which is slower on nested ones.

    Parameters
    ----------
    keys
        One key a draw, shape ``(chains, draws)``. A draw depends on its own key and its chain's
        tuning alone.
    position
        Starting values of the ordinary latents (those of score sites are ignored), leading axes
        over the chains and their draws.
    target
        Score models and weight.
    ladder
        Log-SNR of the levels, increasing.
    tuning
        Step sizes and preconditioners by level, leading axis over the chains.
    inner
        What happens at a level.
    adapt
        Whether to update the tuning: true in warm-up only.
    """
    num_chains, num_draws = keys.shape[:2]

    def by_chain(values: Array) -> Array:
        return values.reshape((num_chains, num_draws) + values.shape[1:])

    def by_draw(values: Array) -> Array:
        return jnp.repeat(values, num_draws, axis=0)

    keys, position = jax.tree.map(
        lambda v: v.reshape((num_chains * num_draws,) + v.shape[2:]), (keys, position)
    )

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
            visit_keys = jax.vmap(jax.random.fold_in, (0, None))(each(1 + index), number)
            split = jax.vmap(jax.random.split)(visit_keys)
            state = jax.vmap(lambda k, z: inner.enter(k, z, target, level))(split[:, 0], position)
            masses = by_draw(tuning.inverse_mass)

            def move(carry: tuple, k: Array) -> tuple[tuple, Array]:
                state, averaging, squares, num_nan = carry
                step_keys = jax.vmap(jax.random.fold_in, (0, None))(split[:, 1], k)
                step_size = jnp.where(
                    adapt, jnp.exp(averaging.log_step_size), jnp.exp(averaging.log_step_size_avg)
                )
                state, info = jax.vmap(
                    lambda key, s, step, mass: inner.step(key, s, target, level, step, mass)
                )(step_keys, state, by_draw(step_size), masses)
                averaging = jax.vmap(
                    lambda state, rates: _update_averaging(inner, state, rates, adapt)
                )(averaging, by_chain(info.acceptance_rate))
                # The first half of a sweep relaxes; its gradients say little of the target's.
                late = 2 * (k + 1) > inner.num_steps
                squares = squares + late * info.squared_gradient
                carry = (state, averaging, squares, num_nan + info.is_nan)
                return carry, info.acceptance_rate

            end, rates = jax.lax.scan(
                move,
                (state, tuning.averaging, jnp.zeros_like(masses), num_nan),
                jnp.arange(inner.num_steps),
            )
            state, averaging, squares, num_nan = end
            tuning = tuning._replace(averaging=averaging)
            if inner.uses_gradient:
                mean_squares = by_chain(squares / ((inner.num_steps + 1) // 2))
                tuning = jax.vmap(lambda tuning, square: _precondition(tuning, square, adapt))(
                    tuning, mean_squares
                )
            position = jax.vmap(inner.position)(state)
            return (position, tuning, num_nan), jnp.mean(rates, (0, 2))

        end, rates = jax.lax.scan(sweep, (position, tuning, num_nan), jnp.arange(inner.num_sweeps))
        position, tuning, num_nan = end
        return (position, num_nan), (tuning, jnp.mean(rates, 0))

    def swapped(tuning: LevelTuning) -> LevelTuning:
        return jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), tuning)

    before = _coming_from(ladder)
    start = jax.vmap(lambda key, z: start_from_noise(key, z, target, before[0]))(each(0), position)
    (end, num_nan), (tuning, rates) = jax.lax.scan(
        visit,
        (start, jnp.zeros(len(keys), int)),
        (jnp.arange(len(ladder)), ladder, before, swapped(tuning)),
    )
    has_weight = jnp.isfinite(jax.vmap(target.log_weight)(end))
    found = jax.tree.map(by_chain, (end, rates.T, num_nan, has_weight))
    return Annealed(*found, swapped(tuning))


def num_score_evaluations(target: Target, position: Position, ladder: Array, inner: Inner) -> Array:
    """Score evaluations that one draw costs, for each event of a score site."""

    def level(log_snr: Array, previous: Array) -> Array:
        entry = Level(
            target.times(log_snr),
            target.times(previous),
            jnp.ones((), bool),
            log_snr >= ladder[-1],
            log_snr,
            ladder[0],
        )
        return inner.num_score_evaluations(target, position, entry)

    return jnp.sum(jax.vmap(level)(ladder, _coming_from(ladder)))


def _coming_from(ladder: Array) -> Array:
    """Log-SNR of the level before each."""
    first = jnp.minimum(ladder[:1], START_LOG_SNR)
    return jnp.concatenate([first, ladder[:-1]])


def _precondition(tuning: LevelTuning, squared_gradient: Array, adapt: Array) -> LevelTuning:
    """Set the preconditioner from squared gradients, whose mean is the precision.

    The median over the draws keeps the few with a very stiff weight (a tiny noise scale, say)
    from shortening everybody's steps.
    """
    precision = jnp.nanmedian(squared_gradient, 0)
    usable = adapt & jnp.isfinite(precision) & (precision > 0)
    estimate = 1.0 / jnp.where(usable, precision, 1.0)
    first = tuning.visits == 0
    blended = jnp.where(first, estimate, jnp.sqrt(estimate * tuning.inverse_mass))
    mass = jnp.where(usable, blended, tuning.inverse_mass)
    # The step size that fitted the initial preconditioner means nothing for the estimated one.
    blocks = tuning.averaging.log_step_size.size
    averaging = jax.tree.map(
        lambda new, old: jnp.where(adapt & first, new, old),
        _fresh_averaging(mass.size, blocks),
        tuning.averaging,
    )
    return LevelTuning(averaging, mass, tuning.visits + adapt)


def _fresh_averaging(size: int, blocks: int) -> Any:
    """Dual averaging at the start: in preconditioned units a step of d^(-1/6) is about right."""
    begin, _, _ = dual_averaging_adaptation(0.5)
    state = begin(jnp.full(blocks, size ** (-1 / 6)))
    # Warm-up makes few, but accurate updates: each is a mean over the block. blackjax's pull
    # towards ten times the first step would still be felt when the step is frozen.
    state = state._replace(log_step_size_avg=state.log_step_size, mu=state.log_step_size)
    return jax.tree.map(
        lambda v: jnp.full(blocks, v, jnp.int32 if isinstance(v, int) else jnp.float32), state
    )


def _update_averaging(inner: Inner, state: Any, acceptance_rate: Array, adapt: Array) -> Any:
    blocks = acceptance_rate.shape[-1]
    rates = inner.target_acceptance_rates[:blocks]
    tuned = jnp.asarray([rate is not None for rate in rates])
    _, update, _ = dual_averaging_adaptation(jnp.asarray([rate or 0.5 for rate in rates]))
    changed = update(state, jnp.nanmean(acceptance_rate, 0))
    return jax.tree.map(
        lambda new, old: jnp.where(adapt & tuned, new, old).astype(old.dtype), changed, state
    )
