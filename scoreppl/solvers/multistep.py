"""Second-order multistep sampling: ancestral steps with an extrapolated denoiser."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.noise import Schedule


def multistep(
    key: Array,
    x: Array,
    times: Array,
    denoise: Callable[[Array, Array], Array],
    noise: Schedule,
    normals: Array | None = None,
) -> Array:
    """Draw x at ``times[-1]`` given x at ``times[0]`` by DPM-Solver++(2M) SDE steps.

    A step is that of `scoreppl.solvers.ancestral` with D replaced by the value extrapolated to
    the middle of the step, D + (h / 2 h_previous) (D - D_previous), h the step in log-SNR (Lu et
    al., arXiv:2211.01095, the SDE variant). It integrates the drift to second order, at the same
    cost of one network call. A step of no length costs none, so a grid of fixed size may end
    early by repeating its last time.

    Parameters
    ----------
    key, x, times, denoise, noise, normals
        As in `scoreppl.solvers.ancestral`.

    Returns
    -------
    Array
        The event at ``times[-1]``, of the shape of `x`.
    """
    alpha, sigma = noise(times)
    log_snr = noise.log_snr(times)
    # A step of no length may come out below zero by rounding.
    step_size = jnp.maximum(log_snr[1:] - log_snr[:-1], 0.0)
    fresh = -jnp.expm1(-step_size)
    keep = alpha[:-1] / alpha[1:] * (sigma[1:] / sigma[:-1]) ** 2
    before = jnp.concatenate([jnp.zeros(1), step_size[:-1]])
    # No extrapolation in the first step, nor after a step of no length or of infinite length
    # (the end of a schedule without noise).
    usable = (before > 0) & jnp.isfinite(before) & jnp.isfinite(step_size)
    ahead = jnp.where(usable, step_size / (2 * jnp.where(usable, before, 1.0)), 0.0)
    steps = (
        jax.random.split(key, len(times) - 1) if normals is None else normals,
        times[:-1],
        keep,
        alpha[1:] * fresh,
        ahead,
        sigma[1:] * jnp.sqrt(fresh),
    )

    def step(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        x, previous = carry
        source, t, keep, pull, ahead, spread = inputs
        # A network of another precision does not change the state's.
        denoised = denoise(x, t).astype(x.dtype)
        target = denoised + ahead * (denoised - previous)
        z = jax.random.normal(source, x.shape, x.dtype) if normals is None else source
        return keep * x + pull * target + spread * z, denoised

    def step_or_stay(carry: tuple[Array, Array], inputs: tuple) -> tuple[tuple, None]:
        length, rest = inputs
        return jax.lax.cond(length > 0, step, lambda carry, rest: carry, carry, rest), None

    return jax.lax.scan(step_or_stay, (x, jnp.zeros_like(x)), (step_size, steps))[0][0]
