"""Compositions of one-dimensional mixtures, skewed and unequal, with truth by quadrature."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import scoreppl as sp

NOISE = sp.noise.VPLinear()
GRID = np.linspace(-14.0, 14.0, 20_001)


def mixture(means: list, scales: list, weights: list, noise: Any = NOISE) -> Any:
    """Return a mixture on events of shape (1,)."""
    return sp.analytic.GaussianMixture(
        np.array(means)[:, None], scales=np.array(scales), weights=np.array(weights), noise=noise
    )


FIRST = mixture([-1.5, 0.5, 2.0], [0.3, 0.5, 0.25], [0.2, 0.5, 0.3])
SECOND = mixture([-0.5, 1.5], [0.6, 0.9], [0.4, 0.6])


def reward(x: jax.Array) -> jax.Array:
    """Return a tilt that moves and narrows."""
    return jnp.sum(0.8 * x - 0.3 * x**2)


class Law(NamedTuple):
    """A composition, its tilt, and the log of both on the grid."""

    model: Any
    log_weight: Callable | None
    log_values: np.ndarray

    def log_evidence(self) -> float:
        """Log of the integral."""
        return float(np.log(np.trapezoid(np.exp(self.log_values), GRID)))

    def mean(self) -> float:
        """Mean of the normalised law."""
        density = np.exp(self.log_values - self.log_evidence())
        return float(np.trapezoid(GRID * density, GRID))


def on_grid(model: Any) -> np.ndarray:
    """Log density at data on the grid, by numpy alone."""
    means, scales = np.asarray(model.means)[:, 0], np.asarray(model.scales)[:, 0]
    each = -0.5 * ((GRID[:, None] - means) / scales) ** 2 - np.log(scales * np.sqrt(2 * np.pi))
    return np.logaddexp.reduce(each + np.asarray(model.log_weights), axis=1)


P, Q = on_grid(FIRST), on_grid(SECOND)
TILT = 0.8 * GRID - 0.3 * GRID**2
LAWS = {
    "sharpened": Law(sp.temper(FIRST, 2.5), None, 2.5 * P),
    "flattened": Law(sp.temper(FIRST, 0.5), None, 0.5 * P),
    "product": Law(sp.product(FIRST, SECOND), None, P + Q),
    "average": Law(sp.geometric_average([FIRST, SECOND], [0.4, 0.6]), None, 0.4 * P + 0.6 * Q),
    "guided": Law(sp.classifier_free(FIRST, SECOND, 2.0), None, 2 * P - Q),
    "negated": Law(sp.negate(FIRST, SECOND, 0.5), None, P - 0.5 * Q),
    "tilted": Law(FIRST, reward, P + TILT),
    "tilted product": Law(sp.product(FIRST, SECOND), reward, P + Q + TILT),
    "tilted and sharpened": Law(sp.temper(FIRST, 2.5), reward, 2.5 * P + TILT),
}
