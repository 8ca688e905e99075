"""Moves on a known density, most from blackjax: the exact half of the split Gibbs sampler.

In the split Gibbs move the score sites and the ordinary latents are moved on
w(u, theta) N(u; v, s^2 - r^2), of which everything is known; each move here is an ordinary, exact
Metropolis, slice or NUTS transition. No network is called.
"""

# blackjax annotates arrays as float and its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from blackjax.mcmc import hmc, nuts, random_walk, slice
from jax import Array

from scoreppl import mcmc

LogDensity = Callable[[Array], Array]


class WeightMove(NamedTuple):
    """One kind of move on flat vectors, with a step size and a diagonal preconditioner.

    Attributes
    ----------
    init
        ``init(x, log_density) -> state``, a named tuple with ``position``.
    step
        ``step(key, state, log_density, step_size, inverse_mass) -> (state, acceptance_rate,
        is_nan)``; a proposal whose density is not a number is rejected and flagged (the slice
        move shrinks past such points without a flag).
    gradient
        ``gradient(state)``: gradient of the log density, or None for gradient-free moves.
    target_acceptance_rate
        What warm-up tunes the step size to; None leaves the step size alone.
    """

    init: Callable[[Array, LogDensity], Any]
    step: Callable[[Array, Any, LogDensity, Array, Array], tuple[Any, Array, Array]]
    gradient: Callable[[Any], Array] | None
    target_acceptance_rate: float | None


def mala() -> WeightMove:
    """Metropolis-adjusted Langevin, as HMC with one leapfrog step (it takes a preconditioner)."""
    return hamiltonian(1, target_acceptance_rate=0.6)


def hamiltonian(num_integration_steps: int, target_acceptance_rate: float = 0.8) -> WeightMove:
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps."""
    kernel = hmc.build_kernel()

    def step(
        key: Array, state: Any, log_density: LogDensity, step_size: Array, inverse_mass: Array
    ) -> tuple[Any, Array, Array]:
        state, info = kernel(
            key, state, log_density, step_size, inverse_mass, num_integration_steps
        )
        return state, info.acceptance_rate, _is_nan(state.logdensity, info.energy)

    return WeightMove(hmc.init, step, _gradient, target_acceptance_rate)


def no_u_turn(max_num_doublings: int = 6) -> WeightMove:
    """NUTS; a batch of draws waits for its longest tree."""
    kernel = nuts.build_kernel()

    def step(
        key: Array, state: Any, log_density: LogDensity, step_size: Array, inverse_mass: Array
    ) -> tuple[Any, Array, Array]:
        state, info = kernel(key, state, log_density, step_size, inverse_mass, max_num_doublings)
        # A tree ends at the first point without a density, which is then one of its ends.
        left, right = info.trajectory_leftmost_state, info.trajectory_rightmost_state
        is_nan = _is_nan(left.logdensity, right.logdensity) | jnp.isnan(state.logdensity)
        return state, info.acceptance_rate, is_nan

    return WeightMove(nuts.init, step, _gradient, 0.8)


def barker() -> WeightMove:
    """Barker proposals: follow the gradient's sign, so that no start is too far out.

    From a point where the gradient is huge, Langevin and Hamiltonian proposals overshoot and are
    rejected for ever; Barker's keep their length (arXiv:1908.11812). This is our own kernel with
    a score of zero: blackjax's overflows at the very gradients that it is wanted for.
    """

    def algorithm(log_density: LogDensity, **tuning: Array) -> SamplingAlgorithm:
        return mcmc.barker(jnp.zeros_like, log_density, log_density_fn=lambda x: 0.0, **tuning)

    def init(x: Array, log_density: LogDensity) -> mcmc.ScoreState:
        return algorithm(log_density, step_size=jnp.ones(())).init(x)

    def step(
        key: Array, state: Any, log_density: LogDensity, step_size: Array, inverse_mass: Array
    ) -> tuple[Any, Array, Array]:
        tuned = algorithm(log_density, step_size=step_size, inverse_mass_matrix=inverse_mass)
        state, info = tuned.step(key, state)
        return state, info.acceptance_rate, info.is_nan

    return WeightMove(init, step, lambda state: state.weight_gradient, 0.5)


def gaussian_walk() -> WeightMove:
    """Gaussian random walk, for weights without a gradient."""

    def step(
        key: Array, state: Any, log_density: LogDensity, step_size: Array, inverse_mass: Array
    ) -> tuple[Any, Array, Array]:
        # Not blackjax's kernel, whose info does not show a rejected proposal.
        key_move, key_accept = jax.random.split(key)
        noise = jax.random.normal(key_move, state.position.shape, state.position.dtype)
        moved = state.position + step_size * jnp.sqrt(inverse_mass) * noise
        proposal = random_walk.init(moved, log_density)
        log_ratio = proposal.logdensity - state.logdensity
        rate = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio), 0.0))
        accepted = jax.random.uniform(key_accept) < rate
        new = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), proposal, state)
        return new, rate, _is_nan(state.logdensity, proposal.logdensity)

    return WeightMove(random_walk.init, step, None, 0.25)


def random_slice() -> WeightMove:
    """Slice sampling along random directions, for weights without a gradient; needs no tuning."""
    kernel = slice.build_kernel(slice.stepping_out)

    def step(
        key: Array, state: Any, log_density: LogDensity, step_size: Array, inverse_mass: Array
    ) -> tuple[Any, Array, Array]:
        direction = slice.direction_proposal(jnp.sqrt(inverse_mass))
        state, info = kernel(key, state, log_density, direction, 1.0)
        return state, info.is_accepted.astype(float), jnp.isnan(state.logdensity)

    return WeightMove(slice.init, step, None, None)


def _gradient(state: Any) -> Array:
    return state.logdensity_grad


def _is_nan(kept: Array, proposed: Array) -> Array:
    return jnp.isnan(kept) | jnp.isnan(proposed)


WEIGHT_MOVES: dict[str, Callable[[], WeightMove]] = {
    "mala": mala,
    "hmc": lambda: hamiltonian(5),
    "nuts": no_u_turn,
    "barker": barker,
    "random_walk": gaussian_walk,
    "slice": random_slice,
}
"""Moves by name."""
