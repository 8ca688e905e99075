"""Posteriors whose truth is known because it was drawn: mixtures in closed form, and digits.

Every problem has a score site x, an ordinary latent noise scale s beside it, and linear
observations y = A x + s e. What is ranked is fixed here beforehand: numbers of x, s, the log
likelihood (a function of the data, too: Modrák et al., arXiv:2211.02383), and the distance from a
random point, which is the test of Lemos et al. (TARP, arXiv:2302.03026).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.scipy.stats import norm

import scoreppl as sp
from case_studies.quickstart.calibration import by_annealing, by_reverse_diffusion


class Sets(NamedTuple):
    """Simulated data sets, leading axis over them.

    Attributes
    ----------
    x, scale
        The truths.
    y
        What was seen.
    point, point_scale
        Random points for TARP, half-way between another set's truth and this set's data.
    """

    x: Array
    scale: Array
    y: Array
    point: Array
    point_scale: Array


class Problem(NamedTuple):
    """A law of truths, and what of them is seen and ranked.

    Attributes
    ----------
    name
        In the tables.
    prior
        Score model of the site x.
    operator
        The observation, shape ``(numbers seen, numbers of x)``.
    scale_median, scale_spread
        Of the log-normal prior of the noise scale.
    features
        Rows of the linear functions of x that are ranked, by name.
    draw_x
        Draws truths of x: ``draw_x(key, count)``.
    """

    name: str
    prior: sp.ScoreModel
    operator: np.ndarray
    scale_median: float
    scale_spread: float
    features: dict[str, np.ndarray]
    draw_x: Callable[[Array, int], Array]

    @property
    def summaries(self) -> tuple[str, ...]:
        """Names of what is ranked."""
        return (*self.features, "noise scale", "log likelihood", "TARP")

    @property
    def scale_prior(self) -> dist.Distribution:
        """Prior of the noise scale."""
        return dist.LogNormal(np.log(self.scale_median), self.scale_spread)

    def model(self, prior: sp.ScoreModel, y: Array) -> None:
        """State the model for NumPyro."""
        x = jnp.asarray(numpyro.sample("x", sp.ScorePrior(prior)))
        self.observe(x, y)

    def observe(self, x: Array, y: Array) -> None:
        """State the noise scale and the observation."""
        scale = jnp.asarray(numpyro.sample("scale", self.scale_prior))
        numpyro.sample("y", dist.Normal(self.operator @ x.ravel(), scale).to_event(1), obs=y)

    def simulate(self, key: Array, count: int) -> Sets:
        """Draw truths, data and random points."""
        key_x, key_scale, key_noise = jax.random.split(key, 3)
        x = self.draw_x(key_x, count)
        flat = x.reshape(count, -1)
        log_scale = self.scale_spread * jax.random.normal(key_scale, (count,))
        scale = self.scale_median * jnp.exp(log_scale)
        noise = jax.random.normal(key_noise, (count, len(self.operator)))
        y = flat @ self.operator.T + scale[:, None] * noise
        fitted = y @ np.linalg.pinv(self.operator).T
        point = 0.5 * (jnp.roll(flat, 1, 0) + fitted)
        return Sets(x, scale, y, point.reshape(x.shape), jnp.roll(scale, 1))

    def summarise(self, x: Array, scale: Array, of: Sets) -> Array:
        """Return what is ranked of one value, for one data set."""
        flat, log_ratio = x.ravel(), jnp.log(scale / of.point_scale) / self.scale_spread
        distance = jnp.sqrt(jnp.mean((flat - of.point.ravel()) ** 2) + log_ratio**2)
        log_likelihood = jnp.sum(norm.logpdf(of.y, self.operator @ flat, scale))
        linear = [row @ flat for row in self.features.values()]
        return jnp.stack([*linear, scale, log_likelihood, distance])


def overlapping(name: str = "overlapping", scale: float = 0.6) -> Problem:
    """Three skewed dimensions: four unequal components that run into each other.

    Parameters
    ----------
    name
        Of the problem.
    scale
        Median of the noise scale: the larger, the more the prior says.
    """
    means = np.array([[-0.7, 0.4, 0.0], [0.6, -0.3, 0.7], [1.4, 1.0, -0.4], [-0.2, -1.3, -0.9]])
    scales = np.array([[0.5, 0.7, 0.6], [0.8, 0.5, 0.5], [0.4, 0.5, 0.7], [0.6, 0.6, 0.4]])
    prior = sp.analytic.GaussianMixture(
        means, weights=np.array([0.45, 0.3, 0.15, 0.1]), scales=scales
    )
    operator = np.array(
        [[1.0, 0.3, 0.0], [0.2, -1.0, 0.4], [0.5, 0.5, 1.0], [-0.6, 0.2, 0.8], [0.9, -0.4, -0.5]]
    )
    return _mixture(name, prior, operator, scale)


def little_seen() -> Problem:
    """Return the overlapping mixture in so much noise that the prior says more than the data."""
    return overlapping("little seen", 2.0)


def separated() -> Problem:
    """Two dimensions, three components apart in the one that is hardly seen."""
    means = np.array([[-0.6, -4.0], [0.4, 0.0], [0.9, 4.5]])
    scales = np.array([[0.6, 0.5], [0.5, 0.7], [0.7, 0.4]])
    prior = sp.analytic.GaussianMixture(means, weights=np.array([0.5, 0.3, 0.2]), scales=scales)
    operator = np.array([[1.0, 0.0], [0.9, 0.05], [1.1, 0.0], [1.0, -0.05]])
    return _mixture("separated", prior, operator, 0.6)


def _mixture(
    name: str, prior: sp.analytic.GaussianMixture, operator: np.ndarray, scale: float
) -> Problem:
    size = operator.shape[1]
    features = {f"x{i + 1}": row for i, row in enumerate(np.eye(size))}
    return Problem(
        name, prior, operator, scale, 0.4, features,
        lambda key, count: prior.sample_exact(key, (count,)),
    )  # fmt: skip


def digits(network: str, law: str) -> Problem:
    """Digits of a shipped network, seen as averages of square blocks of pixels in noise.

    Parameters
    ----------
    network
        ``"digits8"`` or ``"digits"``.
    law
        ``"annealing"``: truths of the law that the denoisers of all levels keep invariant;
        ``"reverse diffusion"``: of 200 reverse steps. For a perfect network they are the same.
    """
    prior = sp.pretrained.load(network)
    side = prior.event_shape[-1]
    operator = _block_means(side, side // 4)
    halves = np.ones((side, side)) / 2
    upper = np.where(np.arange(side)[:, None] < side // 2, halves, 0.0)
    left = np.where(np.arange(side)[None] < side // 2, halves, 0.0)
    centre = np.zeros((side, side))
    centre[side // 2, side // 2] = 1.0
    features = {"ink": halves, "upper less lower": 2 * upper - halves}
    features |= {"left less right": 2 * left - halves, "centre pixel": centre}
    draw = {"annealing": by_annealing, "reverse diffusion": by_reverse_diffusion}[law]
    return Problem(
        f"{network}, {law}", prior, operator, 0.3, 0.4,
        {name: row.ravel() for name, row in features.items()},
        lambda key, count: draw(prior, key, count),
    )  # fmt: skip


def _block_means(side: int, blocks: int) -> np.ndarray:
    """Means over the blocks of a grid of `blocks` times `blocks`."""
    one = np.kron(np.eye(blocks), np.full(side // blocks, blocks / side))
    return np.kron(one, one)
