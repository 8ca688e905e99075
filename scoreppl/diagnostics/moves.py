"""Moves of the length that the kernels make, with their log acceptances: what diagnostics judge.

The proposals come from the kernels' own leapfrog integrator (`scoreppl.mcmc.trajectory`); one
step of it is a MALA proposal. Positions are flat vectors.
"""

# blackjax annotates its states as bare protocols, hence
# pyright: reportArgumentType=false, reportReturnType=false
from typing import NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc.integrators import IntegratorState
from jax import Array
from jax.scipy.special import ndtri

from scoreppl.mcmc.trajectory import Node, PathTarget, leapfrog, log_target, metric_for

TARGET_ACCEPTANCE_RATE = 0.75
NUM_SEARCH_ROUNDS = 6
_SEARCH_MOVES = 16


class Move(NamedTuple):
    """One trajectory.

    Attributes
    ----------
    corners
        Where it goes, shape ``(num_steps + 1, d)``, the start included.
    node
        What is known at its end; its ``log_ratio`` counts from the start.
    log_acceptance
        Log of the Metropolis ratio in nats, not clipped at 0.
    """

    corners: Array
    node: Node
    log_acceptance: Array


def propose(
    key: Array,
    target: PathTarget,
    x: Array,
    node: Node,
    step_size: Array,
    inverse_mass: Array,
    num_steps: int = 1,
) -> Move:
    """Walk `num_steps` leapfrog steps from `x`, where `node` is known, with a fresh momentum."""
    metric = metric_for(inverse_mass, x)
    momentum = metric.sample_momentum(key, x)
    zero = jnp.zeros_like(node.log_ratio)
    node = node._replace(log_ratio=zero, log_ratio_error=zero)
    one_step = leapfrog(target)(target.score_fn, metric.kinetic_energy)

    def advance(state: IntegratorState, _: None) -> tuple[IntegratorState, Array]:
        state = one_step(state, step_size)
        return state, state.position

    start = IntegratorState(x, momentum, log_target(node), node)
    end, corners = jax.lax.scan(advance, start, length=num_steps)
    change = metric.kinetic_energy(end.momentum) - metric.kinetic_energy(momentum)
    return Move(
        jnp.concatenate([x[None], corners]),
        end.logdensity_grad,
        end.logdensity - start.logdensity - change,
    )


class Triangle(NamedTuple):
    """Two moves and the way back.

    Attributes
    ----------
    corners
        x, y, z and x again, shape ``(4, d)``.
    log_acceptance
        Of the two moves.
    rounding
        Size of the float rounding of an integral of the score around it, in nats.
    """

    corners: Array
    log_acceptance: Array
    rounding: Array


def triangle(
    key: Array, target: PathTarget, x: Array, node: Node, step_size: Array, inverse_mass: Array
) -> Triangle:
    """Make two one-step moves in a row, neither of them subject to acceptance."""

    def move(at: tuple[Array, Node], key: Array) -> tuple[tuple[Array, Node], tuple]:
        step = propose(key, target, *at, step_size, inverse_mass)
        end = step.corners[-1]
        size = jnp.linalg.norm(at[1].prior_score) * jnp.linalg.norm(end - at[0])
        return (end, step.node), (end, step.log_acceptance, size)

    _, (ends, log_acceptance, sizes) = jax.lax.scan(move, (x, node), jax.random.split(key))
    corners = jnp.concatenate([x[None], ends, x[None]])
    # The third side is at most as long as the first two together.
    return Triangle(corners, log_acceptance, 2.0 * jnp.sum(sizes) * jnp.finfo(x.dtype).eps)


def acceptance_rate(log_acceptance: Array) -> Array:
    """Return the acceptance probability; 0 where the log acceptance is not a number."""
    return jnp.where(jnp.isnan(log_acceptance), 0.0, jnp.exp(jnp.minimum(log_acceptance, 0.0)))


def search_step_size(
    key: Array,
    target: PathTarget,
    points: Array,
    nodes: Node,
    step_size: Array,
    inverse_mass: Array,
    num_steps: int = 1,
) -> Array:
    r"""Find the leapfrog step at which moves from `points` are accepted 75 % of the time.

    Where log acceptances are Gaussian their mean acceptance is :math:`2 \Phi(-c \epsilon^3)`,
    which gives each round's change of step; all rounds use the same random numbers.
    """
    repeats = _search_repeats(len(points))
    starts, nodes = jax.tree.map(lambda leaf: jnp.repeat(leaf, repeats, axis=0), (points, nodes))
    keys = jax.random.split(key, len(starts))

    def narrow(step_size: Array, _: None) -> tuple[Array, None]:
        moves = jax.vmap(
            lambda key, x, node: propose(key, target, x, node, step_size, inverse_mass, num_steps)
        )(keys, starts, nodes)
        rate = jnp.clip(jnp.mean(acceptance_rate(moves.log_acceptance)), 1e-3, 0.999)
        ratio = ndtri(TARGET_ACCEPTANCE_RATE / 2) / ndtri(rate / 2)
        return step_size * jnp.clip(jnp.cbrt(ratio), 0.4, 2.5), None

    return jax.lax.scan(narrow, step_size, length=NUM_SEARCH_ROUNDS)[0]


def search_evaluations(num_points: int, num_steps: int = 1) -> int:
    """Score evaluations that `search_step_size` spends when Simpson's rule is the target's."""
    return num_points * _search_repeats(num_points) * NUM_SEARCH_ROUNDS * 2 * num_steps


def _search_repeats(num_points: int) -> int:
    return -(-_SEARCH_MOVES // num_points)
