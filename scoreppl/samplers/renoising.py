"""Up and down the noise levels: noise an event, draw a cleaner one by reverse steps, or both."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.noise import VE
from scoreppl.samplers.inner import Level, map_sites
from scoreppl.score import ScoreModel
from scoreppl.solvers import multistep
from scoreppl.target import Position, Target, Times

# Reverse steps are taken in data units, in which a path may leave the network's own schedule.
_DATA_UNITS = VE(math.exp(-12.0), math.exp(12.0))
# At noise sd 1e-4, an event and the event plus noise are still told apart in single precision.
_MAX_LOG_SNR = 18.0


def log_snrs(target: Target, times: Times) -> dict[str, Array]:
    """Log-SNR of each score site at its time, at most 18."""
    return {
        name: jnp.minimum(model.noise.log_snr(times[name]), _MAX_LOG_SNR)
        for name, model in target.score_models.items()
    }


def added_scales(target: Target, goals: Mapping[str, Array], noisier: Times) -> Times:
    """Return the noise standard deviation between log-SNRs `goals` and the times `noisier`."""
    scales, there = target.scales(noisier), log_snrs(target, noisier)
    return {
        name: scales[name] * jnp.sqrt(-jnp.expm1(jnp.minimum(there[name] - goals[name], 0.0)))
        for name in scales
    }


def add_noise(key: Array, position: Position, target: Target, scales: Times) -> Position:
    """Add noise of the given standard deviations, in data units, to the score sites."""

    def add(key: Array, model: ScoreModel, u: Array, name: str) -> Array:
        return u + scales[name] * jax.random.normal(key, u.shape, u.dtype)

    return map_sites(key, position, target, add)


def draw_cleaner(
    key: Array,
    position: Position,
    target: Target,
    begin: Times,
    goals: Mapping[str, Array],
    num_steps: int,
) -> Position:
    """Draw a cleaner event at each score site given the position, by reverse steps.

    Parameters
    ----------
    key, position, target
        The key, the noisy position in data units, and the target.
    begin
        Times of the position.
    goals
        Log-SNR of the cleaner events. Where it is beyond the smallest time at which the score is
        valid, the last valid noise prediction is kept as a function of the event.
    num_steps
        Reverse steps, uniform in log-SNR but for the first, which has half their length: it has
        nothing to extrapolate from.
    """
    starts = log_snrs(target, begin)

    def reverse(key: Array, model: ScoreModel, u: Array, name: str) -> Array:
        start = jnp.minimum(starts[name], goals[name])
        way = jnp.maximum(jnp.arange(num_steps + 1) - 0.5, 0.0)
        grid = _DATA_UNITS.time(start + (goals[name] - start) * way / way[-1])

        def denoise(u: Array, t: Array) -> Array:
            valid = jnp.maximum(model.noise.time(_DATA_UNITS.log_snr(t)), model.min_time)
            alpha, sigma = model.noise(valid)
            epsilon = (u - model.denoise(alpha * u, valid)) * alpha / sigma
            return u - _DATA_UNITS(t)[1] * epsilon

        return multistep(key, u, grid, denoise, _DATA_UNITS)

    moved = map_sites(key, position, target, reverse)
    return {name: moved[name] for name in target.score_models}


def jump(
    key: Array,
    position: Position,
    target: Target,
    level: Level,
    goals: Mapping[str, Array],
    num_steps: int,
    log_weight: Callable[[Position], Array],
) -> Position:
    """Move through a noisier level, drawn between the ladder's top and this one, and back.

    Noise added and then removed leaves the prior's law at `goals` invariant and is reversible, up
    to the discretisation of the reverse steps; so the acceptance is the ratio of the weights. It
    hops between modes that are far apart at the level itself.

    Parameters
    ----------
    key, position, target, level
        The key, a position whose score sites have the log-SNRs `goals`, the target, the level.
    goals
        Log-SNRs before and after.
    num_steps
        Reverse steps, one network call each.
    log_weight
        What the law at `goals` is weighted with. A ratio that is not a number is rejected.
    """
    key_level, key_noise, key_reverse, key_accept = jax.random.split(key, 4)
    log_snr = jax.random.uniform(key_level, minval=level.top_log_snr, maxval=level.log_snr)
    times = target.times(log_snr)
    noisier = add_noise(key_noise, position, target, added_scales(target, goals, times))
    proposed = position | draw_cleaner(key_reverse, noisier, target, times, goals, num_steps)
    log_ratio = log_weight(proposed) - log_weight(position)
    # A NaN compares false.
    accepted = jnp.log(jax.random.uniform(key_accept)) < log_ratio
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposed, position)
