"""What a score model is, and the reverse diffusion that draws from any of them."""

import math
import operator
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise import Schedule, time_grid
from scoreppl.solvers import Solver, multistep


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

    def log_prob(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return log p_t(x) up to a constant; only if `has_log_density`."""
        ...

    def sample(
        self,
        key: Array,
        sample_shape: tuple[int, ...] = (),
        *,
        num_steps: int = 100,
        solver: Solver = multistep,
        spacing: str = "logsnr",
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
    spacing: str = "logsnr",
) -> Array:
    """Draw x_0 from a score model: noise at t = 1, the solver down to `min_time`, one denoising.

    The start is N(0, sigma_1^2), which neglects alpha_1 x_0: choose schedules with
    alpha_1 / sigma_1 small against the inverse of the data's scale. A schedule without any signal
    at t = 1 is entered at log-SNR -14, where every prediction has a denoiser.

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
        Spacing of the times, as in `scoreppl.noise.time_grid`.

    Returns
    -------
    Array
        Draws, shape ``(*sample_shape, *event_shape)``.

    Raises
    ------
    ValueError
        If `num_steps`, `spacing` or `sample_shape` is not as above.
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps={num_steps}` must be at least 1.")
    shape = check_shape("sample_shape", sample_shape)
    # A model that is no pytree cannot be an argument of a compiled function.
    is_pytree = not jax.tree_util.all_leaves([model])
    draw = _compiled_reverse_diffusion if is_pytree else _reverse_diffusion
    return draw(model, key, shape, num_steps, solver, spacing)


def _reverse_diffusion(
    model: ScoreModel,
    key: Array,
    sample_shape: tuple[int, ...],
    num_steps: int,
    solver: Solver,
    spacing: str,
) -> Array:
    noise = model.noise
    start = jnp.where(jnp.isinf(noise.log_snr(1.0)), noise.time(-14.0), 1.0)
    times = start[None]
    if num_steps > 1:
        times = time_grid(noise, num_steps - 1, spacing=spacing, t_min=model.min_time, t_max=start)

    def draw(key: Array) -> Array:
        key_start, key_solver = jax.random.split(key)
        x = noise(start)[1] * jax.random.normal(key_start, model.event_shape)
        x = solver(key_solver, x, times, model.denoise, noise)
        return model.denoise(x, times[-1])

    draws = jax.vmap(draw)(jax.random.split(key, math.prod(sample_shape)))
    return draws.reshape(*sample_shape, *model.event_shape)


_compiled_reverse_diffusion = partial(
    jax.jit, static_argnames=("sample_shape", "num_steps", "solver", "spacing")
)(_reverse_diffusion)


def check_shape(name: str, value: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape as a tuple of integers, or say which argument is none."""
    try:
        shape = tuple(operator.index(size) for size in value)
    except TypeError:
        shape = (-1,)
    if any(size < 0 for size in shape):
        raise ValueError(f"`{name}={value!r}` must be a tuple of sizes, such as (28, 28) or ().")
    return shape
