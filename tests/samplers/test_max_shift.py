"""The bound on a guidance's shifts: shorter steps, exact weights for the steps taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl.guidance import Guided
from scoreppl.samplers.guided import guide
from scoreppl.samplers.smc import effective_sample_size
from tests.samplers.test_guided import LADDER, REFERENCE, TARGET, evidence


@pytest.mark.parametrize("narrowing", [None, jnp.zeros((2, 1))])
def test_long_shifts_are_shortened_and_weighted_for_what_they_are(narrowing):
    """By a guidance that overshoots by twenty standard deviations, but points the right way."""

    def overshooting(u, view):
        denoised = view.denoise(u)
        away = jnp.array([20.0, 20.0]) * jnp.sign(u[0])
        return Guided(denoised, denoised + away, jnp.zeros(()), narrowing=narrowing)

    def run(key, max_shift):
        count, (key_theta, key_paths) = 4_000, jax.random.split(key)
        theta = jax.random.normal(key_theta, (count,))
        log_proposal = -0.5 * theta**2 - 0.5 * jnp.log(2 * jnp.pi)
        start = {"x": jnp.zeros((count, 2)), "theta": theta}
        return guide(
            jax.random.split(key_paths, count), start, log_proposal, TARGET, LADDER, REFERENCE,
            overshooting, None, max_shift,
        )  # fmt: skip

    bounded = jax.jit(run)(jax.random.key(0), 0.2)
    weights = np.exp(np.asarray(bounded.log_weight, float))
    error = weights.std(ddof=1) / np.sqrt(len(weights))
    # Four and a half standard errors: false-alarm rate 7e-6.
    assert abs(weights.mean() - evidence()) < 4.5 * error and error < 0.1 * evidence()
    # Six steps, each paid for by at most a fifth in each of two coordinates.
    free = jax.jit(run)(jax.random.key(0), np.inf)
    assert float(effective_sample_size(free.log_weight)) < 20
