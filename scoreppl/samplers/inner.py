"""The interface between annealing and what happens at one noise level."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from scoreppl.target import Position, Target, Times


class Level(NamedTuple):
    """Where one visit of a noise level stands.

    Attributes
    ----------
    times
        Time of each score site at this level.
    previous
        Times of the level that the position comes from.
    is_entry
        Whether this is the first sweep at the level, so that the position still carries the
        noise of `previous`.
    is_last
        Whether this is the lowest level.
    log_snr, top_log_snr
        Log-SNR of this level and of the noisiest.
    """

    times: Times
    previous: Times
    is_entry: Array
    is_last: Array
    log_snr: Array
    top_log_snr: Array


class StepInfo(NamedTuple):
    """What one inner step tells the annealer.

    Attributes
    ----------
    acceptance_rate
        Acceptance probability of each block, shape ``(num_blocks,)``.
    squared_gradient
        Squares of the log target's gradient by coordinate, whose mean estimates the diagonal
        of the precision; ones for gradient-free steps.
    is_nan
        Whether something was not a number.
    """

    acceptance_rate: Array
    squared_gradient: Array
    is_nan: Array


class Inner(NamedTuple):
    """A family of moves at one noise level, for one draw.

    Attributes
    ----------
    enter
        ``enter(key, position, target, level) -> state``: bring the position to the level.
    step
        ``step(key, state, target, level, step_size, inverse_mass) -> (state, StepInfo)``.
    position
        ``position(state) -> Position``.
    num_blocks
        ``num_blocks(target, position)``: blocks with a step size of their own.
    num_sweeps
        Times that a level is entered and moved.
    num_steps
        Inner steps a sweep.
    num_score_evaluations
        ``num_score_evaluations(target, position, level)``: score evaluations of one draw at a
        level; of the position only the sites count.
    target_acceptance_rates
        What warm-up aims at, by block; None where nothing is to be tuned.
    uses_gradient
        Whether ``squared_gradient`` means anything.
    """

    enter: Callable[[Array, Position, Target, Level], Any]
    step: Callable[[Array, Any, Target, Level, Array, Array], tuple[Any, StepInfo]]
    position: Callable[[Any], Position]
    num_blocks: Callable[[Target, Position], int]
    num_sweeps: int
    num_steps: int
    num_score_evaluations: Callable[[Target, Position, Level], Array]
    target_acceptance_rates: tuple[float | None, ...]
    uses_gradient: bool


def map_sites(
    key: Array,
    position: Position,
    target: Target,
    fn: Callable[[Array, Any, Array, str], Array],
) -> Position:
    """Apply ``fn(key, model, value, name)`` on one event to all events of all score sites."""
    moved = dict(position)
    for index, (name, model) in enumerate(target.score_models.items()):
        value = position[name]
        event = tuple(model.event_shape)
        batch = value.shape[: value.ndim - len(event)]
        site_key = jax.random.fold_in(key, index)
        if batch == ():
            moved[name] = fn(site_key, model, value, name)
            continue
        flat = value.reshape((-1, *event))
        keys = jax.random.split(site_key, len(flat))
        each = jax.vmap(lambda k, u, model=model, name=name: fn(k, model, u, name))
        moved[name] = each(keys, flat).reshape(value.shape)
    return moved
