"""Exact draws, log density, covariance and masses of a composition, from a fine grid of the plane.

The composed density of the clean laws is known in closed form up to its integral. Cells of the
grid are a sixth of the narrowest standard deviation, so that sums over them are integrals.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from case_studies.composition.problem import (
    BAR_HALF_WIDTHS,
    MIXTURE,
    RING_CENTRES,
    Problem,
    bar,
    ring,
)

HALF_WIDTH, CELLS = 2.5, 1000
MODE_RADIUS = 0.15
NUM_CLASSES = len(RING_CENTRES) + 2
BULK = 0.99


class Truth(NamedTuple):
    """What is known of a composition.

    Attributes
    ----------
    problem
        The composition.
    log_density
        Normalised log density at the grid's points, shape ``(CELLS, CELLS)``.
    covariance
        Shape ``(2, 2)``.
    masses
        Of the classes of `classify`.
    bulk_level
        Log density above which a share `BULK` of the mass lies.
    log_integral
        Log of the integral of the composed density.
    """

    problem: Problem
    log_density: np.ndarray
    covariance: np.ndarray
    masses: np.ndarray
    bulk_level: float
    log_integral: float

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return the normalised log density of draws, shape ``(n, 2)``."""
        return log_composed(self.problem, x) - self.log_integral

    def draw(self, rng: np.random.Generator, num_draws: int) -> np.ndarray:
        """Return exact draws: a cell by its mass, and a place in it."""
        if self.problem is MIXTURE:
            return draw_mixture(rng, num_draws)
        mass = np.exp(self.log_density).ravel()
        cells = rng.choice(mass.size, num_draws, p=mass / mass.sum())
        width = 2 * HALF_WIDTH / CELLS
        return grid_points()[cells] + width * (rng.random((num_draws, 2)) - 0.5)


def grid_points() -> np.ndarray:
    """Return the centres of the cells, shape ``(CELLS**2, 2)``."""
    width = 2 * HALF_WIDTH / CELLS
    axis = -HALF_WIDTH + width * (np.arange(CELLS) + 0.5)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def log_composed(problem: Problem, x: np.ndarray) -> np.ndarray:
    """Return the composed log density of the clean laws at points, shape ``(n, 2)``."""
    return np.asarray(_log_composed(problem, jnp.asarray(x, jnp.float32)), np.float64)


@partial(jax.jit, static_argnames="problem")
def _log_composed(problem: Problem, x: jax.Array) -> jax.Array:
    composition = problem.compose(ring(), bar())

    def value(x: jax.Array) -> jax.Array:
        return composition.log_prob(x, None)

    return jax.lax.map(value, x, batch_size=4096)


def draw_mixture(rng: np.random.Generator, num_draws: int) -> np.ndarray:
    """Draw from the equal mixture of ring and bar directly."""
    key = jax.random.key(int(rng.integers(2**31)))
    first, second = (
        np.asarray(law.sample_exact(jax.random.fold_in(key, i), (num_draws,)), np.float64)
        for i, law in enumerate((ring(), bar()))
    )
    return np.where(rng.random((num_draws, 1)) < 0.5, first, second)


def classify(x: np.ndarray) -> np.ndarray:
    """Return the class of each point: near which of the ring's modes, else in the bar or not."""
    distances = np.linalg.norm(x[:, None] - RING_CENTRES, axis=-1)
    in_bar = np.all(np.abs(x) < BAR_HALF_WIDTHS, axis=1)
    elsewhere = len(RING_CENTRES) + ~in_bar
    return np.where(distances.min(1) < MODE_RADIUS, distances.argmin(1), elsewhere)


def truth_of(problem: Problem) -> Truth:
    """Integrate a composition over the grid."""
    points, area = grid_points(), (2 * HALF_WIDTH / CELLS) ** 2
    values = log_composed(problem, points)
    log_integral = np.logaddexp.reduce(values) + np.log(area)
    log_density = values - log_integral
    mass = np.exp(log_density) * area
    deviations = points - mass @ points
    masses = np.bincount(classify(points), weights=mass, minlength=NUM_CLASSES)
    order = np.argsort(-log_density)
    last = order[np.searchsorted(np.cumsum(mass[order]), BULK)]
    return Truth(
        problem,
        log_density.reshape(CELLS, CELLS),
        np.einsum("n,ni,nj->ij", mass, deviations, deviations),
        masses,
        float(log_density[last]),
        float(log_integral),
    )
