"""A score model held at one noise level: what its moves start from, and checks of user input."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from scoreppl.diagnostics.moves import search_step_size
from scoreppl.mcmc.trajectory import Node, PathTarget, target_builder
from scoreppl.noise import as_float
from scoreppl.score import ScoreModel


class Start(NamedTuple):
    """Where the moves of a diagnostic start.

    Attributes
    ----------
    target
        The law on flat vectors: of a score model at one level, or of a whole model with weight.
    points, nodes
        Points, shape ``(n, d)``, and what is known there.
    step_size, inverse_mass
        Leapfrog step and preconditioner of the moves.
    """

    target: PathTarget
    points: Array
    nodes: Node
    step_size: Array
    inverse_mass: Array


def start_at_level(
    key: Array,
    model: ScoreModel,
    points: Array,
    t: Array,
    step_size: Array | None,
    *,
    num_steps: int = 1,
    batch_nodes: bool = True,
) -> Start:
    """Start moves on the law of a score model at time `t`, searching for a step if none is given.

    Parameters
    ----------
    key
        Key of the search.
    model, points, t
        Score model, events of x_t with a leading axis, time.
    step_size
        Leapfrog step; None finds that of about 75 % acceptance.
    num_steps
        Leapfrog steps of the moves to come.
    batch_nodes
        Evaluate the nodes of an integral in one batched call.
    """
    target = _law(model, points, t, batch_nodes)
    flat = points.reshape(len(points), -1)
    nodes = jax.vmap(target.start)(flat)
    mass = jnp.ones(flat.shape[1], flat.dtype)
    if step_size is None:
        first = _first_step_size(model, nodes.prior_score, t)
        step_size = search_step_size(key, target, flat, nodes, first, mass, num_steps)
    return Start(target, flat, nodes, step_size, mass)


def _law(model: ScoreModel, points: Array, t: Array, batch_nodes: bool) -> PathTarget:
    target_for = target_builder(
        lambda x: model.score(x, t),
        lambda x: jnp.zeros((), points.dtype),
        log_density_fn=None,
        quadrature="simpson",
        batch_nodes=batch_nodes,
    )
    return target_for(ravel_pytree(points[0])[1])


def _first_step_size(model: ScoreModel, scores: Array, t: Array) -> Array:
    """Where the search begins: a Langevin step of a tenth of the noise variance."""
    _, sigma = model.noise(t)
    # Without noise the score tells the scale: its mean square is an inverse variance.
    scale = 1.0 / jnp.maximum(jnp.mean(scores**2), jnp.finfo(scores.dtype).tiny)
    return jnp.sqrt(0.2 * jnp.where(sigma > 0, sigma**2, scale)).astype(scores.dtype)


def call_on_model(compiled: Callable, model: ScoreModel, *args: Any, **settings: Any) -> Any:
    """Call a jitted function of a model; one that is no pytree cannot be its argument."""
    is_pytree = not jax.tree_util.all_leaves([model])
    return (compiled if is_pytree else compiled.__wrapped__)(model, *args, **settings)


def check_points(model: ScoreModel, x: ArrayLike, t: ArrayLike) -> tuple[Array, Array]:
    """Return points and time as arrays, or say what is wrong with them."""
    points, time = as_float(x), as_float(t)
    event = tuple(model.event_shape)
    if points.shape[1:] != event or points.ndim != len(event) + 1 or len(points) == 0:
        wanted = ", ".join(("n", *map(str, event)))
        raise ValueError(
            f"`x` has shape {points.shape}; it must hold n points of the event's shape {event}, "
            f"stacked along a leading axis: ({wanted}), n >= 1."
        )
    lowest = float(np.asarray(model.min_time))
    # A little slack: a time computed in float32 may fall short of the float64 limit.
    if time.shape != () or not lowest * (1 - 1e-5) <= float(time) <= 1.0:
        raise ValueError(
            f"`t={t}` must be one time between `score_model.min_time` ({lowest:g}) and 1."
        )
    if not bool(jnp.all(jnp.isfinite(points))):
        raise ValueError("`x` holds values that are not finite.")
    return points, time


def check_scores(scores: Array, t: Array) -> None:
    """Refuse points at which the score is not finite."""
    if not bool(jnp.all(jnp.isfinite(scores))):
        raise ValueError(
            f"The score is not finite at some of the points `x` at t = {float(t):g}: check that "
            "they are at that noise level, in units of x_t."
        )


def check_counts(**counts: int) -> None:
    """Refuse counts below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}={count}` must be at least 1.")


def check_step_size(step_size: float | None) -> None:
    """Refuse a step size that is given and not positive."""
    if step_size is not None and not step_size > 0:
        raise ValueError(f"`step_size={step_size}` must be positive; None chooses one.")
