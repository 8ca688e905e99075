"""Two Gaussian mixtures whose powers are known exactly, and what is measured on them."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import linear_sum_assignment

import scoreppl as sp

# Components of a power below this share of all, in logs, are left out.
_LEAST_LOG_SHARE = -30.0


class Mixture(NamedTuple):
    """A normalised mixture to be taken to a power.

    Attributes
    ----------
    name
        For tables and files.
    weights, means, covariances
        Shapes (K,), (K, d) and (K, d, d).
    beta
        The power, a whole number.
    noise
        The schedule of its network.
    data_scale
        Standard deviation of its draws, a root mean square over coordinates.
    unit
        What lengths are multiplied by in tables.
    """

    name: str
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    beta: int
    noise: sp.noise.VE
    data_scale: float
    unit: float

    def draw(self, key: Array, count: int) -> Array:
        """Return draws, shape (count, d)."""
        key_component, key_normal = jax.random.split(key)
        chosen = jax.random.categorical(key_component, jnp.log(self.weights), shape=(count,))
        z = jax.random.normal(key_normal, (count, self.means.shape[1]))
        roots = jnp.asarray(np.linalg.cholesky(self.covariances))[chosen]
        return jnp.asarray(self.means)[chosen] + jnp.einsum("nij,nj->ni", roots, z)

    def modes(self, x: np.ndarray) -> np.ndarray:
        """Return the likeliest component of each event, a number."""
        logs = np.log(self.weights) - 0.5 * np.linalg.slogdet(self.covariances)[1]
        columns = []
        for mean, covariance, log in zip(self.means, self.covariances, logs, strict=True):
            apart = (x - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
            columns.append(log - 0.5 * np.sum(apart**2, 1))
        return np.argmax(columns, 0)

    def mode_masses(self, x: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Return the modes' masses by weighted events."""
        return np.bincount(self.modes(x), share, len(self.weights))


class Power(NamedTuple):
    """The law that is proportional to a mixture's power, again a mixture.

    `log_integral` is that of the power itself.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    log_integral: float

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return exact draws."""
        chosen = rng.choice(len(self.weights), count, p=self.weights)
        z = rng.standard_normal((count, self.means.shape[1]))
        roots = np.linalg.cholesky(self.covariances)
        return self.means[chosen] + np.einsum("nij,nj->ni", roots[chosen], z)


@cache
def power(name: str) -> Power:
    """Return the power of the mixture of that name."""
    mixture = next(mixture for mixture in MIXTURES if mixture.name == name)
    logs, means, covariances = np.log(mixture.weights), mixture.means, mixture.covariances
    for _ in range(mixture.beta - 1):
        logs, means, covariances = _times(
            (logs, means, covariances),
            (np.log(mixture.weights), mixture.means, mixture.covariances),
        )
    total = float(np.logaddexp.reduce(logs))
    return Power(np.exp(logs - total), means, covariances, total)


def _times(first: tuple, second: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log weights, means and covariances of a product's components, all pairs."""
    i, j = (v.ravel() for v in np.indices((len(first[0]), len(second[0]))))
    one, other = first[2][i], second[2][j]
    apart = first[1][i] - second[1][j]
    both = np.linalg.inv(one + other)
    logs = first[0][i] + second[0][j] - 0.5 * np.einsum("ni,nij,nj->n", apart, both, apart)
    logs += 0.5 * np.linalg.slogdet(both)[1] - 0.5 * apart.shape[1] * np.log(2 * np.pi)
    kept = logs > np.logaddexp.reduce(logs) + _LEAST_LOG_SHARE
    gain = (one @ both)[kept]
    means = first[1][i][kept] - np.einsum("nij,nj->ni", gain, apart[kept])
    return logs[kept], means, one[kept] - gain @ one[kept]


def wasserstein(mixture: Mixture, x: np.ndarray, y: np.ndarray) -> float:
    """W1 of two samples of one size, by assignment, in the mixture's unit."""
    costs = np.sqrt(np.maximum(np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T, 0.0))
    return float(mixture.unit * costs[linear_sum_assignment(costs)].mean())


def _forty() -> Mixture:
    """Return the benchmark of arXiv:2503.02819 in units of 50: means are 80 (u - 1/2)."""
    bits = np.random.MT19937()
    bits._legacy_seeding(0)  # type: ignore[attr-defined]
    uniforms = (bits.random_raw(80).astype("u8") & (2**24 - 1)) / 2**24
    means = 80 * (uniforms.reshape(40, 2) - 0.5) / 50
    covariances = np.tile((2.1269280 / 50) ** 2 * np.eye(2), (40, 1, 1))
    noise = sp.noise.VE(0.01, 10.0)
    return Mixture("forty", np.full(40, 1 / 40), means, covariances, 3, noise, 0.46, 50.0)


def _thirty() -> Mixture:
    """Return eight unequal, anisotropic components in thirty dimensions."""
    count, size = 8, 30
    rng = np.random.default_rng(1030)
    weights = 0.65 ** np.arange(count)
    means = 1.5 * rng.standard_normal((count, size))
    covariances = []
    for _ in range(count):
        axes = np.linalg.qr(rng.standard_normal((size, size)))[0]
        covariances.append((axes * np.exp(rng.uniform(np.log(0.03), np.log(0.4), size))) @ axes.T)
    noise = sp.noise.VE(0.02, 100.0)
    found = weights / weights.sum(), means, np.array(covariances)
    return Mixture("thirty", *found, 2, noise, 1.4, 1.0)


FORTY, THIRTY = _forty(), _thirty()
MIXTURES = (FORTY, THIRTY)
