"""The score fields of compositions: pulls, Laplacians, disagreement, and the weight's rate."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.compose import Composition, Leading
from scoreppl.compose.members import exponents
from scoreppl.samplers.parts import Parts, parts
from scoreppl.score import ScoreModel
from scoreppl.target import Position, Target


class ScoreFields(NamedTuple):
    """A composition's score S at a noisy event, in units of the noise's variance s^2.

    Attributes
    ----------
    pull
        s^2 S, shape ``(d,)``.
    laplacian
        s^2 times the divergence of S.
    disagreement
        s^2 times the sum of the models' squared scores, by their exponents.
    """

    pull: Array
    laplacian: Array
    disagreement: Array


def score_fields(model: ScoreModel, u: Array, found: Parts, variance: Array) -> ScoreFields:
    """Put the factors of a composition together at a noisy event `u`; s^2 is `variance`."""
    powers = exponents(model)
    pulls = found.denoised - u
    return ScoreFields(
        powers @ pulls,
        powers @ (found.traces - u.size),
        powers @ jnp.sum(pulls**2, 1) / variance,
    )


def leading_rate(
    position: Position,
    target: Target,
    log_snr: Array,
    index: Array,
    signs: Position,
    num_probes: int | None,
) -> Array:
    """Rate of the log weight of `Leading` sites per unit of -log s: that of c = 1 / Gamma.

    Parameters
    ----------
    position
        Noisy events, in data units.
    target
        The target.
    log_snr, index
        Log-SNR and number of the level.
    signs
        Random signs of the shape of the events.
    num_probes
        Probes of the Laplacian; None: exact.
    """
    times = target.times(log_snr)
    scales = target.scales(times)
    total = jnp.zeros(())
    for name, model in target.score_models.items():
        if not isinstance(model, Leading):
            continue
        composition, power = model.composition, jnp.sum(model.composition.exponents)
        size = max(1, math.prod(model.event_shape))
        variance = power * scales[name] ** 2

        def rate(
            u: Array,
            signs: Array,
            model: Composition = composition,
            t: Array = times[name],
            variance: Array = variance,
            power: Array = power,
        ) -> Array:
            probes = None if num_probes is None else alternating_signs(signs, index, num_probes)
            found = score_fields(model, u, parts(model, u, t, probes), variance)
            squared = jnp.sum(found.pull**2) / variance
            return (found.laplacian + squared) / power - found.laplacian - found.disagreement

        events = position[name].reshape(-1, size), signs[name].reshape(-1, size)
        total += jnp.sum(jax.vmap(rate)(*events))
    return total


def leading_integral(
    position: Position, target: Target, log_snr: Array, data_scale: Array
) -> Array:
    """Log of the integral of the products of Gaussians that `Leading` sites are at high noise."""
    scales = target.scales(target.times(log_snr))
    total = jnp.zeros(())
    for name, model in target.score_models.items():
        if isinstance(model, Leading):
            power = jnp.sum(model.composition.exponents)
            variance = power * scales[name] ** 2 + data_scale**2
            each = (1.0 - power) * jnp.log(2 * jnp.pi * variance) - jnp.log(power)
            total += 0.5 * position[name].size * each
    return total


def alternating_signs(signs: Array, index: Array, num_probes: int) -> Array:
    """Return probes of the `index`-th level, shape ``(num_probes, d)``.

    A particle's signs times rows of a Hadamard matrix, one after another: each probe alone is as
    good as random signs, and the errors of as many in a row as d, rounded up to a power of two,
    cancel as far as the Jacobian has not changed: their outer products add up to a multiple of
    the identity.
    """
    order = 2 ** math.ceil(math.log2(max(signs.size, 1)))
    rows = (index * num_probes + jnp.arange(num_probes)) % order
    crossed = jnp.bitwise_and(rows[:, None], jnp.arange(signs.size))
    parity = jax.lax.population_count(crossed) % 2
    return signs * (1 - 2 * parity).astype(signs.dtype)
