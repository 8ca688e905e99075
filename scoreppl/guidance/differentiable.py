"""Whether a weight has the gradient that a guidance follows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.guidance.view import Guidance

_REMEDY = (
    "use `Lookahead`, `RandomNumbers` or, with a limit state, `LimitState` of sp.guidance, or "
    "`Unguided` for plain path weights, which need no gradient"
)


def check_differentiable(
    guidance: Guidance, log_weight: Callable[[Array], Array], points: Array
) -> None:
    """Refuse a guidance that needs a gradient where the weight varies without one.

    Parts say so by the attribute ``needs_gradient``; a guidance without it is not checked.

    Parameters
    ----------
    guidance
        The guidance.
    log_weight
        Log weight of an event, flat, a scalar.
    points
        Draws of the prior, shape ``(n, d)``. The weight is looked at there and halfway between
        successive ones; it must be known, not traced.

    Raises
    ------
    ValueError
        If `log_weight` cannot be differentiated; or if its gradient is zero or not finite at
        every point although it is not one finite constant there.
    """
    if not getattr(guidance, "needs_gradient", False):
        return
    name = type(guidance).__name__
    points = jnp.concatenate([points, 0.5 * (points[1:] + points[:-1])])
    values = jax.jit(jax.vmap(log_weight))(points)
    try:
        gradients = jax.jit(jax.vmap(jax.grad(log_weight)))(points)
    except Exception as error:
        raise ValueError(
            f"`guidance={name}` follows the gradient of the log weight, which cannot be "
            f"differentiated ({error}); {_REMEDY}."
        ) from error
    size = jnp.max(jnp.where(jnp.isfinite(values), jnp.abs(values), 0.0))
    # Rounding is no variation.
    varies = jnp.max(values) - jnp.min(values) > 1e-5 * jnp.maximum(size, 1.0)
    varies |= ~jnp.all(jnp.isfinite(values))
    usable = jnp.all(jnp.isfinite(gradients), -1) & jnp.any(gradients != 0.0, -1)
    if bool(varies & ~jnp.any(usable)):
        raise ValueError(
            f"`guidance={name}` follows the gradient of the log weight, which is zero at all "
            f"{len(points)} points that were tried although the weight is not constant, as of an "
            f"indicator; {_REMEDY}."
        )
