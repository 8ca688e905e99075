r"""Normalise energies, which a mixture of two models needs.

An energy network knows each noise level's log density U up to a constant of its own, and a mixture
asks for the difference of two such constants. For any set A

.. math:: \int e^{U} = \int_A e^{U} \,/\, P(A).

Here A is the cells of a grid that draws of the network fall into, and P(A) the share of other draws
that do. The whole plane would not do: where no training draw lay the energy is anything. In many
dimensions there is no such grid.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import scoreppl as sp

NUM_TIMES, CELLS, NUM_DRAWS = 101, 256, 40_000


def _normalised(params: dict[str, Any], x: Array, t: Array, condition: None) -> Array:
    network = params["network"]
    log_integral = jnp.interp(t, params["times"], params["log_integrals"])
    return network.log_prob(x, t) - log_integral


@jax.jit
def _log_integrals(network: sp.ScoreNetwork, draws: Array, key: Array, times: Array) -> Array:
    noise = jax.random.normal(key, draws.shape)

    def at(t: Array) -> Array:
        alpha, sigma = network.noise(t)
        half_width = 2.0 * alpha + 4.5 * sigma
        width = 2 * half_width / CELLS
        places = (alpha * draws + sigma * noise + half_width) / width
        # A draw beyond the grid is in none of its cells.
        inside = jnp.all((places >= 0) & (places < CELLS), 1)
        row, column = jnp.where(inside[:, None], places, 0).astype(int).T
        first = jnp.arange(len(draws)) < len(draws) // 2
        visited = jnp.zeros((CELLS, CELLS), bool).at[row, column].max(first & inside)
        found = visited[row, column] & inside
        probability = jnp.sum(found & ~first) / jnp.sum(~first)
        axis = width * (jnp.arange(CELLS) + 0.5) - half_width
        points = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        values = jax.vmap(lambda x: network.log_prob(x, t))(points)
        total = jax.scipy.special.logsumexp(jnp.where(visited.ravel(), values, -jnp.inf))
        return total + 2 * jnp.log(width) - jnp.log(probability)

    return jax.lax.map(at, times)


def normalised(network: sp.ScoreNetwork, key: Array) -> sp.ScoreNetwork:
    """Return an energy network of the plane whose densities integrate to one at every level."""
    key_draws, key_noise = jax.random.split(key)
    times = jnp.linspace(0.0, 1.0, NUM_TIMES)
    draws = network.sample(key_draws, (NUM_DRAWS,))
    log_integrals = _log_integrals(network, draws, key_noise, times)
    params = {"network": network, "times": times, "log_integrals": log_integrals}
    return dataclasses.replace(network, apply_fn=_normalised, params=params)
