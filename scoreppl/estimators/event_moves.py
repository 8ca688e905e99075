"""Kernels for particles on their way to a rare event, on a score alone or on a flow's noise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl import mcmc
from scoreppl.target import Position, Target


@dataclass(frozen=True)
class LangevinMoves:
    """MALA with the line integral of the score, at the lowest noise level.

    Attributes
    ----------
    target
        Score models and weight.
    draw
        ``draw(key, num_particles)`` gives positions of the target, leading axis over them.
    constrain
        From a position to a user's values.
    limit_state
        Of a user's values, a scalar.
    draw_evaluations
        Score evaluations of a draw.
    """

    target: Target
    draw: Callable[[Array, int], Position]
    constrain: Callable[[Position], dict[str, Array]]
    limit_state: Callable[[dict[str, Array]], Array]
    draw_evaluations: int

    def start(self, key: Array, num_particles: int) -> mcmc.ScoreState:
        """Draw particles and evaluate the score there."""
        positions = self.draw(key, num_particles)
        return jax.vmap(self._algorithm(self.target.log_weight, 1.0, None).init)(positions)

    def states(self, particles: mcmc.ScoreState) -> Array:
        """Return the limit state of each."""
        return jax.vmap(self._state)(particles.position)

    def values(self, particles: mcmc.ScoreState) -> dict[str, Array]:
        """Return the particles' values by site."""
        return jax.vmap(self.constrain)(particles.position)

    def move(
        self,
        key: Array,
        particles: mcmc.ScoreState,
        log_potential: Callable[[Array], Array],
        step_size: Array,
    ) -> tuple[mcmc.ScoreState, Array]:
        """Move all particles, preconditioned by their own spread."""
        flat = jax.vmap(lambda z: ravel_pytree(z)[0])(particles.position)
        variance = jnp.maximum(jnp.var(flat, axis=0), 1e-12)

        def log_weight(z: Position) -> Array:
            return self.target.log_weight(z) + log_potential(self._state(z))

        algorithm = self._algorithm(log_weight, step_size * flat.shape[1] ** (-1 / 6), variance)

        def one(key: Array, state: mcmc.ScoreState) -> tuple[mcmc.ScoreState, Array]:
            # The potential is new, the prior's score is not.
            value, slope = jax.value_and_grad(log_weight)(state.position)
            slope = jax.tree.map(lambda v: jnp.where(jnp.isfinite(v), v, 0.0), slope)
            state = state._replace(log_weight=value, weight_gradient=slope)
            state, info = algorithm.step(key, state)
            return state, info.acceptance_rate

        keys = jax.random.split(key, len(flat))
        moved, rates = jax.vmap(one)(keys, particles)
        return moved, jnp.mean(rates)

    def evaluations(self, num_moves: int) -> int:
        """Score evaluations of so many moves; those of the start for 0."""
        each = 3 if self.target.has_log_density else 2
        return each * num_moves if num_moves else 1 + self.draw_evaluations

    def _state(self, z: Position) -> Array:
        return self.limit_state(self.constrain(z))

    def _algorithm(
        self, log_weight: Callable[[Position], Array], step_size: Any, variance: Array | None
    ) -> Any:
        times = self.target.floors
        density = (
            (lambda z: self.target.log_density(z, times)) if self.target.has_log_density else None
        )
        return mcmc.hmc(
            lambda z: self.target.score(z, times), log_weight, num_integration_steps=1,
            step_size=step_size, inverse_mass_matrix=variance, log_density_fn=density,
        )  # fmt: skip


class FlowParticles(NamedTuple):
    """Noise, the event that the flow makes of it, and its limit state."""

    noise: Array
    event: Array
    state: Array


@dataclass(frozen=True)
class FlowMoves:
    """Preconditioned Crank-Nicolson moves of the noise that a deterministic flow starts from.

    Exact for the law that the flow defines: it needs no conservative score, and its price is a
    whole reverse diffusion a move.

    Attributes
    ----------
    flow
        From normal noise, of the shape of the event, to an event.
    event_shape
        That shape.
    limit_state
        Of an event, a scalar.
    num_steps
        Score evaluations of the flow.
    """

    flow: Callable[[Array], Array]
    event_shape: tuple[int, ...]
    limit_state: Callable[[Array], Array]
    num_steps: int

    def start(self, key: Array, num_particles: int) -> FlowParticles:
        """Draw noise."""
        noise = jax.random.normal(key, (num_particles, *self.event_shape))
        return jax.vmap(self._at)(noise)

    def states(self, particles: FlowParticles) -> Array:
        """Return the limit state of each."""
        return particles.state

    def values(self, particles: FlowParticles) -> dict[str, Array]:
        """Return the events."""
        return {"x": particles.event}

    def move(
        self,
        key: Array,
        particles: FlowParticles,
        log_potential: Callable[[Array], Array],
        step_size: Array,
    ) -> tuple[FlowParticles, Array]:
        """Move all particles."""
        length = jnp.minimum(step_size, 1.0)

        def one(key: Array, old: FlowParticles) -> tuple[FlowParticles, Array]:
            key_move, key_accept = jax.random.split(key)
            fresh = jax.random.normal(key_move, old.noise.shape, old.noise.dtype)
            new = self._at(jnp.sqrt(1.0 - length**2) * old.noise + length * fresh)
            ratio = log_potential(new.state) - log_potential(old.state)
            rate = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(ratio), -jnp.inf, ratio), 0.0))
            accepted = jax.random.uniform(key_accept) < rate
            return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old), rate

        moved, rates = jax.vmap(one)(jax.random.split(key, len(particles.state)), particles)
        return moved, jnp.mean(rates)

    def evaluations(self, num_moves: int) -> int:
        """Score evaluations of so many moves; those of the start for 0."""
        return self.num_steps * max(num_moves, 1)

    def _at(self, noise: Array) -> FlowParticles:
        event = self.flow(noise)
        return FlowParticles(noise, event, self.limit_state(event))
