"""The deterministic reverse diffusion as a map from normal noise to data."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.arguments import check_count
from scoreppl.noise import is_concrete
from scoreppl.score.model import ScoreModel, check_solver, reverse_times
from scoreppl.solvers import Solver, unipc

_DEFAULT_SOLVER = unipc()


def flow_map(
    model: ScoreModel,
    *,
    num_steps: int = 20,
    solver: Solver = _DEFAULT_SOLVER,
    spacing: str | ArrayLike | Sequence[float] = "logsnr",
) -> Callable[[ArrayLike], Array]:
    """Return x = T(z), the reverse diffusion of a start sigma_1 z by a deterministic solver.

    Draws z ~ N(0, I) become the draws of `reverse_diffusion` with the same solver, in law. So an
    expectation E[phi(x)] under the law that this discretised flow defines is exactly
    E[phi(T(z))] under N(0, I), a law with a density. How far that law is from the model's own,
    which another number of steps shows, is not seen by any estimate under it.

    Parameters
    ----------
    model
        The score model.
    num_steps
        Evaluations of the denoiser a point, at least 1, the last denoising among them.
    solver
        A deterministic solver of `scoreppl.solvers`.
    spacing
        As in `reverse_diffusion`.

    Returns
    -------
    Callable
        Maps one z, of the shape of an event or flat, to one event; it has derivatives.

    Raises
    ------
    ValueError
        If an argument is not as above, or the solver draws noise.
    """
    check_solver(solver)
    times = reverse_times(model, check_count("num_steps", num_steps, 1), spacing)
    start = model.noise(times[0])[1]

    def carried(z: ArrayLike, key: Array) -> Array:
        x = start * jnp.reshape(jnp.asarray(z), model.event_shape)
        x = solver(key, x, times, model.denoise, model.noise)
        return model.denoise(x, times[-1])

    keys = jax.random.split(jax.random.key(0))
    point = jax.random.normal(keys[0], model.event_shape)
    first, second = jax.jit(jax.vmap(carried, (None, 0)))(point, keys)
    if is_concrete(first) and not np.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise ValueError(
            "`solver` draws noise, so that it defines no map; use a deterministic one, such as "
            "sp.solvers.unipc()."
        )
    return partial(carried, key=keys[0])
