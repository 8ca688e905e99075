"""Kernels that are wrong in one known way each; the oracle must reject every one of them.

Where the defect can enter through an argument of the package (a rule, a score, a weight) it does,
so that the package's own kernel runs with it. Defects of the acceptance need `metropolis`, a
kernel put together from the package's parts; without a defect it is correct and must pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from blackjax.mcmc.integrators import IntegratorState
from jax import Array
from jax.lax import stop_gradient

from scoreppl.line_integral import Quadrature, simpson
from scoreppl.mcmc.trajectory import (
    Node,
    PathTarget,
    initialiser,
    leapfrog,
    log_target,
    pack,
    target_builder,
    unpack,
)

PyTree = Any
LogWeight = Callable[[PyTree], Array]
Score = Callable[[PyTree], PyTree]
Propose = Callable[[Array, Array, Node, PathTarget], tuple[Array, Node, Array]]


def half_integral() -> Quadrature:
    """Simpson's rule that returns half the integral."""
    rule = simpson()
    halved = tuple(weight / 2 for weight in rule.weights)
    return Quadrature("half_integral", rule.nodes, halved, rule.error_weights)


def left_endpoint() -> Quadrature:
    """The score at the start times the displacement."""
    return Quadrature("left_endpoint", (0.0, 1.0), (1.0, 0.0), (0.5, -0.5))


def without_weight_ratio(log_weight_fn: LogWeight) -> LogWeight:
    """Weight that steers the proposal as it should and never enters the acceptance."""

    def log_weight(position: PyTree) -> Array:
        value = log_weight_fn(position)
        return value - stop_gradient(value)

    return log_weight


def without_jacobian(log_weight_fn: LogWeight) -> LogWeight:
    """Weight of the latent ``theta = log(sharpness)`` without the Jacobian, which is theta."""
    return lambda position: log_weight_fn(position) - position["theta"]


def weight_folded_into_score(score_fn: Score, log_weight_fn: LogWeight) -> tuple[Score, LogWeight]:
    """Guided score and no weight: the known log weight becomes something to integrate."""

    def guided(position: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, score_fn(position), jax.grad(log_weight_fn)(position))

    return guided, lambda position: jnp.zeros(())


def without_momentum_flip(kernel: SamplingAlgorithm) -> SamplingAlgorithm:
    """Generalised HMC that keeps its direction when a proposal is rejected."""

    def step(key: Array, state: Any) -> tuple[Any, Any]:
        new, info = kernel.step(key, state)
        return new._replace(momentum=jnp.where(info.is_accepted, 1, -1) * new.momentum), info

    return SamplingAlgorithm(kernel.init, step)


class Acceptance(NamedTuple):
    """What `metropolis` reports."""

    acceptance_rate: Array


def metropolis(
    score_fn: Score,
    log_weight_fn: LogWeight,
    propose: Propose,
    *,
    accept: bool = True,
    proposal_ratio: bool = True,
    quadrature: str | Quadrature = "simpson",
) -> SamplingAlgorithm:
    """Metropolis-Hastings that can lose its acceptance or its proposal ratio.

    Parameters
    ----------
    score_fn, log_weight_fn, quadrature
        As the package's kernels take them.
    propose
        ``(key, x, node, target) -> (y, node at y, log q(x | y) - log q(y | x))``.
    accept
        False takes every proposal.
    proposal_ratio
        False leaves the proposal's density out of the acceptance.
    """
    target_for = target_builder(
        score_fn, log_weight_fn, log_density_fn=None, quadrature=quadrature, batch_nodes=True
    )

    def step(key: Array, state: Any) -> tuple[Any, Acceptance]:
        x, unravel, node = unpack(state)
        key_propose, key_accept = jax.random.split(key)
        y, new, log_ratio = propose(key_propose, x, node, target_for(unravel))
        log_rate = log_target(new) - log_target(node) + proposal_ratio * log_ratio
        rate = jnp.exp(jnp.minimum(0.0, log_rate))
        accepted = (jax.random.uniform(key_accept) < rate) | (not accept)
        moved, stayed = pack(unravel(y), new), pack(unravel(x), node)
        return (
            jax.tree.map(lambda a, b: jnp.where(accepted, a, b), moved, stayed),
            Acceptance(rate),
        )

    return SamplingAlgorithm(initialiser(target_for), step)


def leapfrog_proposal(step_size: float, num_steps: int = 1) -> Propose:
    """Leapfrog path from a fresh momentum; with one step, Langevin with h = step_size**2 / 2."""

    def propose(key: Array, x: Array, node: Node, target: PathTarget) -> tuple[Array, Node, Array]:
        momentum = jax.random.normal(key, x.shape, x.dtype)
        one_step = leapfrog(target)(target.score_fn, lambda v: 0.5 * v @ v)
        end = IntegratorState(x, momentum, log_target(node), node)
        for _ in range(num_steps):
            end = one_step(end, jnp.asarray(step_size))
        ratio = 0.5 * (momentum @ momentum - end.momentum @ end.momentum)
        return end.position, end.logdensity_grad, ratio

    return propose


def barker_proposal(step_size: float) -> Propose:
    """Barker's skewed proposal."""

    def propose(key: Array, x: Array, node: Node, target: PathTarget) -> tuple[Array, Node, Array]:
        key_size, key_sign = jax.random.split(key)
        size = step_size * jax.random.normal(key_size, x.shape, x.dtype)
        along = jax.random.uniform(key_sign, x.shape) < jax.nn.sigmoid(size * node.force)
        move = jnp.where(along, size, -size)
        new = target.advance(node, x, x + move)
        there, back = jax.nn.sigmoid(move * node.force), jax.nn.sigmoid(-move * new.force)
        return x + move, new, jnp.sum(jnp.log(back) - jnp.log(there))

    return propose


def random_walk_proposal(step_size: float) -> Propose:
    """Gaussian random walk."""

    def propose(key: Array, x: Array, node: Node, target: PathTarget) -> tuple[Array, Node, Array]:
        y = x + step_size * jax.random.normal(key, x.shape, x.dtype)
        return y, target.advance(node, x, y), jnp.zeros(())

    return propose
