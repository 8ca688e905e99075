r"""The split Gibbs move at a noise level: diffusion for the prior, exact MCMC for the weight.

At noise of standard deviation s the target p_s(u) w(u, theta) is augmented by a cleaner event v,
which carries noise of a standard deviation r < s:

.. math:: p_r(v) \, N(u; v, s^2 - r^2) \, w(u, \theta),

and its two conditionals are drawn in turn: v given u is a short stretch of the network's reverse
diffusion; (u, theta) given v has a known density, on which any exact move works. No backward pass
through the network and no conservative score is needed. What remains is the discretisation of
the reverse diffusion, and s > 0 at the lowest level.

That the stretch ends at r and not at data leaves the law of u as it is, and makes a visit of a
level cost two network calls, so that there can be many levels. At the lowest ones r is below the
noise at which the network is valid; there its last noise prediction is kept as a function of u.

The weight is felt at u, which at high noise says little of the modes of the data: a ladder with
one sweep a level leaves modes with the masses that they had when hopping froze. Further sweeps at
a level therefore also `jump`, exactly up to the discretisation of the reverse steps.

The splitting is that of Vono, Dobigeon and Chainais (arXiv:1804.05809); diffusion models draw
the prior's half, with r = 0, as in Coeurdoux, Dobigeon and Chainais (arXiv:2304.11134) and Wu et
al. (arXiv:2405.18782).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.samplers import renoising
from scoreppl.samplers.inner import Inner, Level, StepInfo
from scoreppl.samplers.renoising import added_scales, draw_cleaner, log_snrs
from scoreppl.samplers.weight_moves import WeightMove, barker
from scoreppl.target import Position, Target, Times

STRETCH = 1.75
"""How much cleaner v is than u, in log-SNR.

More lets u move further in a sweep, but leaves the two network calls a larger error. Chosen on
Gaussian targets, where both effects are known in closed form.
"""


class SplitState(NamedTuple):
    """State within one sweep.

    Attributes
    ----------
    cleaner
        The cleaner events v of the score sites, in data units.
    position
        The position (u, theta).
    """

    cleaner: Position
    position: Position


def cleaner_log_snrs(target: Target, times: Times) -> dict[str, Array]:
    """Log-SNR of the cleaner events of a level."""
    return {name: log_snr + STRETCH for name, log_snr in log_snrs(target, times).items()}


def split_gibbs(
    move: WeightMove,
    latent_move: WeightMove | None = None,
    *,
    num_sweeps: int = 1,
    num_steps: int = 10,
    num_reverse_steps: int = 2,
    num_jumps: int = 1,
    num_jump_steps: int = 16,
) -> Inner:
    """Build the split Gibbs inner move.

    Parameters
    ----------
    move
        Move of the score sites u on their known density given the ordinary latents theta.
    latent_move
        Move of theta given u; by default Barker's, or `move` itself if that is gradient-free.
    num_sweeps
        Sweeps a level: draws of v, each followed by `num_steps` moves.
    num_steps
        Moves of (u, theta) a sweep.
    num_reverse_steps
        Network calls for one draw of v.
    num_jumps
        Jumps through noisier levels (see `jump`) in every sweep after the first at a level.
    num_jump_steps
        Network calls of a jump.
    """
    if latent_move is None:
        latent_move = move if move.gradient is None else barker()
    moves = (move, latent_move)

    def _jumps(
        key: Array, pair: tuple[Position, Position], target: Target, level: Level
    ) -> tuple[Position, Position]:
        def one(pair: tuple[Position, Position], key: Array) -> tuple[Any, None]:
            return jump(key, *pair, target, level, num_jump_steps), None

        return jax.lax.scan(one, pair, jax.random.split(key, num_jumps))[0]

    def come_from(level: Level) -> Times:
        return {
            name: jnp.where(level.is_entry, level.previous[name], level.times[name])
            for name in level.times
        }

    def enter(key: Array, position: Position, target: Target, level: Level) -> SplitState:
        key_cleaner, key_jumps = jax.random.split(key)
        begin = come_from(level)
        goals = cleaner_log_snrs(target, level.times)
        cleaner = draw_cleaner(key_cleaner, position, target, begin, goals, num_reverse_steps)
        before = added_scales(target, goals, begin)
        here = added_scales(target, goals, level.times)

        # On entry the noise u - v shrinks to this level's: without a weight that is fresh noise
        # of the right law, and with one it has felt the weight already. Later sweeps leave u
        # where it is, which makes each of them a Gibbs sweep of the level's own target.
        noisy = position | {
            name: cleaner[name] + here[name] / before[name] * (position[name] - cleaner[name])
            for name in cleaner
        }
        if num_sweeps > 1 and num_jumps > 0:
            cleaner, noisy = jax.lax.cond(
                level.is_entry,
                lambda pair: pair,
                lambda pair: _jumps(key_jumps, pair, target, level),
                (cleaner, noisy),
            )
        return SplitState(cleaner, noisy)

    def step(
        key: Array,
        state: SplitState,
        target: Target,
        level: Level,
        step_size: Array,
        inverse_mass: Array,
    ) -> tuple[SplitState, StepInfo]:
        scales = added_scales(target, cleaner_log_snrs(target, level.times), level.times)
        masses = ravel_pytree(state.position)[1](inverse_mass)
        position, gradients = state.position, {}
        rates, bad = [], []
        for index, (move, names) in enumerate(zip(moves, _blocks(target, position), strict=False)):
            x, unravel = ravel_pytree({name: position[name] for name in names})
            mass = ravel_pytree({name: masses[name] for name in names})[0]
            density = _density(target, state.cleaner, scales, position, unravel)
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

    def evaluations(target: Target, position: Position, level: Level) -> Array:
        again = num_reverse_steps + num_jumps * num_jump_steps
        return jnp.asarray(num_reverse_steps + (num_sweeps - 1) * again)

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
    key: Array, cleaner: Position, noisy: Position, target: Target, level: Level, num_steps: int
) -> tuple[Position, Position]:
    r"""Jump with the cleaner event through a noisier level and back, and carry the noise along.

    With e = u - v held fixed the augmented target is p_r(v) N(e; 0, s^2 - r^2) w(v + e, theta),
    so v jumps (`scoreppl.samplers.renoising.jump`) under the weight w(v + e, theta).
    """

    def carry(v: Position) -> Position:
        return noisy | {name: noisy[name] + (v[name] - cleaner[name]) for name in cleaner}

    goals = cleaner_log_snrs(target, level.times)
    moved = renoising.jump(
        key, cleaner, target, level, goals, num_steps, lambda v: target.log_weight(carry(v))
    )
    return moved, carry(moved)


def _blocks(target: Target, position: Position) -> list[list[str]]:
    """Score sites and ordinary latents, which move in turn.

    Their scales have nothing to do with each other: hundreds of pixels allow only a short step,
    a noise scale wants a long one, and how long depends on the pixels' state.
    """
    ordinary = [name for name in position if name not in target.score_models]
    return [list(target.score_models), *([ordinary] if ordinary else [])]


def _density(
    target: Target,
    cleaner: Position,
    scales: Times,
    position: Position,
    unravel: Callable[[Array], Position],
) -> Callable[[Array], Array]:
    """Log density of one block given the rest: log w(u, theta) + log N(u; v, s^2 - r^2)."""

    def log_density(x: Array) -> Array:
        moved = position | unravel(x)
        coupling = sum(
            jnp.sum(((moved[name] - cleaner[name]) / scales[name]) ** 2) for name in cleaner
        )
        return target.log_weight(moved) - 0.5 * coupling

    return log_density
