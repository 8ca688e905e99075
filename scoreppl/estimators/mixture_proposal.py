"""Mixtures of a reference law and Gaussians, as proposals for several expectations at once.

All computations are in double precision on the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

# A stratum has whole folds of draws, see `multi_expectation`.
FOLDS = 4
_LEAST_DRAWS = 2 * FOLDS

Draw = Callable[[Array, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class MixtureProposal:
    """The law sum_k share_k q_k, with q_0 the reference and Gaussians after it.

    Parameters
    ----------
    share
        Shares, which sum to one, shape ``(K + 1,)``, the reference's first.
    mean
        Means of the Gaussians, shape ``(K, size)``.
    scale_tril
        Cholesky factors of their covariances, shape ``(K, size, size)``.
    """

    share: np.ndarray
    mean: np.ndarray
    scale_tril: np.ndarray

    @classmethod
    def of_reference(cls, size: int) -> "MixtureProposal":
        """Return the reference alone."""
        return cls(np.ones(1), np.zeros((0, size)), np.zeros((0, size, size)))

    def log_components(self, points: np.ndarray, log_reference: np.ndarray) -> np.ndarray:
        """Return the components' log densities, shape ``(n, K + 1)``.

        Parameters
        ----------
        points
            Points, shape ``(n, size)``.
        log_reference
            Log density of the reference at them, shape ``(n,)``.
        """
        gaussian = [
            gaussian_log_density(points, mean, factor)
            for mean, factor in zip(self.mean, self.scale_tril, strict=True)
        ]
        return np.stack([log_reference, *gaussian], -1)

    def log_density(self, points: np.ndarray, log_reference: np.ndarray) -> np.ndarray:
        """Return the mixture's log density, shape ``(n,)``; arguments as `log_components`."""
        return log_mixture(self.log_components(points, log_reference), self.share)

    def kept(self, num_draws: int) -> "MixtureProposal":
        """Drop Gaussians that would get too few of `num_draws`; make the shares those of draws.

        Every component then has a multiple of `FOLDS` draws among `num_draws`, itself one.
        """
        blocks = num_draws // FOLDS
        counts = FOLDS * np.floor(self.share * blocks + 1e-9).astype(int)
        counts[counts < _LEAST_DRAWS] = 0
        counts[0] += num_draws - counts.sum()
        keep = counts[1:] > 0
        share = counts[np.concatenate([[True], keep])] / num_draws
        return MixtureProposal(share, self.mean[keep], self.scale_tril[keep])

    def sample(self, key: Array, num_draws: int, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``share_k * num_draws`` points of each component.

        Parameters
        ----------
        key
            PRNG key.
        num_draws
            How many points in all.
        draw
            Draws a number of points of the reference from a key.

        Returns
        -------
        tuple of numpy.ndarray
            Points, shape ``(num_draws, size)``, and the component of each.
        """
        counts = np.rint(self.share * num_draws).astype(int)
        component = np.repeat(np.arange(len(counts)), counts)
        key_reference, key_gaussian = jax.random.split(key)
        # All of one shape whatever the shares, so that nothing is compiled again.
        points = np.array(draw(key_reference, num_draws), np.float64)
        white = host_generator(key_gaussian).standard_normal(points.shape)
        for index, (mean, factor) in enumerate(zip(self.mean, self.scale_tril, strict=True), 1):
            rows = component == index
            points[rows] = mean + white[rows] @ factor.T
        # As the functions will see them, and therefore the densities, too.
        return np.asarray(jnp.asarray(points), np.float64), component


def host_generator(key: Array) -> np.random.Generator:
    """Return a generator of random numbers on the host, started by a PRNG key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


def standard_normal_points(size: int) -> Draw:
    """Return a function that draws points of N(0, I)."""
    return lambda key, count: host_generator(key).standard_normal((count, size))


def points_of(draw: Callable[[Array], Array]) -> Draw:
    """Return a function that draws many points, given one that draws a single one."""
    return lambda key, count: np.asarray(_draw_many(draw, jax.random.split(key, count)))


@partial(jax.jit, static_argnames="draw")
def _draw_many(draw: Callable[[Array], Array], keys: Array) -> Array:
    return jax.vmap(draw)(keys)


def log_mixture(logs: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return log sum_k share_k exp(logs_k) of each row."""
    return np.asarray(logsumexp(logs, axis=1, b=share))


def gaussian_log_density(points: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the log density of a Gaussian with Cholesky factor `factor` at points ``(n, d)``."""
    white = solve_triangular(factor, (points - mean).T, lower=True)
    constant = np.sum(np.log(np.diag(factor))) + 0.5 * len(mean) * np.log(2 * np.pi)
    return -0.5 * np.sum(white**2, 0) - constant
