"""Coefficients of the exponential Adams methods: what one step multiplies each known value by."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise import Schedule

# Of the integrand, an exponential times a polynomial: exact to single precision for h up to 10.
_NODES, _WEIGHTS = (half / 2 for half in np.polynomial.legendre.leggauss(12))
_NODES = _NODES + 0.5


def adams_coefficients(
    times: Array,
    noise: Schedule,
    orders: ArrayLike,
    depth: int,
    *,
    eta: float,
    interpolate: str,
    variable: str,
) -> tuple[Array, Array, Array, Array]:
    """Return what multiplies x, z and the known values in each step.

    Parameters
    ----------
    times
        Decreasing times, shape ``(steps + 1,)``.
    noise
        The schedule.
    orders
        Values that the polynomial of each step runs through, shape ``(steps,)``; may be traced.
    depth
        One more than the largest of `orders`.
    eta, interpolate, variable
        As in `scoreppl.solvers.Exponential`.

    Returns
    -------
    tuple of Array
        Of x and of z, shape ``(steps,)`` each; of the values at this point and those before it,
        shape ``(steps, depth)``; and of the value at the new point and those before it, for the
        corrector.
    """
    count = len(times) - 1
    alpha, sigma = noise(times)
    # Rounding of repeated times is no step.
    level = 0.5 * jax.lax.cummax(noise.log_snr(times))
    length = level[1:] - level[:-1]
    is_finite = jnp.isfinite(length)
    fresh = -jnp.expm1(-2.0 * length)
    log_kept = 0.5 * jnp.log1p(-(eta**2) * fresh)
    spread = eta * sigma[1:] * jnp.sqrt(fresh)
    if interpolate == "denoised":
        keep = sigma[1:] / sigma[:-1] * jnp.exp(log_kept)
        total = -alpha[1:] * jnp.expm1(log_kept - length)
        decay = jnp.where(is_finite, length - log_kept, 0.0)
    else:
        keep = alpha[1:] / alpha[:-1]
        total = sigma[1:] - keep * sigma[:-1]
        decay = jnp.where(is_finite, -length, 0.0)

    # The exponential's weight at nodes back from the new point, summing to one.
    back = jnp.asarray(_NODES, level.dtype)
    mass = jnp.asarray(_WEIGHTS, level.dtype) * jnp.exp(-decay[:, None] * back)
    mass = mass / jnp.sum(mass, 1, keepdims=True)
    at = level[1:, None] - jnp.where(is_finite, length, 0.0)[:, None] * back
    points = level
    if variable == "time":
        at, points = noise.time(2.0 * at), times

    # Row i: the new point, this one, and those before it. A value counts if the step that
    # starts from it has a length, and a finite one.
    place = np.arange(count)[:, None] + 1 - np.arange(depth + 1)
    nodes = points[np.maximum(place, 0)]
    ahead = length[np.clip(place, 0, count - 1)]
    usable = (ahead > 0) & jnp.isfinite(ahead) & is_finite[:, None] & (place >= 0)
    usable &= np.arange(depth + 1) <= jnp.asarray(orders)[:, None]
    usable = usable.at[:, 0].set(length > 0)
    # From or to an infinite log-SNR there is no polynomial but the constant.
    before = usable.at[:, 0].set(False).at[:, 1].set(True)
    predict = _polynomial(nodes, before, at, mass)[:, 1:]
    correct = _polynomial(nodes, usable, at, mass)[:, :-1]
    return keep, spread, total[:, None] * predict, total[:, None] * correct


def _polynomial(nodes: Array, used: Array, at: Array, mass: Array) -> Array:
    """Weights of the nodes in the mean, over `at` with weights `mass`, of their polynomial."""
    nodes = jnp.where(used, nodes, 0.0)
    pairs = used[:, :, None] & used[:, None, :] & ~jnp.eye(used.shape[1], dtype=bool)
    gaps = jnp.where(pairs, nodes[:, :, None] - nodes[:, None, :], 1.0)
    distances = (at[:, :, None] - nodes[:, None])[:, :, None]
    factors = jnp.where(pairs[:, None], distances / gaps[:, None], 1.0)
    lagrange = jnp.prod(factors, -1) * used[:, None]
    return jnp.sum(mass[:, :, None] * lagrange, 1)
