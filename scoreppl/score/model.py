"""What a score model is, and the reverse diffusion that draws from any of them."""

import inspect
import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.arguments import check_count
from scoreppl.noise import Schedule, as_float, first_time, is_concrete, time_grid
from scoreppl.solvers import Solver, multistep

_SOLVER_ARGUMENTS = ("key", "x", "times", "denoise", "noise")


@runtime_checkable
class ScoreModel(Protocol):
    """A prior given by its score at every noise level."""

    @property
    def noise(self) -> Schedule:
        """The noise schedule."""
        ...

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        ...

    @property
    def min_time(self) -> ArrayLike:
        """The smallest time at which the score is to be used."""
        ...

    @property
    def has_log_density(self) -> bool:
        """Whether `log_prob` can be called."""
        ...

    def score(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the gradient of log p_t at `x`, of the shape of one event."""
        ...

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return E[x_0 | x_t = x], of the shape of one event."""
        ...

    def log_prob(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Return log p_t(x) up to a constant; only if `has_log_density`.

        Without `t` at data, or as near to it as the model comes.
        """
        ...

    def sample(
        self,
        key: Array,
        sample_shape: tuple[int, ...] = (),
        *,
        num_steps: int = 100,
        solver: Solver = multistep,
        spacing: str | ArrayLike | Sequence[float] = "logsnr",
    ) -> Array:
        """Draw x_0 by reverse diffusion, shape ``(*sample_shape, *event_shape)``."""
        ...


def reverse_diffusion(
    model: ScoreModel,
    key: Array,
    sample_shape: tuple[int, ...] = (),
    *,
    num_steps: int = 100,
    solver: Solver = multistep,
    spacing: str | ArrayLike | Sequence[float] = "logsnr",
) -> Array:
    """Draw x_0 from a score model: noise at t = 1, the solver down to `min_time`, one denoising.

    The start is N(0, sigma_1^2), which neglects alpha_1 x_0: choose schedules with
    alpha_1 / sigma_1 small against the inverse of the data's scale. A schedule without any signal
    at t = 1 is entered at log-SNR -14, where every prediction has a denoiser. The last denoising
    is at the last of the times, if these are given.

    Parameters
    ----------
    model
        The score model.
    key
        PRNG key.
    sample_shape
        Shape of independent draws.
    num_steps
        Number of evaluations of the denoiser a draw, at least 1: the solver takes
        ``num_steps - 1`` steps, and the last evaluation is x_0 = D(x, min_time).
    solver
        The reverse-time solver.
    spacing
        Spacing of the times, as in `scoreppl.noise.time_grid`; or the times themselves,
        `num_steps` decreasing numbers in [`min_time`, 1], of which the first is the start.

    Returns
    -------
    Array
        Draws, shape ``(*sample_shape, *event_shape)``.

    Raises
    ------
    ValueError
        If `num_steps`, `solver`, `spacing` or `sample_shape` is not as above.
    """
    num_steps = check_count("num_steps", num_steps, 1)
    check_solver(solver)
    shape = check_shape("sample_shape", sample_shape)
    times = reverse_times(model, num_steps, spacing)
    # A model that is no pytree cannot be an argument of a compiled function.
    is_pytree = not jax.tree_util.all_leaves([model])
    draw = _compiled_reverse_diffusion if is_pytree else _reverse_diffusion
    return draw(model, key, times, shape, solver)


def check_solver(solver: Solver) -> None:
    """Refuse what is no solver."""
    if not callable(solver):
        raise ValueError(
            f"`solver={solver!r}` is not callable; use a part of sp.solvers, such as "
            "sp.solvers.unipc()."
        )
    name = getattr(solver, "__name__", type(solver).__name__)
    if isinstance(solver, type):
        raise ValueError(f"`solver={name}` is a class: add parentheses.")
    try:
        inspect.signature(solver).bind(*_SOLVER_ARGUMENTS)
    except TypeError as error:
        raise ValueError(
            f"`solver={name}` does not take ({', '.join(_SOLVER_ARGUMENTS)}). If it makes a "
            f"solver, as sp.solvers.dpm_solver does, add parentheses: `solver={name}()`."
        ) from error


def reverse_times(
    model: ScoreModel, num_steps: int, spacing: str | ArrayLike | Sequence[float]
) -> Array:
    """Return the times of a reverse diffusion, or say what is wrong with `spacing`."""
    if isinstance(spacing, str):
        start = first_time(model.noise)
        if num_steps == 1:
            return start[None]
        return time_grid(
            model.noise, num_steps - 1, spacing=spacing, t_min=model.min_time, t_max=start
        )
    times = as_float(spacing)  # type: ignore[arg-type]
    if times.shape != (num_steps,):
        raise ValueError(
            f"`spacing` of shape {times.shape} gives the times themselves and must have one for "
            f"each evaluation, `num_steps={num_steps}`."
        )
    if is_concrete(times, model.min_time):
        low = np.asarray(model.min_time, times.dtype)
        if not (np.all(np.diff(times) < 0) and low <= times[-1] and times[0] <= 1):
            raise ValueError(
                f"`spacing={spacing}` must decrease from at most 1 to `min_time={low}` at least."
            )
    return times


def _reverse_diffusion(
    model: ScoreModel, key: Array, times: Array, sample_shape: tuple[int, ...], solver: Solver
) -> Array:
    noise = model.noise

    def draw(key: Array) -> Array:
        key_start, key_solver = jax.random.split(key)
        x = noise(times[0])[1] * jax.random.normal(key_start, model.event_shape)
        x = solver(key_solver, x, times, model.denoise, noise)
        return model.denoise(x, times[-1])

    draws = jax.vmap(draw)(jax.random.split(key, math.prod(sample_shape)))
    return draws.reshape(*sample_shape, *model.event_shape)


_compiled_reverse_diffusion = partial(jax.jit, static_argnames=("sample_shape", "solver"))(
    _reverse_diffusion
)


def check_shape(name: str, value: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape as a tuple of integers, or say which argument is none."""
    try:
        shape = tuple(operator.index(size) for size in value)
    except TypeError:
        shape = (-1,)
    if any(size < 0 for size in shape):
        raise ValueError(f"`{name}={value!r}` must be a tuple of sizes, such as (28, 28) or ().")
    return shape
