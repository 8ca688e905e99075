"""Tweedie's formula for the covariance of the data given a noisy event."""

import jax
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise import as_float
from scoreppl.score.model import ScoreModel


def tweedie_covariance(model: ScoreModel, x: ArrayLike, t: ArrayLike) -> Array:
    """Return Cov[x_0 | x_t = x] = (sigma^2 / alpha) dD/dx, by one JVP an entry of the event.

    Parameters
    ----------
    model
        The score model.
    x
        The noisy event.
    t
        Scalar time with alpha > 0.

    Returns
    -------
    Array
        Shape ``(*event_shape, *event_shape)``; the second half indexes the derivative. It is
        returned as it is: a network whose score is no gradient gives a matrix that is not
        symmetric, and may give one that is not positive.
    """
    alpha, sigma = model.noise(t)
    return sigma**2 / alpha * jax.jacfwd(model.denoise)(as_float(x), t)


def tweedie_covariance_product(
    model: ScoreModel, x: ArrayLike, t: ArrayLike, vector: ArrayLike
) -> Array:
    """Return Cov[x_0 | x_t = x] times `vector` by one JVP (2 evaluations).

    Arguments as in `tweedie_covariance`; `vector` and the result have the shape of one event.
    """
    alpha, sigma = model.noise(t)
    x = as_float(x)
    vector = as_float(vector).astype(x.dtype)
    return sigma**2 / alpha * jax.jvp(lambda x: model.denoise(x, t), (x,), (vector,))[1]
