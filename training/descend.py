"""The loop of stochastic gradient descent that the small networks here are trained by."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array


def descend(
    loss: Callable[[Any, Array], Array],
    params: Any,
    optimiser: optax.GradientTransformation,
    keys: Array,
) -> Any:
    """Return the parameters after a step for each key.

    Parameters
    ----------
    loss
        Of parameters and the key of a batch, a scalar.
    params
        The parameters to begin with.
    optimiser
        Of optax.
    keys
        One a step.
    """

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimiser.init(params)), keys)[0][0]
