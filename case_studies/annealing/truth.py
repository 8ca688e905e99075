"""Draws of a known energy by parallel tempering: many ladders of HMC chains that swap."""

from functools import partial
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from jax import Array

from case_studies.annealing.particles import System

NUM_LEAPS, TARGET_ACCEPTANCE = 12, 0.8


class Draws(NamedTuple):
    """What the chains gave.

    Attributes
    ----------
    events
        Shape ``(temperatures, ladders, draws, size)``; ladders are independent.
    acceptance, swaps
        Mean rates of HMC by temperature, and of swaps between neighbours.
    """

    events: Array
    acceptance: Array
    swaps: Array


def start(key: Array, system: System, count: int) -> Array:
    """Return places of a jittered lattice without overlaps, as events."""
    side = 3 if system.dimension == 3 else 2
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(side)] * system.dimension), -1)
    spacing = 1.15 if system.dimension == 3 else 2.0
    places = spacing * grid.reshape(-1, system.dimension)

    def one(key: Array) -> Array:
        key_places, key_jitter = jax.random.split(key)
        chosen = jax.random.permutation(key_places, len(places))[: system.num_particles]
        jitter = 0.03 * jax.random.normal(key_jitter, (system.num_particles, system.dimension))
        return system.to_event(places[chosen] + jitter)

    return jax.vmap(one)(jax.random.split(key, count))


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 5, 6))
def sample(
    key: Array,
    system: System,
    temperatures: tuple[float, ...],
    num_ladders: int,
    num_draws: int,
    thin: int,
    num_warmup: int = 1_000,
) -> Draws:
    """Draw from exp(-E / T) at every temperature.

    Parameters
    ----------
    key
        PRNG key.
    system
        The particles.
    temperatures
        Those of a ladder, ascending.
    num_ladders
        Independent ladders.
    num_draws, thin
        Draws kept of a ladder, and rounds between two. A round is one HMC step at every
        temperature and a proposal to swap every other pair of neighbours.
    num_warmup
        Rounds thrown away, in which step sizes are fitted.
    """
    inverse = 1.0 / jnp.asarray(temperatures)
    levels = len(temperatures)
    kernel = blackjax.hmc.build_kernel()
    energies = jax.vmap(jax.vmap(system.energy))

    def move(key: Array, z: Array, beta: Array, step_size: Array) -> tuple[Array, Array]:
        def log_density(z: Array) -> Array:
            return -beta * system.energy(z)

        state = blackjax.hmc.init(z, log_density)
        state, info = kernel(
            key, state, log_density, step_size, jnp.ones(system.size), NUM_LEAPS
        )  # fmt: skip
        return state.position, info.acceptance_rate

    def swap(key: Array, z: Array, parity: Array) -> tuple[Array, Array]:
        """Propose to exchange each pair of neighbours whose lower number has this parity."""
        energy = energies(z)
        gain = (inverse[:-1] - inverse[1:])[:, None] * (energy[:-1] - energy[1:])
        is_turn = (jnp.arange(levels - 1) % 2 == parity)[:, None]
        accepted = is_turn & (jnp.log(jax.random.uniform(key, gain.shape)) < gain)
        nothing = jnp.zeros((1, gain.shape[1]), bool)
        up = jnp.concatenate([accepted, nothing])
        down = jnp.concatenate([nothing, accepted])
        source = jnp.arange(levels)[:, None] + up.astype(int) - down.astype(int)
        rate = jnp.sum(accepted, 1) / (jnp.sum(is_turn, 1) * gain.shape[1] + 1e-9)
        return jnp.take_along_axis(z, source[..., None], 0), rate

    def advance(carry: tuple, key: Array) -> tuple[tuple, tuple]:
        z, log_step, index = carry
        key_move, key_swap, key_jitter = jax.random.split(key, 3)
        jitter = jax.random.uniform(key_jitter, (levels, num_ladders), minval=0.7, maxval=1.3)
        steps = jnp.exp(log_step)[:, None] * jitter
        keys = jax.random.split(key_move, (levels, num_ladders))
        betas = jnp.broadcast_to(inverse[:, None], steps.shape)
        z, acceptance = jax.vmap(jax.vmap(move))(keys, z, betas, steps)
        rates = jnp.mean(acceptance, 1)
        z, swaps = swap(key_swap, z, index % 2)
        adapted = log_step + 0.05 * (rates - TARGET_ACCEPTANCE)
        log_step = jnp.where(index < num_warmup, adapted, log_step)
        return (z, log_step, index + 1), (rates, swaps)

    def keep(carry: tuple, key: Array) -> tuple[tuple, tuple]:
        carry, (rates, swaps) = jax.lax.scan(advance, carry, jax.random.split(key, thin))
        return carry, (carry[0], rates.mean(0), 2 * swaps.mean(0))

    key_start, key_warmup, key_run = jax.random.split(key, 3)
    first = start(key_start, system, levels * num_ladders)
    z = first.reshape(levels, num_ladders, -1)
    log_step = jnp.log(0.03 * jnp.sqrt(jnp.asarray(temperatures)))
    carry = (z, log_step, 0)
    carry, _ = jax.lax.scan(advance, carry, jax.random.split(key_warmup, num_warmup))
    _, (events, rates, swaps) = jax.lax.scan(keep, carry, jax.random.split(key_run, num_draws))
    return Draws(events.transpose(1, 2, 0, 3), rates.mean(0), swaps.mean(0))
