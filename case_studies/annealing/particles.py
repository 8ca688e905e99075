"""Two clusters of particles with known energies, in coordinates without their centre of mass.

The energies are those of Köhler, Klein and Noé (arXiv:2006.02425) and of Akhound-Sadegh et al.
(arXiv:2402.06121), at the temperature T as the law exp(-E / T):

* DW4, four particles in the plane: E = sum over pairs of -4 (d - 4)^2 + 0.9 (d - 4)^4;
* LJ13, thirteen particles in space: E = sum over pairs of 2 (d^-12 - 2 d^-6), plus half of the
  squared distances from the centre of mass. Each pair counts twice, as in the published data.

An event is z with x = B^T z, the rows of B an orthonormal basis of what is orthogonal to moving
all particles together: noise on z is noise on x without its centre of mass, and there is no
direction in which the law is singular.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class System(NamedTuple):
    """Particles, their energy and the temperatures of the study.

    Attributes
    ----------
    name
        For tables and files.
    num_particles, dimension
        Of the cluster and of the space.
    pair_energy
        Energy of a pair at a squared distance.
    stiffness
        Of the harmonic pull to the centre of mass.
    hot
        Temperature of the network's training draws.
    cold
        Temperatures that it is taken to.
    ladder
        Temperatures of the chains that are the truth, ascending, with all of these.
    published
        Temperature of the published draws.
    noise_range
        Least and largest standard deviation of the noise.
    data_scale
        Standard deviation of z at the hot temperature, for the network's preconditioning.
    """

    name: str
    num_particles: int
    dimension: int
    pair_energy: Callable[[Array], Array]
    stiffness: float
    hot: float
    cold: tuple[float, ...]
    ladder: tuple[float, ...]
    published: float
    noise_range: tuple[float, float]
    data_scale: float

    @property
    def size(self) -> int:
        """Coordinates of an event."""
        return (self.num_particles - 1) * self.dimension

    def energy(self, z: Array) -> Array:
        """Return the energy of an event, shape ``(size,)``."""
        squared = jnp.sum(self.separations(z) ** 2, -1)
        return jnp.sum(self.pair_energy(squared)) + 0.5 * self.stiffness * jnp.sum(z**2)

    def separations(self, z: Array) -> Array:
        """Return x_i - x_j of the pairs i < j, shape ``(pairs, dimension)``."""
        return pair_basis(self.num_particles) @ z.reshape(self.num_particles - 1, self.dimension)

    def distances(self, z: Array) -> Array:
        """Return the distances of the pairs."""
        return jnp.sqrt(jnp.sum(self.separations(z) ** 2, -1))

    def to_event(self, x: Array) -> Array:
        """Return the event of positions x, shape ``(num_particles * dimension,)``."""
        positions = x.reshape(self.num_particles, self.dimension)
        return jnp.ravel(jnp.asarray(basis(self.num_particles)) @ positions)


def basis(num_particles: int) -> np.ndarray:
    """Return rows orthonormal and orthogonal to (1, ..., 1), shape (num_particles - 1, ...)."""
    # Helmert's: the k-th row sets the k-th particle against the mean of those before.
    rows = []
    for k in range(1, num_particles):
        row = np.r_[np.ones(k), -k, np.zeros(num_particles - k - 1)]
        rows.append(row / math.sqrt(k * (k + 1)))
    return np.array(rows)


def pairs(num_particles: int) -> np.ndarray:
    """Return the incidence of pairs i < j: +1 at i and -1 at j, shape (pairs, num_particles)."""
    first, second = np.triu_indices(num_particles, 1)
    return np.eye(num_particles)[first] - np.eye(num_particles)[second]


def pair_basis(num_particles: int) -> Array:
    """From the basis' coordinates to x_i - x_j, shape (pairs, num_particles - 1)."""
    return jnp.asarray(pairs(num_particles) @ basis(num_particles).T, float)


def _double_well(squared: Array) -> Array:
    offset = jnp.sqrt(squared) - 4.0
    return -4.0 * offset**2 + 0.9 * offset**4


def _lennard_jones(squared: Array) -> Array:
    attraction = squared**-3
    return 2.0 * (attraction**2 - 2.0 * attraction)


DW4 = System(
    "DW4", 4, 2, _double_well, stiffness=0.0, hot=2.0, cold=(1.0,), ladder=(1.0, 2.0),
    published=1.0, noise_range=(0.02, 20.0), data_scale=2.1,
)  # fmt: skip
LJ13 = System(
    "LJ13", 13, 3, _lennard_jones, stiffness=1.0, hot=2.0, cold=(1.5, 0.8),
    ladder=(0.8, 1.0, 1.25, 1.5, 2.0), published=1.0, noise_range=(0.01, 12.0), data_scale=1.25,
)  # fmt: skip
SYSTEMS = (DW4, LJ13)
