"""Targets with exact, independent draws, for the one-step oracle.

Both are skewed and have unequal modes: a symmetric target forgives many errors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import multivariate_normal

from scoreppl.analytic import GaussianMixture

PyTree = Any


class ExactTarget(NamedTuple):
    """A score prior, an exact weight, and exact draws of their product.

    Attributes
    ----------
    score_fn, log_weight_fn, log_density_fn
        As the kernels take them; `log_density_fn` is the prior's.
    draw
        ``draw(key, count) -> positions``, a pytree whose leaves have a leading axis.
    """

    score_fn: Callable[[PyTree], PyTree]
    log_weight_fn: Callable[[PyTree], Array]
    log_density_fn: Callable[[PyTree], Array]
    draw: Callable[[Array, int], PyTree]


def moments(state: Any) -> Array:
    """Test functions of a state's position: all moments to order 2, a sine each, one of order 4."""
    x = ravel_pytree(state.position)[0]
    products = jnp.outer(x, x)[jnp.triu_indices(x.size)]
    return jnp.concatenate([x, products, jnp.sin(2 * x), jnp.sum(x**2)[None] ** 2])


def moments_and_momentum(state: Any) -> Array:
    """`moments` and functions that see the momentum's direction, odd ones above all."""
    x = ravel_pytree(state.position)[0]
    force = ravel_pytree(state.prior_score)[0] + ravel_pytree(state.weight_gradient)[0]
    v = state.momentum
    odd = jnp.stack([v @ x, v @ force, jnp.tanh(v @ force)])
    return jnp.concatenate([moments(state), v, v**2, odd])


def gaussian_weight() -> ExactTarget:
    """2-D mixture times a Gaussian weight; the product is a mixture again."""
    prior = GaussianMixture(
        means=jnp.array([[2.0, 0.0], [-2.0, 1.0], [-0.5, -1.5]]),
        covariances=jnp.array(
            [[[0.36, 0.1], [0.1, 0.25]], [[1.0, -0.4], [-0.4, 0.8]], [[0.3, 0.0], [0.0, 0.5]]]
        ),
        weights=jnp.array([0.5, 0.3, 0.2]),
    )
    centre = jnp.array([0.7, -0.4])
    covariance = jnp.array([[2.5, 0.6], [0.6, 2.0]])
    posterior, _ = prior.posterior(jnp.eye(2), centre, covariance)
    return ExactTarget(
        score_fn=lambda x: prior.score(x, 0.0),
        log_weight_fn=lambda x: multivariate_normal.logpdf(x, centre, covariance),
        log_density_fn=lambda x: prior.log_prob(x, 0.0),
        draw=lambda key, count: posterior.sample_exact(key, (count,)),
    )


def logistic_weight() -> ExactTarget:
    r"""5-D mixture, logistic observations of it, and their unknown sharpness.

    The latent ``theta`` is the logarithm of the sharpness, which has a Gamma(3, 1) prior; the
    weight therefore holds the Jacobian of the exponential. The likelihood is at most 1, which
    makes rejection sampling from the prior exact.
    """
    prior = GaussianMixture(
        means=jnp.array(
            [
                [1.5, 0.0, -0.5, 0.3, 0.0],
                [-1.0, 1.0, 0.5, -0.6, 0.4],
                [0.0, -1.2, 0.8, 0.0, -1.0],
            ]
        ),
        scales=jnp.array([0.6, 0.9, 0.75]),
        weights=jnp.array([0.55, 0.3, 0.15]),
    )
    directions = jnp.array(
        [[1.0, -0.5, 0.0, 0.4, 0.2], [0.0, 0.8, -0.6, 0.0, 0.5], [-0.3, 0.4, 0.9, -0.7, 0.0]]
    )
    labels = jnp.array([1.0, -1.0, -1.0])

    def log_likelihood(position: dict[str, Array]) -> Array:
        logits = jnp.exp(position["theta"]) * (directions @ position["x"] - 0.2)
        return jnp.sum(jax.nn.log_sigmoid(labels * logits))

    def log_weight(position: dict[str, Array]) -> Array:
        theta = position["theta"]
        log_gamma = 2.0 * theta - jnp.exp(theta)
        log_jacobian = theta
        return log_gamma + log_jacobian + log_likelihood(position)

    def draw(key: Array, count: int) -> dict[str, Array]:
        key_x, key_theta, key_accept = jax.random.split(key, 3)
        proposals = 12 * count  # about one in seven is accepted
        positions = {
            # A sum of three exponentials is Gamma(3, 1).
            "theta": jnp.log(jax.random.exponential(key_theta, (proposals, 3)).sum(1)),
            "x": prior.sample_exact(key_x, (proposals,)),
        }
        log_uniform = -jax.random.exponential(key_accept, (proposals,))
        (kept,) = jnp.nonzero(log_uniform < jax.vmap(log_likelihood)(positions))
        assert len(kept) >= count, f"rejection sampling kept {len(kept)} of {count} wanted"
        return jax.tree.map(lambda leaf: leaf[kept[:count]], positions)

    return ExactTarget(
        score_fn=lambda p: {"theta": jnp.zeros_like(p["theta"]), "x": prior.score(p["x"], 0.0)},
        log_weight_fn=log_weight,
        log_density_fn=lambda p: prior.log_prob(p["x"], 0.0),
        draw=draw,
    )
