"""What a rare event is looked for in: a score model, or the posterior of a finished run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoreppl.score import ScoreModel
from scoreppl.target import Position, Target

_NUM_STEPS = 100


class EventSource(NamedTuple):
    """A law with an event.

    Attributes
    ----------
    target
        Score models and weight.
    draw
        ``draw(key, count)`` gives positions of the law at the lowest noise level.
    draw_evaluations
        Score evaluations of a draw.
    constrain
        From a position to a user's values.
    limit_state
        Of a user's values, a scalar.
    score_model
        The one that the law is of, if it is no posterior.
    """

    target: Target
    draw: Callable[[Array, int], Position]
    draw_evaluations: int
    constrain: Callable[[Position], dict[str, Array]]
    limit_state: Callable[[dict[str, Array]], Array]
    score_model: ScoreModel | None


def read_source(source: Any, limit_state: Callable[[Any], Array]) -> EventSource:
    """Tell score models from finished runs, and check the limit state on one of their draws."""
    if not callable(limit_state):
        raise ValueError(
            f"`limit_state` of type {type(limit_state).__name__} is not callable; it must be a "
            "function g whose positive values are the event."
        )
    if hasattr(source, "get_extra_fields"):
        found = _of_run(source, limit_state)
    elif isinstance(source, ScoreModel):
        found = _of_model(source, limit_state)
    else:
        raise ValueError(
            f"`source` of type {type(source).__name__} is neither a score model nor a finished "
            "MCMC of a kernel of this package."
        )
    position = jax.eval_shape(lambda key: found.draw(key, 1), jax.random.key(0))
    one = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), position)
    shape = jax.eval_shape(lambda z: jnp.asarray(found.limit_state(found.constrain(z))), one).shape
    if shape != ():
        raise ValueError(f"`limit_state` returned shape {shape} for one draw; it must be a scalar.")
    return found


def _of_model(model: ScoreModel, limit_state: Callable[[Array], Array]) -> EventSource:
    target = Target({"x": model}, {"x": jnp.asarray(model.min_time)}, lambda z: jnp.zeros(()))

    def draw(key: Array, count: int) -> Position:
        key_draws, key_noise = jax.random.split(key)
        clean = model.sample(key_draws, (count,), num_steps=_NUM_STEPS)
        alpha, sigma = model.noise(jnp.asarray(model.min_time))
        return {"x": clean + sigma / alpha * jax.random.normal(key_noise, clean.shape)}

    return EventSource(
        target, draw, _NUM_STEPS, lambda z: z, lambda values: limit_state(values["x"]), model
    )


def _of_run(mcmc: Any, limit_state: Callable[[dict[str, Array]], Array]) -> EventSource:
    kernel = mcmc.sampler
    if not hasattr(kernel, "target"):
        raise ValueError(
            f"The kernel of `source`, {type(kernel).__name__}, has no score models; use one of "
            "this package, such as sp.ScoreMALA or sp.AnnealedScoreMCMC."
        )
    try:
        fields = mcmc.get_extra_fields()
    except (AssertionError, AttributeError, TypeError) as error:
        raise ValueError("`source` has no draws yet: call its `run` first.") from error
    if "position" not in (fields or {}):
        raise ValueError(
            "`source` must keep its unconstrained draws: run it with `extra_fields=('position',)`."
        )
    args, kwargs = mcmc._args, mcmc._kwargs
    positions = jax.tree.map(np.asarray, fields["position"])
    count = len(jax.tree.leaves(positions)[0])

    def draw(key: Array, wanted: int) -> Position:
        # Without replacement as long as there are enough, and evenly otherwise.
        order = jax.random.permutation(key, jnp.arange(wanted) % count)
        chosen = jax.random.permutation(jax.random.fold_in(key, 1), count)[order]
        return jax.tree.map(lambda v: jnp.asarray(v)[chosen], positions)

    return EventSource(
        kernel.target(*args, **kwargs), draw, 0, kernel.postprocess_fn(args, kwargs), limit_state,
        None,
    )  # fmt: skip
