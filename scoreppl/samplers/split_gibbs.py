r"""The split Gibbs move at a noise level: diffusion for the prior, exact MCMC for the weight.

With noise of standard deviation s the target is augmented by the clean event,

.. math:: p(x_0) \, N(u; x_0, s^2) \, w(u, \theta),

and its two conditionals are drawn in turn: x_0 given u is the denoising posterior of the
network, drawn by a short reverse diffusion; (u, theta) given x_0 has a known density, on which
any exact move works. No backward pass through the network and no conservative score is needed.
What remains is the discretisation of the reverse diffusion, and s > 0 at the lowest level.

The weight is felt at u, which at high noise says little of the modes of x_0: a ladder with one
sweep a level leaves modes with the masses that they had when hopping froze. Further sweeps at a
level therefore also `jump`, with an exact acceptance.

The splitting is that of Vono, Dobigeon and Chainais (arXiv:1804.05809); diffusion models draw
the prior's half as in Coeurdoux, Dobigeon and Chainais (arXiv:2304.11134) and Wu et al.
(arXiv:2405.18782).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.samplers.inner import Inner, Level, StepInfo, map_sites
from scoreppl.samplers.weight_moves import WeightMove, barker
from scoreppl.score import ScoreModel
from scoreppl.solvers import multistep
from scoreppl.target import Position, Target, Times

_MAX_LOG_SNR = 14.0
_RHO = 7.0


class SplitState(NamedTuple):
    """State within one sweep.

    Attributes
    ----------
    clean
        The clean events x_0 of the score sites.
    position
        The position (u, theta).
    """

    clean: Position
    position: Position


def draw_clean(
    key: Array, position: Position, target: Target, times: Times, top: Array, num_steps: int
) -> Position:
    """Draw x_0 given u at each score site by a reverse diffusion.

    The grid runs from the site's time to the smallest at which the score is valid (not to the
    ladder's floor, at which x_0 still has width), uniformly in (sigma / alpha)^(1/7), the spacing
    of arXiv:2206.00364; the last call denoises. It takes `num_steps` network calls from log-SNR
    `top` and proportionately fewer from below.
    """

    def reverse(key: Array, model: ScoreModel, u: Array, name: str) -> Array:
        noise = model.noise
        start, lowest, num_calls = _reverse_path(model, times[name], top, num_steps)
        way = jnp.minimum(jnp.arange(num_steps) / jnp.maximum(num_calls - 1, 1), 1.0)
        grid = noise.time(-2 * _RHO * jnp.log(start + (lowest - start) * way))
        x = multistep(key, noise(grid[0])[0] * u, grid, model.denoise, noise)
        return model.denoise(x, grid[-1])

    moved = map_sites(key, position, target, reverse)
    return {name: moved[name] for name in target.score_models}


def _reverse_path(
    model: ScoreModel, t: Array, top: Array, num_steps: int
) -> tuple[Array, Array, Array]:
    """Return a reverse path's ends in the grid's coordinate, and its network calls (2 or more)."""

    def coordinate(log_snr: Array) -> Array:
        return jnp.exp(-log_snr / (2 * _RHO))

    end = jnp.minimum(model.noise.log_snr(model.min_time), _MAX_LOG_SNR)
    start = coordinate(jnp.minimum(model.noise.log_snr(t), end))
    lowest = coordinate(end)
    share = jnp.clip((start - lowest) / jnp.maximum(coordinate(top) - lowest, 1e-6), 0.0, 1.0)
    # What rounding adds to a whole number of steps shall not add a step.
    num_calls = 1 + jnp.ceil(share * (num_steps - 1) - 1e-3).astype(int)
    num_calls = jnp.clip(num_calls, min(2, num_steps), num_steps)
    # On a path of no length only the last call, which denoises, is made.
    return start, lowest, jnp.where(start > lowest, num_calls, 1)


def split_gibbs(
    move: WeightMove,
    latent_move: WeightMove | None = None,
    *,
    num_sweeps: int = 1,
    num_steps: int = 10,
    num_reverse_steps: int = 16,
    num_jumps: int = 1,
) -> Inner:
    """Build the split Gibbs inner move.

    Parameters
    ----------
    move
        Move of the score sites u on their known density given the ordinary latents theta.
    latent_move
        Move of theta given u; by default Barker's, or `move` itself if that is gradient-free.
    num_sweeps
        Sweeps a level: draws of x_0, each followed by `num_steps` moves.
    num_steps
        Moves of (u, theta) a sweep.
    num_reverse_steps
        Network calls for one draw of x_0 from the ladder's top; fewer from lower levels.
    num_jumps
        Jumps through noisier levels (see `jump`) in every sweep after the first at a level.
    """
    if latent_move is None:
        latent_move = move if move.gradient is None else barker()
    moves = (move, latent_move)

    def _jumps(
        key: Array, pair: tuple[Position, Position], target: Target, level: Level
    ) -> tuple[Position, Position]:
        def one(pair: tuple[Position, Position], key: Array) -> tuple[Any, None]:
            return jump(key, *pair, target, level, num_reverse_steps), None

        return jax.lax.scan(one, pair, jax.random.split(key, num_jumps))[0]

    def come_from(level: Level) -> Times:
        return {
            name: jnp.where(level.is_entry, level.previous[name], level.times[name])
            for name in level.times
        }

    def enter(key: Array, position: Position, target: Target, level: Level) -> SplitState:
        key_clean, key_jumps = jax.random.split(key)
        clean = draw_clean(
            key_clean, position, target, come_from(level), level.top_log_snr, num_reverse_steps
        )
        before, here = target.scales(level.previous), target.scales(level.times)

        # On entry the noise u - x_0 shrinks to this level's: without a weight that is fresh noise
        # of the right law, and with one it has felt the weight already. Later sweeps leave u
        # where it is, which makes each of them a Gibbs sweep of the level's own target.
        shrunk = position | {
            name: clean[name] + here[name] / before[name] * (position[name] - clean[name])
            for name in clean
        }
        noisy = jax.tree.map(lambda a, b: jnp.where(level.is_entry, a, b), shrunk, position)
        if num_sweeps > 1 and num_jumps > 0:
            clean, noisy = jax.lax.cond(
                level.is_entry,
                lambda pair: pair,
                lambda pair: _jumps(key_jumps, pair, target, level),
                (clean, noisy),
            )
        return SplitState(clean, noisy)

    def step(
        key: Array,
        state: SplitState,
        target: Target,
        level: Level,
        step_size: Array,
        inverse_mass: Array,
    ) -> tuple[SplitState, StepInfo]:
        scales = target.scales(level.times)
        masses = ravel_pytree(state.position)[1](inverse_mass)
        position, gradients = state.position, {}
        rates, bad = [], []
        for index, (move, names) in enumerate(zip(moves, _blocks(target, position), strict=False)):
            x, unravel = ravel_pytree({name: position[name] for name in names})
            mass = ravel_pytree({name: masses[name] for name in names})[0]
            density = _density(target, state.clean, scales, position, unravel)
            new, rate, is_nan = move.step(
                jax.random.fold_in(key, index), move.init(x, density), density,
                step_size[index], mass,
            )  # fmt: skip
            position = position | unravel(new.position)
            if move.gradient is not None:
                gradients |= unravel(move.gradient(new))
            rates.append(rate)
            bad.append(is_nan)
        squares = ravel_pytree(gradients or jax.tree.map(jnp.ones_like, position))[0] ** 2
        info = StepInfo(jnp.stack(rates), squares, jnp.any(jnp.stack(bad)))
        return state._replace(position=position), info

    def evaluations(target: Target, level: Level) -> Array:
        def calls(times: Times) -> Array:
            by_site = [
                _reverse_path(model, times[name], level.top_log_snr, num_reverse_steps)[2]
                for name, model in target.score_models.items()
            ]
            return jnp.max(jnp.stack(by_site))

        again = calls(level.times) + num_jumps * num_reverse_steps
        return calls(level.previous) + (num_sweeps - 1) * again

    return Inner(
        enter,
        step,
        lambda state: state.position,
        lambda target, position: len(_blocks(target, position)),
        num_sweeps,
        num_steps,
        evaluations,
        tuple(move.target_acceptance_rate for move in moves),
        all(move.gradient is not None for move in moves),
    )


def jump(
    key: Array, clean: Position, noisy: Position, target: Target, level: Level, num_steps: int
) -> tuple[Position, Position]:
    r"""Propose another clean event through a noisier level, and carry the noise along.

    Noise x_0 to a level drawn between the ladder's top and this one, and denoise it again: this
    leaves p(x_0) invariant and reversible, and hops between modes that are far apart at this
    level. With r = u - x_0 held fixed the augmented target is p(x_0) N(r; 0, s^2) w(x_0 + r),
    so the acceptance is the exact ratio w(u', theta) / w(u, theta).
    """
    key_level, key_noise, key_clean, key_accept = jax.random.split(key, 4)
    log_snr = jax.random.uniform(key_level, minval=level.top_log_snr, maxval=level.log_snr)
    times = target.times(log_snr)
    again = _renoise(key_noise, noisy | clean, target, target.scales(times))
    proposed = draw_clean(key_clean, again, target, times, level.top_log_snr, num_steps)
    moved = noisy | {name: noisy[name] + proposed[name] - clean[name] for name in clean}
    log_ratio = target.log_weight(moved) - target.log_weight(noisy)
    # A ratio that is not a number compares false: rejected.
    accepted = jnp.log(jax.random.uniform(key_accept)) < log_ratio
    return jax.tree.map(
        lambda new, old: jnp.where(accepted, new, old), (proposed, moved), (clean, noisy)
    )


def _renoise(key: Array, clean: Position, target: Target, scales: Times) -> Position:
    def add(key: Array, model: ScoreModel, x0: Array, name: str) -> Array:
        return x0 + scales[name] * jax.random.normal(key, x0.shape, x0.dtype)

    return map_sites(key, clean, target, add)


def _blocks(target: Target, position: Position) -> list[list[str]]:
    """Score sites and ordinary latents, which move in turn.

    Their scales have nothing to do with each other: hundreds of pixels allow only a short step,
    a noise scale wants a long one, and how long depends on the pixels' state.
    """
    ordinary = [name for name in position if name not in target.score_models]
    return [list(target.score_models), *([ordinary] if ordinary else [])]


def _density(
    target: Target,
    clean: Position,
    scales: Times,
    position: Position,
    unravel: Callable[[Array], Position],
) -> Callable[[Array], Array]:
    """Log density of one block given the rest: log w(u, theta) + log N(u; x_0, s^2)."""

    def log_density(x: Array) -> Array:
        moved = position | unravel(x)
        coupling = sum(jnp.sum(((moved[name] - clean[name]) / scales[name]) ** 2) for name in clean)
        return target.log_weight(moved) - 0.5 * coupling

    return log_density
