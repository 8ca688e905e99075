"""Ancestral sampling: each step draws from the exact posterior of the forward process."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.noise import Schedule, as_float


def ancestral(
    key: Array,
    x: Array,
    times: Array,
    denoise: Callable[[Array, Array], Array],
    noise: Schedule,
    normals: Array | None = None,
) -> Array:
    """Draw x at ``times[-1]`` given x at ``times[0]`` by ancestral steps.

    A step from t to s < t draws from q(x_s | x_t, x_0 = D(x_t, t)), with
    r = SNR_t / SNR_s and standard normal z::

        x_s = (alpha_t / alpha_s) (sigma_s / sigma_t)^2 x_t
              + alpha_s (1 - r) D(x_t, t) + sigma_s sqrt(1 - r) z

    (DDPM, Ho et al., arXiv:2006.11239, equation 7; for any schedule, Kingma et al.,
    arXiv:2107.00630, appendix A). Zero noise at ``times[-1]`` and zero signal at ``times[0]``
    are allowed. The only error is that D replaces a draw of x_0 given x_t, whose spread a step
    ignores: it vanishes as the grid gets finer.

    Parameters
    ----------
    key
        PRNG key.
    x
        The event at ``times[0]``.
    times
        Strictly decreasing times, shape ``(steps + 1,)``. Times that increase give NaN.
    denoise
        The denoiser ``denoise(x, t)`` = E[x_0 | x_t = x] on one event; called once a step.
    noise
        The schedule of the denoiser.
    normals
        The standard normal numbers z of all steps, shape ``(steps, *x.shape)``, in place of those
        that `key` gives.

    Returns
    -------
    Array
        The event at ``times[-1]``, of the shape of `x`.
    """
    x, times = as_float(x), as_float(times)
    alpha, sigma = noise(times)
    log_snr = noise.log_snr(times)
    fresh = -jnp.expm1(log_snr[:-1] - log_snr[1:])  # 1 - r without cancellation
    keep = alpha[:-1] / alpha[1:] * (sigma[1:] / sigma[:-1]) ** 2
    steps = (
        jax.random.split(key, len(times) - 1) if normals is None else normals,
        times[:-1],
        keep,
        alpha[1:] * fresh,
        sigma[1:] * jnp.sqrt(fresh),
    )

    def step(x: Array, inputs: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, None]:
        source, t, keep, pull, spread = inputs
        z = jax.random.normal(source, x.shape, x.dtype) if normals is None else source
        # The carry keeps its type whatever the precision of the network.
        return (keep * x + pull * denoise(x, t) + spread * z).astype(x.dtype), None

    return jax.lax.scan(step, x, steps)[0]
