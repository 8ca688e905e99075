"""What the models of a composition say of a noisy event: its factors, and the members of mixtures.

Denoisers come with the trace of their Jacobian, exact or estimated, by shared forward products.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from scoreppl.compose import Composition
from scoreppl.compose.members import factors, member_log_weights, members
from scoreppl.score import ScoreModel


class Parts(NamedTuple):
    """What models say at a noisy event u, in data units.

    Attributes
    ----------
    denoised
        E[x_0 | u] under each model, shape ``(num_models, d)``.
    traces
        Trace of the Jacobian of each with respect to u, shape ``(num_models,)``.
    """

    denoised: Array
    traces: Array


def parts(model: ScoreModel, u: Array, t: Array, probes: Array | None) -> Parts:
    """Evaluate the members of all factors of a composition, one after another.

    Parameters
    ----------
    model
        The composition, or any model as a composition of itself alone.
    u
        Noisy event in data units, flat, shape ``(d,)``.
    t
        Time of the composition.
    probes
        Directions of mean square one, shape ``(num_probes, d)``: the trace is estimated as the
        mean of z . J z (Hutchinson), at 2 evaluations a probe and model. None: exact, at 2 d.
    """
    alpha, _ = model.noise(t)
    shape = tuple(model.event_shape)

    def denoise_each(u: Array) -> Array:
        x = alpha * u.reshape(shape)
        places = model.places(x, t) if isinstance(model, Composition) else [(model, x / alpha, t)]
        each = [
            member.denoise(factor.noise(time)[0] * event, time)
            for factor, event, time in places
            for member in members(factor)
        ]
        return jnp.stack(each).reshape(len(each), -1)

    directions = jnp.eye(u.size, dtype=u.dtype) if probes is None else probes
    denoised, products = _along(denoise_each, u, directions)
    traces = jnp.einsum("zmd,zd->m", products, directions)
    return Parts(denoised, traces if probes is None else traces / len(probes))


def combined(model: ScoreModel, found: Parts, variance: Array, log_densities: Array) -> Parts:
    r"""Put the members of open mixtures together, by what is known of their densities.

    With rho the probabilities of the members given u, the denoiser D is their average and its
    trace :math:`\sum_i \rho_i (\operatorname{tr} J_i + |D_i - D|^2 / s^2)`.

    Parameters
    ----------
    model
        The composition.
    found
        Its members.
    variance
        s^2, of the noise in data units.
    log_densities
        Of u under each member, up to what is common to a mixture, shape ``(num_members,)``.

    Returns
    -------
    Parts
        One entry a factor.
    """
    denoised, traces = [], []
    for factor, here in _by_factor(model):
        share = jax.nn.softmax(member_log_weights(factor) + log_densities[here])
        average = share @ found.denoised[here]
        apart = jnp.sum((found.denoised[here] - average) ** 2, 1) / variance
        denoised.append(average)
        traces.append(share @ (found.traces[here] + apart))
    return Parts(jnp.stack(denoised), jnp.stack(traces))


def factor_log_densities(model: ScoreModel, log_densities: Array) -> Array:
    """Return the log densities of the factors from those of their members."""
    return jnp.stack(
        [
            logsumexp(member_log_weights(factor) + log_densities[here])
            for factor, here in _by_factor(model)
        ]
    )


def _by_factor(model: ScoreModel) -> list[tuple[ScoreModel, slice]]:
    """Return each factor with the place of its members among all."""
    counts = [len(members(factor)) for factor in factors(model)]
    ends = list(accumulate(counts))
    places = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return list(zip(factors(model), places, strict=True))


def _along(fn: Callable[[Array], Array], u: Array, directions: Array) -> tuple[Array, Array]:
    return jax.vmap(lambda z: jax.jvp(fn, (u,), (z,)), out_axes=(None, 0))(directions)
