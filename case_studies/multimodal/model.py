"""Two NumPyro posteriors whose modes are far apart, with what is known of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

# Velocities of 82 galaxies of the Corona Borealis region in 1,000 km/s: Postman, Huchra and
# Geller, The Astronomical Journal 92 (1986); the set of Roeder, JASA 85 (1990).
VELOCITIES = np.array([
    9.172, 9.350, 9.483, 9.558, 9.775, 10.227, 10.406, 16.084, 16.170, 18.419, 18.552, 18.600,
    18.927, 19.052, 19.070, 19.330, 19.343, 19.349, 19.440, 19.473, 19.529, 19.541, 19.547, 19.663,
    19.846, 19.856, 19.863, 19.914, 19.918, 19.973, 19.989, 20.166, 20.175, 20.179, 20.196, 20.215,
    20.221, 20.415, 20.629, 20.795, 20.821, 20.846, 20.875, 20.986, 21.137, 21.492, 21.701, 21.814,
    21.921, 21.960, 22.185, 22.209, 22.242, 22.249, 22.314, 22.374, 22.495, 22.746, 22.747, 22.888,
    22.914, 23.206, 23.241, 23.263, 23.484, 23.538, 23.542, 23.666, 23.706, 23.711, 24.129, 24.285,
    24.289, 24.366, 24.717, 24.990, 25.633, 26.960, 26.995, 32.065, 32.789, 34.279,
])  # fmt: skip


class Posterior(NamedTuple):
    """A posterior and what is known of it.

    Attributes
    ----------
    name
        For tables.
    model
        NumPyro model without arguments.
    sites
        Latent sites, strung together as one event for the network.
    mode_of
        From constrained values to the number of the mode.
    masses
        Exact probabilities of the modes.
    """

    name: str
    model: Callable[[], None]
    sites: tuple[str, ...]
    mode_of: Callable[[dict[str, Array]], Array]
    masses: np.ndarray


DIMENSION, PRIOR_SD = 10, 6.0
MODE_WEIGHTS = np.array([0.7, 0.2, 0.1])
# Modes on three axes, 13 apart; across the other seven coordinates they differ in width.
CENTRES = 9.2 * np.eye(3, DIMENSION)
MODE_SDS = np.ones((3, DIMENSION))
MODE_SDS[:, 3:] = np.array([1.0, 0.7, 1.3])[:, None]


def mixture() -> None:
    """Ten numbers under a normal prior, and a likelihood with three unequal peaks."""
    x = numpyro.sample("x", dist.Normal(0.0, PRIOR_SD).expand([DIMENSION]).to_event(1))
    peaks = dist.Normal(jnp.asarray(CENTRES), jnp.asarray(MODE_SDS)).to_event(1)
    law = dist.MixtureSameFamily(dist.Categorical(jnp.asarray(MODE_WEIGHTS)), peaks)
    numpyro.factor("likelihood", law.log_prob(x))


def _mixture_masses() -> np.ndarray:
    variances = PRIOR_SD**2 + MODE_SDS**2
    log_evidence = -0.5 * np.sum(CENTRES**2 / variances + np.log(variances), 1)
    masses = MODE_WEIGHTS * np.exp(log_evidence - log_evidence.max())
    return masses / masses.sum()


def _nearest_peak(values: dict[str, Array]) -> Array:
    distances = jnp.sum(((values["x"] - CENTRES) / MODE_SDS) ** 2, -1)
    return jnp.argmin(distances + 2 * jnp.sum(jnp.log(MODE_SDS), 1))


def galaxies() -> None:
    """Three clusters of velocities, exchangeable: six labellings of each answer."""
    centres = numpyro.sample("centres", dist.Normal(20.0, 10.0).expand([3]).to_event(1))
    widths = numpyro.sample("widths", dist.LogNormal(0.5, 0.7).expand([3]).to_event(1))
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.full(3, 2.0)))
    clusters = dist.MixtureSameFamily(dist.Categorical(shares), dist.Normal(centres, widths))
    numpyro.sample("velocities", clusters.expand([82]).to_event(1), obs=jnp.asarray(VELOCITIES))


def _labelling(values: dict[str, Array]) -> Array:
    order = jnp.argsort(values["centres"])
    return 2 * order[0] + (order[1] > order[2])


POSTERIORS = (
    Posterior("ten dimensions", mixture, ("x",), _nearest_peak, _mixture_masses()),
    Posterior("galaxies", galaxies, ("centres", "widths", "shares"), _labelling, np.full(6, 1 / 6)),
)
