"""Grids of times for reverse diffusion and annealing."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise.schedule import Schedule, as_float, is_concrete

# Each spacing is uniform in an increasing function of sigma / alpha: the function and its inverse.
_SPACINGS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "logsnr": (jnp.log, jnp.exp),
    "karras": (lambda ratio: ratio ** (1 / 7), lambda coordinate: coordinate**7),
    "cosine": (jnp.arctan, jnp.tan),
}
LOG_SNR_LIMIT = 14.0
SPACINGS = ("uniform", *_SPACINGS)


def first_time(schedule: Schedule) -> Array:
    """Return the time at which reverse diffusion starts: 1, or that of log-SNR -14.

    A schedule without any signal at t = 1 is entered later, where every prediction has a denoiser.
    """
    return jnp.where(jnp.isinf(schedule.log_snr(1.0)), schedule.time(-LOG_SNR_LIMIT), 1.0)


def time_grid(
    schedule: Schedule,
    num_steps: int,
    *,
    spacing: str = "logsnr",
    t_min: ArrayLike | None = None,
    t_max: ArrayLike = 1.0,
) -> Array:
    """Return decreasing times from `t_max` to `t_min`.

    Parameters
    ----------
    schedule
        The noise schedule.
    num_steps
        Number of intervals, at least 1.
    spacing
        What is uniform along the grid: ``"logsnr"``, ``"uniform"`` (t itself), ``"karras"``
        ((sigma / alpha)^(1/7), arXiv:2206.00364) or ``"cosine"`` (arctan(sigma / alpha)).
    t_min, t_max
        The ends, ``0 <= t_min < t_max <= 1``. By default `t_min` is the time of log-SNR 8. An end
        of infinite log-SNR is kept, but the grid is spaced as if its log-SNR were +-14.

    Returns
    -------
    Array
        Times, shape ``(num_steps + 1,)``.

    Raises
    ------
    ValueError
        If `num_steps` or `spacing` is not as above, or the ends are not in order.
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps={num_steps}` must be at least 1.")
    if spacing not in SPACINGS:
        known = ", ".join(map(repr, SPACINGS))
        raise ValueError(f"`spacing={spacing!r}` is not known; use one of {known}.")
    if t_min is None:
        t_min = schedule.time(8.0)
    if is_concrete(t_min, t_max) and not 0 <= np.asarray(t_min) < np.asarray(t_max) <= 1:
        raise ValueError(f"`t_min={t_min}` and `t_max={t_max}` must obey 0 <= t_min < t_max <= 1.")
    t_max, t_min = as_float(t_max), as_float(t_min)
    if spacing == "uniform":
        return jnp.linspace(t_max, t_min, num_steps + 1)
    forward, inverse = _SPACINGS[spacing]
    log_snr = schedule.log_snr(jnp.stack([t_max, t_min]))
    log_snr = jnp.where(jnp.isinf(log_snr), jnp.sign(log_snr) * LOG_SNR_LIMIT, log_snr)
    first, last = forward(jnp.exp(-log_snr / 2))
    ratio = inverse(jnp.linspace(first, last, num_steps + 1))
    times = schedule.time(-2 * jnp.log(ratio))
    return times.at[0].set(t_max).at[-1].set(t_min)
