"""What networks predict, as pure conversions to and from the denoiser."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise import Schedule, as_float

PREDICTIONS = ("epsilon", "v", "x0", "score", "velocity", "edm", "energy")


def to_denoised(
    prediction: str,
    output: Array,
    x: Array,
    t: ArrayLike,
    noise: Schedule,
    sigma_data: ArrayLike = 0.5,
) -> Array:
    """Turn a network's output at (x, t) into the denoiser D = E[x_0 | x_t = x].

    Parameters
    ----------
    prediction
        Any of those of `ScoreNetwork` but ``"energy"``.
    output
        What the network returned, of the shape of `x`.
    x
        The noisy event.
    t
        Scalar time; infinite or NaN where the conversion is singular (alpha = 0 for ``"epsilon"``
        and ``"score"``).
    noise
        The schedule.
    sigma_data
        Standard deviation of the data, used by ``"edm"`` alone.

    Returns
    -------
    Array
        The denoiser, of the shape of `x`.
    """
    alpha, sigma = noise(t)
    on_data, on_noise = _coefficients(prediction, t, noise, sigma_data)
    if on_noise is None:
        return output / on_data
    if on_data is None:
        return (x - sigma * output / on_noise) / alpha
    return (on_noise * x - sigma * output) / (alpha * on_noise - sigma * on_data)


def to_epsilon(
    prediction: str,
    output: Array,
    x: Array,
    t: ArrayLike,
    noise: Schedule,
    sigma_data: ArrayLike = 0.5,
) -> Array:
    """Turn a network's output at (x, t) into E[eps | x_t = x] = -sigma score.

    Arguments as in `to_denoised`; singular at sigma = 0 for ``"x0"``.
    """
    alpha, sigma = noise(t)
    on_data, on_noise = _coefficients(prediction, t, noise, sigma_data)
    if on_data is None:
        return output / on_noise
    if on_noise is None:
        return (x - alpha * output / on_data) / sigma
    return (alpha * output - on_data * x) / (alpha * on_noise - sigma * on_data)


def from_denoised(
    prediction: str,
    denoised: Array,
    x: Array,
    t: ArrayLike,
    noise: Schedule,
    sigma_data: ArrayLike = 0.5,
) -> Array:
    """Turn a denoiser's value at (x, t) into what a network of the given prediction returns.

    The inverse of `to_denoised`, with the same arguments; singular at sigma = 0 except for
    ``"x0"``.
    """
    alpha, sigma = noise(t)
    on_data, on_noise = _coefficients(prediction, t, noise, sigma_data)
    if on_noise is None:
        return on_data * denoised
    from_noise = on_noise * (x - alpha * denoised) / sigma
    return from_noise if on_data is None else on_data * denoised + from_noise


def _coefficients(
    prediction: str, t: ArrayLike, noise: Schedule, sigma_data: ArrayLike
) -> tuple[Any, Any]:
    # Every prediction is a x_0 + b eps: return (a, b), None where the term is absent. With
    # x_t = alpha x_0 + sigma eps this is a linear system for (x_0, eps).
    alpha, sigma = noise(t)
    match prediction:
        case "epsilon":
            return None, 1.0
        case "x0":
            return 1.0, None
        case "score":
            return None, -1 / sigma
        case "v":
            return -sigma, alpha
        case "velocity":
            t = as_float(t)
            return jax.jvp(noise, (t,), (jnp.ones_like(t),))[1]
        case "edm":
            scale = jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)
            return sigma / (sigma_data * scale), -alpha * sigma_data / scale
    known = ", ".join(repr(name) for name in PREDICTIONS if name != "energy")
    raise ValueError(f"`prediction={prediction!r}` cannot be converted; use one of {known}.")
