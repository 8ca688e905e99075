"""Which noise level a move goes up to: probabilities tuned by what moves gained in warm-up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# No level is ever given up: this share is spread evenly.
_EVEN_SHARE = 0.1


class LevelGains(NamedTuple):
    """What moves to each level gained so far.

    Attributes
    ----------
    visits
        Moves to each level, shape ``(num_levels,)``.
    squared_jump
        Sum over them of acceptance probability times squared distance.
    mode_changes
        Sum over them of the acceptance probability of moves across a valley of the density.
    """

    visits: Array
    squared_jump: Array
    mode_changes: Array


def no_gains(num_levels: int) -> LevelGains:
    """Return the gains before the first move."""
    zeros = jnp.zeros(num_levels)
    return LevelGains(zeros, zeros, zeros)


def add_gain(
    gains: LevelGains, index: Array, squared_jump: Array, mode_change: Array
) -> LevelGains:
    """Count one move to the level of number `index`."""
    return LevelGains(
        gains.visits.at[index].add(1.0),
        gains.squared_jump.at[index].add(squared_jump),
        gains.mode_changes.at[index].add(mode_change),
    )


def level_probabilities(gains: LevelGains, cost: Array) -> Array:
    """Return probabilities in proportion to gain per cost, half for each kind of gain.

    Parameters
    ----------
    gains
        What was gained; without any the levels are equally probable.
    cost
        Cost of a move to each level, shape ``(num_levels,)``.
    """
    even = jnp.full(cost.shape, 1.0 / len(cost))
    count = jnp.maximum(gains.visits, 1.0)

    def share(total: Array) -> tuple[Array, Array]:
        rate = total / count / cost
        whole = jnp.sum(rate)
        return rate / jnp.where(whole > 0, whole, 1.0), whole > 0

    jumps, has_jumps = share(gains.squared_jump)
    changes, has_changes = share(gains.mode_changes)
    weight = 1.0 * has_jumps + has_changes
    tuned = jnp.where(weight > 0, (jumps + changes) / jnp.maximum(weight, 1.0), even)
    return _EVEN_SHARE * even + (1.0 - _EVEN_SHARE) * tuned


def draw_level(key: Array, probabilities: Array) -> Array:
    """Draw the number of a level."""
    return jax.random.categorical(key, jnp.log(probabilities))
