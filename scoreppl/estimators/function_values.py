"""Values of several functions and of one density at many points, and what is wrong with them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Function = Callable[[Array], Array]


def standard_normal(x: Array) -> Array:
    """Return the log density of N(0, I)."""
    return -0.5 * jnp.sum(x**2) - 0.5 * len(x) * np.log(2 * np.pi)


def check_functions(
    functions: Function,
    density: Function,
    draw: Function | None,
    size: int,
) -> None:
    """Refuse functions whose shapes do not fit, before anything is drawn."""
    point = jax.ShapeDtypeStruct((size,), jnp.asarray(0.0).dtype)
    shape = point.shape if draw is None else jax.eval_shape(draw, jax.random.key(0)).shape
    if shape != point.shape:
        raise ValueError(f"`draw` gives points of shape {shape}; `size={size}` needs ({size},).")
    shape = jax.eval_shape(functions, point).shape
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            f"`functions` gives shape {shape} for one point; it must give one vector with a value "
            "for each function, shape (J,)."
        )
    shape = jax.eval_shape(density, point).shape
    if shape != ():
        raise ValueError(f"`log_density` gives shape {shape} for one point; it must give a scalar.")


@partial(jax.jit, static_argnames=("functions", "density"))
def _evaluate_chunk(functions: Function, density: Function, points: Array) -> tuple[Array, Array]:
    return jax.vmap(functions)(points), jax.vmap(density)(points)


def evaluate(
    functions: Function, density: Function, points: np.ndarray, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate in chunks of one shape, so that the functions are compiled once."""
    count = len(points)
    padded = np.concatenate([points, np.repeat(points[:1], -count % chunk, 0)])
    found = [
        jax.device_get(_evaluate_chunk(functions, density, jnp.asarray(rows)))
        for rows in padded.reshape(-1, chunk, points.shape[1])
    ]
    values = np.concatenate([each for each, _ in found])[:count].astype(np.float64)
    logs = np.concatenate([each for _, each in found])[:count].astype(np.float64)
    if np.any(np.isnan(logs)) or np.any(logs == np.inf):
        raise ValueError("`log_density` is NaN or infinite at a draw; outside p it must be -inf.")
    # What the functions are outside p does not matter.
    values[logs == -np.inf] = 0.0
    wrong = ~np.isfinite(values)
    if np.any(wrong):
        raise ValueError(
            f"Function {int(np.argmax(wrong.any(0)))} of `functions` is NaN or infinite at "
            f"{int(wrong.any(1).sum())} of {count} draws; give it a finite value wherever p is "
            "positive."
        )
    return values, logs
