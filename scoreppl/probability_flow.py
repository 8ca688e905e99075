"""The density of the probability-flow ODE of a score model, by quadrature along its path."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from scoreppl.score import ScoreModel

# Where a schedule reaches zero noise or zero signal, the path is cut at this log-SNR.
_LOG_SNR_LIMIT = 14.0


def log_density(
    model: ScoreModel, x: ArrayLike, t: ArrayLike | None = None, *, num_steps: int = 100
) -> Array:
    r"""Log density of x_t under the probability-flow ODE, by a path to the noise end.

    In data units u = x_t / alpha_t and with tau = log(sigma / alpha) the flow is (Song et al.,
    arXiv:2011.13456, section 4.3, in the coordinates of Karras et al., arXiv:2206.00364)

    .. math::
        \frac{du}{d\tau} = u - D(u, \tau), \qquad
        \frac{d}{d\tau} \log p_\tau(u_\tau) = \operatorname{tr} \frac{\partial D}{\partial u} - d,

    with d the size of the event. Both are integrated by the classical Runge-Kutta method in equal
    steps of tau, with the exact trace. At the noise end the law is taken as
    N(0, (sigma_1 / alpha_1)^2), as the samplers do, which is off by terms of the order of the
    data's scale over sigma_1 / alpha_1.

    The result is the density of what the deterministic sampler draws. For a network whose score
    is no gradient it differs from every p_t, and its gradient is not the score.

    Parameters
    ----------
    model : ScoreModel
        The score model.
    x : ArrayLike
        One event at time `t`.
    t : ArrayLike, optional
        Time; `model.min_time` when not given. Log-SNRs above 14 are taken as 14.
    num_steps : int
        Integration steps. Each costs 4 Jacobians of the denoiser, that is 8 d evaluations: this
        is for small events.

    Returns
    -------
    Array
        Scalar log density of x_t.

    Raises
    ------
    ValueError
        If `num_steps` is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps={num_steps}` must be at least 1.")
    noise, size = model.noise, math.prod(model.event_shape)
    time = model.min_time if t is None else t
    alpha, _ = noise(time)
    log_snr = jnp.clip(
        noise.log_snr(jnp.stack([jnp.asarray(time, alpha.dtype), jnp.ones((), alpha.dtype)])),
        -_LOG_SNR_LIMIT,
        _LOG_SNR_LIMIT,
    )
    start, end = -log_snr / 2
    step = (end - start) / num_steps

    def slope(u: Array, tau: Array) -> tuple[Array, Array]:
        time = noise.time(-2 * tau)
        scale, _ = noise(time)

        def denoised(u: Array) -> Array:
            return model.denoise(scale * u.reshape(model.event_shape), time).ravel()

        return u - denoised(u), jnp.trace(jax.jacfwd(denoised)(u)) - size

    def advance(state: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
        u, change = state
        tau = start + index * step
        u1, c1 = slope(u, tau)
        u2, c2 = slope(u + step / 2 * u1, tau + step / 2)
        u3, c3 = slope(u + step / 2 * u2, tau + step / 2)
        u4, c4 = slope(u + step * u3, tau + step)
        u = u + step / 6 * (u1 + 2 * u2 + 2 * u3 + u4)
        return (u, change + step / 6 * (c1 + 2 * c2 + 2 * c3 + c4)), None

    u = jnp.ravel(x) / alpha
    (u, change), _ = jax.lax.scan(advance, (u, jnp.zeros((), u.dtype)), jnp.arange(num_steps))
    at_end = -0.5 * jnp.sum((u * jnp.exp(-end)) ** 2) - size * (end + 0.5 * math.log(2 * math.pi))
    return at_end - change - size * jnp.log(alpha)
