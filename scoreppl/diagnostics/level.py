"""A score model held at one noise level, and the checks of what users hand in."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from scoreppl.line_integral import Quadrature
from scoreppl.mcmc.trajectory import PathTarget, target_builder
from scoreppl.noise import as_float
from scoreppl.score import ScoreModel


def at_level(
    model: ScoreModel,
    points: Array,
    t: Array,
    quadrature: str | Quadrature = "simpson",
    batch_nodes: bool = True,
) -> tuple[PathTarget, Array]:
    """Return the model's law at time `t` as a target of flat events, and the points flattened."""
    unravel = ravel_pytree(points[0])[1]
    target_for = target_builder(
        lambda x: model.score(x, t),
        lambda x: jnp.zeros((), points.dtype),
        log_density_fn=None,
        quadrature=quadrature,
        batch_nodes=batch_nodes,
    )
    return target_for(unravel), points.reshape(len(points), -1)


def check_points(model: ScoreModel, x: ArrayLike, t: ArrayLike) -> tuple[Array, Array]:
    """Return points and time as arrays, or say what is wrong with them."""
    points, time = as_float(x), as_float(t)
    event = tuple(model.event_shape)
    if points.shape[1:] != event or points.ndim != len(event) + 1 or len(points) == 0:
        raise ValueError(
            f"`x` has shape {points.shape}; it must hold at least one point of shape {event}, "
            f"stacked along a leading axis: {('n', *event)}."
        )
    lowest = float(np.asarray(model.min_time))
    # A little slack: a time computed in float32 may fall short of the float64 limit.
    if time.shape != () or not lowest * (1 - 1e-5) <= float(time) <= 1.0:
        raise ValueError(
            f"`t={t}` must be one time between `score_model.min_time` ({lowest:g}) and 1."
        )
    if not bool(jnp.all(jnp.isfinite(points))):
        raise ValueError("`x` holds values that are not finite.")
    scores = call_on_model(_compiled_scores, model, points, time)
    if not bool(jnp.all(jnp.isfinite(scores))):
        raise ValueError(
            f"The score is not finite at some of the points `x` at t = {float(time):g}: check "
            "that they are at that noise level, in units of x_t."
        )
    return points, time


def check_counts(**counts: int) -> None:
    """Refuse counts below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}={count}` must be at least 1.")


def check_step_size(step_size: float | None) -> None:
    """Refuse a step size that is given and not positive."""
    if step_size is not None and not step_size > 0:
        raise ValueError(f"`step_size={step_size}` must be positive; None chooses one.")


def first_step_size(model: ScoreModel, points: Array, t: Array) -> Array:
    """Langevin step to begin with: a tenth of the noise variance, or of the law's own scale."""
    _, sigma = model.noise(t)
    scores = call_on_model(_compiled_scores, model, points, t)
    # Without noise the score itself tells the scale: its mean square is an inverse variance.
    scale = 1.0 / jnp.maximum(jnp.mean(scores**2), jnp.finfo(scores.dtype).tiny)
    return 0.1 * jnp.where(sigma > 0, sigma**2, scale)


def call_on_model(compiled: Callable, model: ScoreModel, *args: Any, **settings: Any) -> Any:
    """Call a jitted function of a model; one that is no pytree cannot be its argument."""
    is_pytree = not jax.tree_util.all_leaves([model])
    return (compiled if is_pytree else compiled.__wrapped__)(model, *args, **settings)


@jax.jit
def _compiled_scores(model: ScoreModel, points: Array, t: Array) -> Array:
    return jax.vmap(lambda x: model.score(x, t))(points)
