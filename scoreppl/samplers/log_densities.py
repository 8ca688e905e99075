r"""Log densities of noised models along a particle's path, by a line integral over its levels.

Under :math:`\lambda = -\log s` as time, s the noise standard deviation, a noised density has
:math:`\partial_\lambda \log q = -s^2 (\Delta \log q + |\nabla \log q|^2)`, so that between two
levels

.. math::
    \mathrm{d} \log q = \nabla \log q \cdot \mathrm{d}u
        - s^2 (\Delta \log q + |\nabla \log q|^2) \, \mathrm{d}\lambda

along any path u. With Ito's reading of a diffusion of noise s the Laplacian cancels; the integral
over the path as it lies, by the trapezoid rule, has no noise of its own, and scores and traces are
there already. With exact traces its error halves with twice the levels; those of probes add noise.
What is known is the difference to the start, where models are wide Gaussians.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from scoreppl.samplers.parts import Parts


class LogDensities(NamedTuple):
    """Log densities of a composition's members at a noisy event, and what the next step needs.

    Attributes
    ----------
    value
        Up to a constant that all members share, shape ``(num_members,)``.
    u
        The event in data units, flat, shape ``(d,)``.
    scores
        Of the members, shape ``(num_members, d)``.
    rates
        Of the log densities at a fixed event, per unit of lambda, shape ``(num_members,)``.
    """

    value: Array
    u: Array
    scores: Array
    rates: Array


def at_start(u: Array, means: Array, variance: Array) -> LogDensities:
    """Log densities at high noise, Gaussians of one variance about `means`."""
    nothing = jnp.zeros(len(means))
    value = -0.5 * jnp.sum((u - means) ** 2, 1) / variance
    return LogDensities(value, u, jnp.zeros_like(means), nothing)


def followed(
    known: LogDensities, u: Array, found: Parts, variance: Array, width: Array
) -> LogDensities:
    """Log densities at a new event, a level or none further down.

    Parameters
    ----------
    known
        At the last event.
    u
        The new one.
    found
        Its members there, each for itself.
    variance
        s^2 there.
    width
        By how much lambda has grown; 0 at the first level, where the event has not moved either.
    """
    pulls = found.denoised - u
    scores = pulls / variance
    rates = u.size - found.traces - jnp.sum(pulls**2, 1) / variance
    value = known.value + 0.5 * (known.scores + scores) @ (u - known.u)
    return LogDensities(value + 0.5 * width * (known.rates + rates), u, scores, rates)
