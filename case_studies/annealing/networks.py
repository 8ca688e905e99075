"""The two small networks: one for points, and one that is equivariant for particles.

Both return F of the preconditioned denoiser D = c_skip u + c_out F of Karras et al.
(arXiv:2206.00364), which `sp.ScoreNetwork(prediction="edm")` turns into a score.
"""

import math
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.annealing.particles import System, basis, pair_basis, pairs

WIDTH, NUM_ROUNDS, NUM_RADIAL = 32, 2, 24
POINT_WIDTH, POINT_DEPTH, NUM_WAVES = 128, 3, 64
_FREQUENCIES = 0.5 * 2.0 ** np.arange(4)

Params = dict[str, Array]
ApplyFn = Callable[[Params, Array, Array, None], Array]


def _initial(key: Array, shapes: dict[str, tuple[int, int]], silent: tuple[str, ...]) -> Params:
    """Return weights of variance 1 / inputs and zero biases; layers that are `silent` start at 0.

    The layer `name` has the parameters ``name.weight`` and ``name.bias``.
    """
    params = {}
    for index, (name, (inputs, outputs)) in enumerate(shapes.items()):
        scale = 0.0 if name in silent else math.sqrt(1 / inputs)
        normal = jax.random.normal(jax.random.fold_in(key, index), (inputs, outputs))
        params[f"{name}.weight"] = scale * normal
        params[f"{name}.bias"] = jnp.zeros(outputs)
    return params


def _layer(params: Params, name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _level(noise: sp.noise.VE, t: Array, data_scale: float) -> tuple[Array, Array]:
    """Return what inputs are multiplied by, and features of the noise level."""
    sigma = noise(t)[1]
    angle = jnp.log(sigma / data_scale) * _FREQUENCIES
    features = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])
    return 1.0 / jnp.sqrt(sigma**2 + data_scale**2), features


def initial_particles(key: Array) -> Params:
    """Return parameters of the equivariant network; they suit any number of particles."""
    level = 2 * len(_FREQUENCIES)
    shapes = {"atom": (level, WIDTH)}
    for number in range(NUM_ROUNDS):
        shapes |= {
            f"{number}.node": (WIDTH, WIDTH),
            f"{number}.edge": (NUM_RADIAL, WIDTH),
            f"{number}.message": (WIDTH, WIDTH),
            f"{number}.update": (WIDTH, WIDTH),
            f"{number}.change": (WIDTH, WIDTH),
        }
    shapes |= {
        "force.node": (WIDTH, WIDTH),
        "force.edge": (NUM_RADIAL, WIDTH),
        "force.hidden": (WIDTH, WIDTH),
        "force": (WIDTH, 1),
        "pull": (level, 1),
    }
    return _initial(key, shapes, ("force", "pull"))


@cache
def particle_network(system: System) -> ApplyFn:
    """Return the equivariant network of a system, the same function each time.

    Messages between particles (Satorras et al., arXiv:2102.09844) depend on their distance, on
    both of them alike, and on the noise; the output is a sum over pairs of their separation
    times a number, and a pull to the centre of mass. So it turns with the particles, is the same
    in whatever order they come, and has no part that moves all of them together.
    """
    noise = sp.noise.VE(*system.noise_range)
    incidence = jnp.asarray(np.abs(pairs(system.num_particles)), float)
    separate = pair_basis(system.num_particles)
    radii = jnp.linspace(0.0, 4.0, NUM_RADIAL)
    width = 4.0 / (NUM_RADIAL - 1)

    def apply_fn(params: Params, x: Array, t: Array, condition: None) -> Array:
        scale, level = _level(noise, t, system.data_scale)
        u = scale * x.reshape(system.num_particles - 1, system.dimension)
        separations = separate @ u
        # The small number keeps derivatives finite where two particles meet.
        distances = jnp.sqrt(jnp.sum(separations**2, -1, keepdims=True) + 1e-6)
        radial = jnp.exp(-0.5 * ((distances - radii) / width) ** 2)
        atoms = jnp.tile(_layer(params, "atom", level), (system.num_particles, 1))
        for number in range(NUM_ROUNDS):
            both = incidence @ _layer(params, f"{number}.node", atoms)
            edges = jax.nn.silu(both + _layer(params, f"{number}.edge", radial))
            edges = jax.nn.silu(_layer(params, f"{number}.message", edges))
            heard = incidence.T @ edges / math.sqrt(system.num_particles)
            change = jax.nn.silu(_layer(params, f"{number}.update", heard + atoms))
            atoms = atoms + _layer(params, f"{number}.change", change)
        both = incidence @ _layer(params, "force.node", atoms)
        edges = jax.nn.silu(both + _layer(params, "force.edge", radial))
        edges = jax.nn.silu(_layer(params, "force.hidden", edges))
        forces = _layer(params, "force", edges) * separations / distances
        pulled = _layer(params, "pull", level) * u
        return (separate.T @ forces + pulled).ravel()

    return apply_fn


def particle_model(system: System, params: Params) -> sp.ScoreNetwork:
    """Return the network as a score model of events."""
    return sp.ScoreNetwork(
        particle_network(system), params, noise=sp.noise.VE(*system.noise_range),
        prediction="edm", event_shape=(system.size,), sigma_data=system.data_scale, min_time=0.0,
    )  # fmt: skip


def positions(system: System, z: Array) -> Array:
    """Return the particles' positions, shape (num_particles, dimension), of centre zero."""
    return jnp.asarray(basis(system.num_particles).T) @ z.reshape(
        system.num_particles - 1, system.dimension
    )


def initial_points(key: Array, size: int) -> Params:
    """Return parameters of a multilayer perceptron with waves of its input."""
    level = 2 * len(_FREQUENCIES)
    shapes = {"waves": (size, NUM_WAVES), "first": (size + 2 * NUM_WAVES + level, POINT_WIDTH)}
    shapes |= {f"hidden{number}": (POINT_WIDTH, POINT_WIDTH) for number in range(POINT_DEPTH - 1)}
    shapes["last"] = (POINT_WIDTH, size)
    params = _initial(key, shapes, ("last",))
    # Waves short enough to tell modes apart that are a tenth of the data's scale wide.
    params["waves.weight"] = params["waves.weight"] * 4.0 * math.sqrt(size)
    return params


@cache
def point_network(noise: sp.noise.VE, data_scale: float) -> ApplyFn:
    """Return the perceptron for points, the same function each time."""

    def apply_fn(params: Params, x: Array, t: Array, condition: None) -> Array:
        scale, level = _level(noise, t, data_scale)
        u = scale * x
        angle = _layer(params, "waves", u)
        hidden = jnp.concatenate([u, jnp.sin(angle), jnp.cos(angle), level])
        hidden = jax.nn.silu(_layer(params, "first", hidden))
        for number in range(POINT_DEPTH - 1):
            hidden = hidden + jax.nn.silu(_layer(params, f"hidden{number}", hidden))
        return _layer(params, "last", hidden)

    return apply_fn


def point_model(
    params: Params, size: int, noise: sp.noise.VE, data_scale: float
) -> sp.ScoreNetwork:
    """Return the perceptron as a score model."""
    return sp.ScoreNetwork(
        point_network(noise, data_scale), params, noise=noise, prediction="edm",
        event_shape=(size,), sigma_data=data_scale, min_time=0.0,
    )  # fmt: skip
