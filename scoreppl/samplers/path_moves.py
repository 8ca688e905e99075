r"""Exact Metropolis moves for a density, with a reverse diffusion as the proposal.

The target pi(x_0) is extended by the forward noising q to levels 1..n, of noise sd s_1 < ... < s_n,

.. math::
    \pi(x_0) \prod_{i=1}^{n} q(u_i | u_{i-1}), \qquad
    q(u_i | u_{i-1}) = N(u_{i-1}, (s_i^2 - s_{i-1}^2) I), \quad u_0 = x_0, \; s_0 = 0.

A move noises the event up to level n, keeps u_n, draws new paths down from it by the network's
reverse kernels r, and chooses among them by the weights

.. math::
    W = \pi(x_0) \prod_{i=1}^{n} \frac{q(u_i | u_{i-1})}{r(u_{i-1} | u_i)}.

The network only proposes: whatever it answers, pi is left invariant. Several proposals are
weighed at once by the independent multiple-try rule (Martino, arXiv:1801.09065), which for one
proposal is the Metropolis-Hastings rule.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from scoreppl.linear_algebra import solve_lower

# From an event at a level, counted from 1, to mean and root (standard deviations, or a Cholesky
# factor) of the event one level below; below level 1 are the data.
Reverse = Callable[[Array, Array], tuple[Array, Array]]


class PathMoveInfo(NamedTuple):
    """What a move tells.

    Attributes
    ----------
    acceptance_rate
        Probability with which the chosen proposal was accepted.
    is_accepted
        Whether it was.
    proposal
        The chosen proposal, shape ``(d,)``.
    is_nan
        Whether a weight was not a number; such proposals are never chosen.
    """

    acceptance_rate: Array
    is_accepted: Array
    proposal: Array
    is_nan: Array


def path_move(
    key: Array,
    x: Array,
    log_density_here: Array,
    log_density: Callable[[Array], Array],
    top: Array,
    scales: Array,
    reverse: Reverse,
    num_proposals: int = 1,
) -> tuple[Array, PathMoveInfo]:
    """Move an event by noising it to a level and drawing it anew from there.

    Parameters
    ----------
    key
        PRNG key.
    x
        The event, shape ``(d,)``.
    log_density_here
        Its log density.
    log_density
        Log density of the target, up to a constant.
    top
        The level n to which the event is noised, at least 1; it must not depend on `x`.
    scales
        Noise standard deviations of the levels, increasing, shape ``(num_levels + 1, d)``; the
        first row, of the data, is zero.
    reverse
        The reverse kernels.
    num_proposals
        New paths to choose from.

    Returns
    -------
    tuple
        The next event and what happened.
    """
    key_up, key_down, key_choose = jax.random.split(key, 3)
    u, path = _climb(key_up, x, top, scales, reverse)
    # An event without density is left for any that has one. A way up that the reverse kernels
    # cannot come down, because the network gave no number there, has an infinite weight.
    current = path + jnp.where(jnp.isnan(log_density_here), -jnp.inf, log_density_here)
    current = jnp.where(path < jnp.inf, current, jnp.inf)

    def propose(key: Array) -> tuple[Array, Array]:
        end, log_weight = _descend(key, u, top, scales, reverse)
        return end, log_weight + log_density(end)

    ends, log_weights = jax.vmap(propose)(jax.random.split(key_down, num_proposals))
    is_nan = jnp.any(jnp.isnan(log_weights)) | jnp.isnan(path) | jnp.isnan(log_density_here)
    # What is no number, or infinite, is never chosen.
    log_weights = jnp.where(log_weights < jnp.inf, log_weights, -jnp.inf)
    chosen, rate = choose(key_choose, log_weights, current)
    is_accepted = jax.random.uniform(jax.random.fold_in(key_choose, 1)) < rate
    proposal = ends[chosen]
    moved = jnp.where(is_accepted, proposal, x)
    return moved, PathMoveInfo(rate, is_accepted, proposal, is_nan)


def choose(key: Array, log_weights: Array, current: Array) -> tuple[Array, Array]:
    """Choose a proposal in proportion to its weight, and say how probably it is accepted.

    With S the sum of the proposals' weights, proposal j is accepted with probability
    min(1, S / (S - W_j + W_current)).
    """
    chosen = jax.random.categorical(jax.random.fold_in(key, 0), log_weights)
    others = jnp.where(jnp.arange(len(log_weights)) == chosen, current, log_weights)
    total = logsumexp(log_weights)
    ratio = jnp.where(jnp.isfinite(total), total - logsumexp(others), -jnp.inf)
    return chosen, jnp.exp(jnp.minimum(ratio, 0.0))


def _climb(
    key: Array, x: Array, top: Array, scales: Array, reverse: Reverse
) -> tuple[Array, Array]:
    """Noise an event level by level; return it and the log of prod q / r on the way."""

    def up(level: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        below, total = carry
        spread = jnp.sqrt(scales[level] ** 2 - scales[level - 1] ** 2)
        z = jax.random.normal(jax.random.fold_in(key, level), x.shape, x.dtype)
        u = below + spread * z
        mean, root = reverse(u, level)
        forward = -0.5 * jnp.sum(z**2) - jnp.sum(jnp.log(spread))
        return u, total + forward - _log_normal(_whiten(below - mean, root), root)

    return jax.lax.fori_loop(1, top + 1, up, (x, jnp.zeros((), x.dtype)))


def _descend(
    key: Array, u: Array, top: Array, scales: Array, reverse: Reverse
) -> tuple[Array, Array]:
    """Draw a path down to data; return its end and the log of prod q / r on the way."""

    def down(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        u, total = carry
        level = top - step
        mean, root = reverse(u, level)
        z = jax.random.normal(jax.random.fold_in(key, level), u.shape, u.dtype)
        below = mean + (root * z if root.ndim == 1 else root @ z)
        spread = jnp.sqrt(scales[level] ** 2 - scales[level - 1] ** 2)
        forward = -0.5 * jnp.sum(((u - below) / spread) ** 2) - jnp.sum(jnp.log(spread))
        return below, total + forward - _log_normal(z, root)

    return jax.lax.fori_loop(0, top, down, (u, jnp.zeros((), u.dtype)))


def _whiten(difference: Array, root: Array) -> Array:
    if root.ndim == 1:
        return difference / root
    return solve_lower(root, difference)


def _log_normal(z: Array, root: Array) -> Array:
    """Log density, but for the powers of 2 pi, of which a path has as many above as below."""
    scale = root if root.ndim == 1 else jnp.diagonal(root)
    return -0.5 * jnp.sum(z**2) - jnp.sum(jnp.log(scale))
