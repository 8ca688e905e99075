"""Heun's method with churn, in data units (Karras et al., arXiv:2206.00364, algorithm 2)."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.noise import Schedule, as_float


@dataclass(frozen=True)
class Heun:
    r"""Heun's method on the probability flow, two evaluations of the denoiser a step.

    In data units u = x / alpha with s = sigma / alpha the flow is du / ds = (u - D) / s. With
    churn, a step first adds noise up to s (1 + gamma) and starts from there.

    Parameters
    ----------
    churn
        Total amount of churn S_churn: gamma is this over the number of steps, at most
        sqrt(2) - 1. 0 is the deterministic second-order solver.
    churn_scales
        Lowest and highest s in which churn acts.
    noise_inflation
        Standard deviation of churned noise as a multiple of what it should be.

    Raises
    ------
    ValueError
        If `churn` or `noise_inflation` is negative, or `churn_scales` are not in order.
    """

    churn: float = 0.0
    churn_scales: tuple[float, float] = (0.0, float("inf"))
    noise_inflation: float = 1.0

    def __post_init__(self) -> None:
        """Check the choices."""
        if not self.churn >= 0.0:
            raise ValueError(f"`churn={self.churn}` must not be negative.")
        if not self.noise_inflation >= 0.0:
            raise ValueError(f"`noise_inflation={self.noise_inflation}` must not be negative.")
        low, high = self.churn_scales
        if not 0.0 <= low <= high:
            raise ValueError(
                f"`churn_scales={self.churn_scales}` must be a lowest and a highest noise scale."
            )

    def __call__(
        self,
        key: Array,
        x: Array,
        times: Array,
        denoise: Callable[[Array, Array], Array],
        noise: Schedule,
    ) -> Array:
        """Carry `x` from ``times[0]`` to ``times[-1]``, as in `scoreppl.solvers.Solver`."""
        x, times = as_float(x), as_float(times)
        alpha, sigma = noise(times)
        scales = sigma / alpha
        low, high = self.churn_scales
        gamma = min(self.churn / (len(times) - 1), 2.0**0.5 - 1.0)
        acts = (scales[:-1] >= low) & (scales[:-1] <= high)
        churned = scales[:-1] * jnp.where(acts, 1.0 + gamma, 1.0)
        # Noise beyond the schedule's is not known to the denoiser.
        starts = jnp.minimum(churned, jnp.exp(-0.5 * noise.log_snr(jnp.ones_like(times[0]))))
        start_times = jnp.where(
            starts > scales[:-1], noise.time(-2.0 * jnp.log(starts)), times[:-1]
        )

        def denoised(u: Array, time: Array) -> Array:
            return denoise(noise(time)[0] * u, time).astype(u.dtype)

        def step(u: Array, inputs: tuple[Array, ...]) -> tuple[Array, None]:
            key, before, start, time, end, next_time = inputs
            if gamma > 0.0:
                added = jnp.sqrt(start**2 - before**2) * self.noise_inflation
                u = u + added * jax.random.normal(key, u.shape, u.dtype)
            slope = (u - denoised(u, time)) / start
            ahead = u + (end - start) * slope
            # Without noise at the end the slope there is 0 / 0, and Euler's step exact enough.
            end_slope = (ahead - denoised(ahead, next_time)) / jnp.where(end > 0, end, 1.0)
            slope = jnp.where(end > 0, 0.5 * (slope + end_slope), slope)
            return (u + (end - start) * slope).astype(u.dtype), None

        keys = jax.random.split(key, len(times) - 1)
        inputs = (keys, scales[:-1], starts, start_times, scales[1:], times[1:])
        u, _ = jax.lax.scan(step, x / alpha[0], inputs)
        return alpha[-1] * u
