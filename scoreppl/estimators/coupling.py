"""Reverse diffusions in different numbers of steps that share their noise."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.arguments import check_count, check_positive
from scoreppl.noise import Schedule
from scoreppl.score import ScoreModel
from scoreppl.score.model import check_solver, reverse_times
from scoreppl.solvers import Solver, dpm_solver

SECOND_ORDER = dpm_solver(2)


def coupled_draws(
    key: Array,
    score_model: ScoreModel,
    num_steps: Sequence[int],
    *,
    solver: Solver = SECOND_ORDER,
    spacing: str | ArrayLike | Sequence[float] = "logsnr",
    data_scale: float = 1.0,
) -> Array:
    r"""Draw one event by several reverse diffusions that share their noise.

    A coarse step takes its normal number from those of the r fine steps inside of it,
    z = sum_i w_i z_i with sum_i w_i^2 = 1. It is standard normal and independent of those of other
    steps whatever the weights w, so each draw has exactly the law of its own diffusion. The weights
    only draw coarse and fine paths together: w_i is in proportion to what z_i does to the end of
    the coarse step if the data are N(0, c^2), of which the ancestral step is

    .. math:: u' = \bigl(\rho + (1 - \rho) g\bigr) u + s' \sqrt{1 - \rho}\, z, \qquad
        \rho = s'^2 / s^2, \quad g = c^2 / (c^2 + s^2),

    in data units u = x / alpha with s = sigma / alpha. For c = 0 this is one Brownian path in
    the time SNR.

    Parameters
    ----------
    key
        PRNG key.
    score_model
        The score model.
    num_steps
        Increasing numbers of steps, each a multiple of the one before.
    solver
        The reverse-time solver, ``sp.solvers.dpm_solver(2)`` when not given. One that takes
        ``normals`` (`sp.solvers.ancestral`, `sp.solvers.multistep`) shares its whole path; any
        other its start, which is all for a deterministic one.
    spacing
        Of the times of the finest diffusion; the others leave some out. As in
        `scoreppl.score.ScoreModel.sample`.
    data_scale
        The standard deviation c of the data, roughly; only for solvers that take ``normals``.

    Returns
    -------
    Array
        Shape ``(len(num_steps), *event_shape)``: draws of x_0 as ``score_model.sample`` makes them
        with ``num_steps + 1`` evaluations.

    Raises
    ------
    ValueError
        If `num_steps`, `solver`, `spacing` or `data_scale` is not as above.
    """
    steps = check_steps(num_steps)
    check_solver(solver)
    times = reverse_times(score_model, steps[-1] + 1, spacing)
    scale = check_positive("data_scale", data_scale)
    return walk(score_model, key, times, tuple(steps[-1] // n for n in steps), solver, scale)


def check_steps(num_steps: Sequence[int]) -> list[int]:
    """Return step counts whose grids are nested, or say what is wrong with them."""
    if np.ndim(num_steps) != 1 or len(num_steps) == 0:
        raise ValueError(f"`num_steps={num_steps}` must be a sequence of step counts.")
    steps = [check_count("num_steps", n, 1) for n in num_steps]
    if any(fine <= coarse or fine % coarse for coarse, fine in zip(steps, steps[1:], strict=False)):
        raise ValueError(
            f"`num_steps={tuple(steps)}` must increase, each a multiple of the one before, so that "
            "the grids of times are nested."
        )
    return steps


def coarse_normals(
    normals: Array, times: Array, ratio: int, noise: Schedule, data_scale: ArrayLike
) -> Array:
    """Return the normal numbers of steps that each span `ratio` steps of the grid `times`.

    Parameters
    ----------
    normals
        Standard normal numbers of the fine steps, shape ``(steps, *event_shape)``.
    times
        Fine times, shape ``(steps + 1,)``.
    ratio
        Fine steps in one coarse step.
    noise
        The schedule.
    data_scale
        As of `coupled_draws`.

    Returns
    -------
    Array
        Shape ``(steps / ratio, *event_shape)``.
    """
    log_snr = noise.log_snr(times)
    squared = jnp.exp(-log_snr)
    rho = jnp.exp(log_snr[:-1] - log_snr[1:])
    gain = data_scale**2 / (data_scale**2 + squared[:-1])
    keep = (rho + (1 - rho) * gain).reshape(-1, ratio)
    one = jnp.ones((len(keep), 1))
    kept = jnp.cumprod(jnp.concatenate([one, keep[:, :0:-1]], 1), 1)[:, ::-1]
    effect = jnp.sqrt(squared[1:] * (1 - rho)).reshape(-1, ratio) * kept
    length = jnp.linalg.norm(effect, axis=1, keepdims=True)
    # A step to data without noise has no effect, whatever its number.
    weights = jnp.where(length > 0, effect / jnp.where(length > 0, length, 1), ratio**-0.5)
    groups = normals.reshape(*weights.shape, *normals.shape[1:])
    return jnp.einsum("cr,cr...->c...", weights, groups)


def walk(
    model: ScoreModel,
    key: Array,
    times: Array,
    ratios: tuple[int, ...],
    solver: Solver,
    data_scale: ArrayLike,
) -> Array:
    """Draw x_0 on the grid `times`, thinned by each of the ratios, from shared noise."""
    key_start, key_path = jax.random.split(key)
    noise = model.noise
    start = noise(times[0])[1] * jax.random.normal(key_start, model.event_shape)
    extra: dict[str, Any] = {}
    shares_path = "normals" in inspect.signature(solver).parameters
    normals = (
        jax.random.normal(key_path, (len(times) - 1, *model.event_shape)) if shares_path else None
    )
    draws = []
    for ratio in ratios:
        if normals is not None:
            extra = {"normals": coarse_normals(normals, times, ratio, noise, data_scale)}
        x = solver(key_path, start, times[::ratio], model.denoise, noise, **extra)
        draws.append(model.denoise(x, times[-1]))
    return jnp.stack(draws)
