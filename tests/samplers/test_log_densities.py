"""Log densities followed along paths, against exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl.compose import product
from scoreppl.samplers.log_densities import at_start, followed
from scoreppl.samplers.parts import Parts, parts
from scoreppl.samplers.reference import angle_ladder
from tests import problems
from tests.compose.laws import FIRST, SECOND


def shifted(dimension):
    """Two unequal mixtures under one schedule, and the size of their data."""
    if dimension == 1:
        return FIRST, SECOND
    first = problems.prior(dimension)
    components = problems.components(dimension)
    second = type(first)(
        components.means[::-1] + 0.5,
        covariances=components.covariances,
        weights=components.weights,
        noise=first.noise,
    )
    return first, second


def errors(dimension, num_levels, num_probes=None, num_paths=400, follow=None):
    """Error of the followed log ratio of two models at the lowest level, one a path."""
    first, second = shifted(dimension)
    model = product(first, second)
    ladder = angle_ladder(num_levels, 1.5, first_log_snr=-9.0, last_log_snr=6.0)
    scales = jnp.exp(-0.5 * ladder)

    def path(key):
        key_data, key_noise, key_signs = jax.random.split(key, 3)
        x = first.sample_exact(key_data, ())
        # Brownian motion in s^2, from data to noise, read backwards.
        steps = jnp.sqrt(jnp.diff(jnp.concatenate([jnp.zeros(1), scales[::-1] ** 2])))
        z = jax.random.normal(key_noise, (num_levels, dimension))
        events = (x + jnp.cumsum(steps[:, None] * z, 0))[::-1]

        def look(u, log_snr, key):
            probes = None
            if num_probes is not None:
                probes = jax.random.rademacher(key, (num_probes, dimension), float)
            return parts(model, u, model.noise.time(log_snr), probes)

        keys = jax.random.split(key_signs, num_levels)
        found = jax.vmap(look)(events, ladder, keys)
        means = look(jnp.zeros(dimension), ladder[0], keys[0]).denoised
        start = at_start(events[0], means, scales[0] ** 2 + 1.5**2)
        widths = jnp.concatenate([jnp.zeros(1), 0.5 * jnp.diff(ladder)])

        def step(known, inputs):
            u, denoised, traces, scale, width = inputs
            advance = followed if follow is None else follow
            return advance(known, u, Parts(denoised, traces), scale**2, width), None

        inputs = (events, found.denoised, found.traces, scales, widths)
        known, _ = jax.lax.scan(step, start, inputs)
        time = model.noise.time(ladder[-1])
        alpha, _ = model.noise(time)
        exact = first.log_prob(alpha * events[-1], time) - second.log_prob(alpha * events[-1], time)
        return known.value[0] - known.value[1] - exact

    return np.asarray(jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(0), num_paths)))


@pytest.mark.parametrize("dimension", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_the_followed_ratio_tends_to_the_exact_one(dimension):
    few, more, many = (np.sqrt((errors(dimension, n) ** 2).mean()) for n in (50, 100, 200))
    assert many < 0.03 * np.sqrt(dimension), (few, more, many)
    # Twice the levels leave less than two thirds of the error.
    assert more < 0.67 * few and many < 0.67 * more, (few, more, many)


@pytest.mark.slow
def test_probes_add_noise_but_no_bias():
    found = errors(8, 200, num_probes=1)
    assert abs(found.mean()) < 4 * found.std() / 20 + 0.02, (found.mean(), found.std())


@pytest.mark.parametrize("mutant", ["no rates", "half of the integral", "its start alone"])
def test_mutants_are_caught(mutant):
    def follow(known, u, found, variance, width):
        if mutant == "no rates":
            return followed(known, u, found, variance, 0.0 * width)
        moved = followed(known, u, found, variance, width)
        if mutant == "half of the integral":
            return moved._replace(value=0.5 * (known.value + moved.value))
        value = known.value + known.scores @ (u - known.u) + width * known.rates
        return moved._replace(value=value)

    assert np.sqrt((errors(1, 100, follow=follow) ** 2).mean()) > 0.2
