"""The proposal of ordinary latents beside a path: their prior, or a normal law fitted to draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.linear_algebra import cholesky, solve_lower
from scoreppl.samplers.smc import effective_sample_size
from scoreppl.target import Position, Target

# The prior keeps this share, so that no weight exceeds five times what it was under the prior.
_PRIOR_SHARE = 0.2
# A normal law narrower than the target has unbounded weights in effect: it is widened.
_WIDENING = 1.5
_EXPONENTS = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)


class LatentProposal(NamedTuple):
    """A mixture of the prior and a normal law, in unconstrained coordinates.

    Attributes
    ----------
    mean, root
        Of the normal law: mean ``(p,)`` and Cholesky factor of the covariance ``(p, p)``.
    share
        Its share of the mixture; 0 before anything is fitted.
    """

    mean: Array
    root: Array
    share: Array


def unfitted(size: int) -> LatentProposal:
    """Return the proposal that is the prior alone."""
    return LatentProposal(jnp.zeros(size), jnp.eye(size), jnp.zeros(()))


def fit(proposal: LatentProposal, values: Array, log_weight: Array) -> LatentProposal:
    """Fit the normal law to weighted draws, tempered until enough of them count.

    Parameters
    ----------
    proposal
        What stays if too few draws have a weight.
    values
        Draws of the ordinary latents, shape ``(n, p)``.
    log_weight
        Their log weights, shape ``(n,)``.
    """
    size = values.shape[1]
    if size == 0:
        return proposal
    usable = jnp.isfinite(log_weight)
    log_weight = jnp.where(usable, log_weight, -jnp.inf)
    tempered = jnp.asarray(_EXPONENTS)[:, None] * log_weight
    tempered = jnp.where(usable, tempered, -jnp.inf)
    enough = effective_sample_size(tempered) >= 2.0 * (size + 2)
    share = jax.nn.softmax(tempered[jnp.argmax(enough)])
    mean = share @ values
    centred = (values - mean) * jnp.sqrt(share)[:, None]
    covariance = _WIDENING**2 * centred.T @ centred
    root = cholesky(covariance + 1e-6 * (1.0 + jnp.trace(covariance)) * jnp.eye(size))
    is_fit = jnp.any(enough) & jnp.all(jnp.isfinite(root))
    fitted = LatentProposal(mean, root, jnp.asarray(1.0 - _PRIOR_SHARE))
    return jax.tree.map(lambda new, old: jnp.where(is_fit, new, old), fitted, proposal)


def refresh(key: Array, position: Position, target: Target, num_steps: int) -> Position:
    """Move the ordinary latents alone, given the events, by steps that leave the target invariant.

    Random-walk Metropolis steps of lengths drawn between 0.01 and 10, which ask nothing of the
    weight but its value. A path's weight is the one it was proposed with, before and after.
    """
    events = {name: position[name] for name in target.score_models}
    start, unravel = ravel_pytree({n: v for n, v in position.items() if n not in events})

    def log_density(theta: Array) -> Array:
        return target.log_weight(events | unravel(theta))

    def step(state: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        theta, value = state
        key_length, key_move, key_accept = jax.random.split(key, 3)
        length = 10.0 ** jax.random.uniform(key_length, minval=-2.0, maxval=1.0)
        moved = theta + length * jax.random.normal(key_move, theta.shape, theta.dtype)
        there = log_density(moved)
        better = jnp.log(jax.random.uniform(key_accept)) < there - value
        # From a value that is not a number anything is better that is one.
        better |= ~jnp.isfinite(value) & jnp.isfinite(there)
        return (jnp.where(better, moved, theta), jnp.where(better, there, value)), None

    keys = jax.random.split(key, num_steps)
    (theta, _), _ = jax.lax.scan(step, (start, log_density(start)), keys)
    return position | unravel(theta)


def draw(key: Array, proposal: LatentProposal, from_prior: Array) -> Array:
    """Draw from the mixture, given a draw from the prior."""
    key_which, key_normal = jax.random.split(key)
    number = jax.random.normal(key_normal, from_prior.shape, from_prior.dtype)
    is_fitted = jax.random.uniform(key_which) < proposal.share
    return jnp.where(is_fitted, proposal.mean + proposal.root @ number, from_prior)


def log_density(proposal: LatentProposal, value: Array, log_prior: Array) -> Array:
    """Log density of the mixture at a value, given the prior's there."""
    if value.size == 0:
        return log_prior
    whitened = solve_lower(proposal.root, value - proposal.mean)
    log_normal = -0.5 * jnp.sum(whitened**2 + jnp.log(2 * jnp.pi)) - jnp.sum(
        jnp.log(jnp.diagonal(proposal.root))
    )
    return jnp.logaddexp(
        jnp.log1p(-proposal.share) + log_prior, jnp.log(proposal.share) + log_normal
    )
