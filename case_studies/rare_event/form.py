r"""Design points: first-order reliability (FORM) and importance sampling about them.

In a space of normal numbers z, with the event :math:`g(T(z)) > 0`, the design point z* is the point
of the event next to the origin. FORM takes the event for a half-space there and answers
:math:`\Phi(-|z^*|)`; importance sampling draws from N(z*, I) and weighs. T is the identity for a
law that is N(0, I) and the flow of the score model otherwise. The search is the iteration of
Hasofer and Lind (1974) and of Rackwitz and Fiessler (1978) with a step that decreases a merit
function, as Zhang and Der Kiureghian (1995) improved it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

NUM_ITERATIONS, NUM_HALVINGS = 30, 6
# Values of T g that a search spends: a value with gradient counts as three.
SEARCH_COST = NUM_ITERATIONS * (3 + NUM_HALVINGS)


class DesignEstimate(NamedTuple):
    """What a design point says.

    Attributes
    ----------
    log_form
        FORM's log probability.
    log_probability, standard_error
        By importance sampling, and the relative error of the mean.
    """

    log_form: Array
    log_probability: Array
    standard_error: Array


def design_point(state: Callable[[Array], Array], start: Array) -> Array:
    """Search the nearest point at which the limit state is zero."""

    def step(z: Array, _: None) -> tuple[Array, None]:
        value, slope = jax.value_and_grad(state)(z)
        square = jnp.maximum(slope @ slope, 1e-12)
        towards = (slope @ z - value) / square * slope - z
        # Any factor above |z| / |slope| makes `towards` a descent direction of the merit.
        factor = 2.0 * jnp.sqrt(z @ z / square) + 10.0 / jnp.sqrt(square)
        lengths = 0.5 ** jnp.arange(NUM_HALVINGS)
        points = z + lengths[:, None] * towards
        values = jax.vmap(state)(points)
        merit = 0.5 * jnp.sum(points**2, 1) + factor * jnp.abs(values)
        return points[jnp.nanargmin(merit)], None

    return jax.lax.scan(step, start, length=NUM_ITERATIONS)[0]


@partial(jax.jit, static_argnames=("state", "size", "num_draws"))
def at_design_point(
    key: Array, state: Callable[[Array], Array], size: int, num_draws: int
) -> DesignEstimate:
    """Estimate the probability that the limit state of N(0, I) is positive."""
    key_start, key_draws = jax.random.split(key)
    point = design_point(state, 0.1 * jax.random.normal(key_start, (size,)))
    # A search that ended in the event's far side, or outside of it, still has a distance.
    distance = jnp.linalg.norm(point) * jnp.where(state(jnp.zeros(size)) > 0, -1.0, 1.0)
    offsets = jax.random.normal(key_draws, (num_draws, size))
    inside = jax.vmap(state)(point + offsets) > 0
    log_ratio = -offsets @ point - 0.5 * point @ point
    log_weight = jnp.where(inside, log_ratio, -jnp.inf)
    log_probability = logsumexp(log_weight) - jnp.log(num_draws)
    square = logsumexp(2 * log_weight) - jnp.log(num_draws) - 2 * log_probability
    error = jnp.sqrt(jnp.expm1(square) / (num_draws - 1))
    return DesignEstimate(norm.logcdf(-distance), log_probability, error)
