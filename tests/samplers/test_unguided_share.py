"""A defensive share of unguided paths: exact for the mixture, with bounded weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl.estimators.tails import psis
from scoreppl.guidance import Guided
from scoreppl.samplers import guided
from scoreppl.samplers.guided import guide
from tests.samplers.test_guided import LADDER, REFERENCE, TARGET, evidence, log_weight

COUNT, SHARE = 8_000, 0.25


def too_narrow(u, view):
    """Guide into the wrong direction by steps that are much too narrow."""
    denoised = view.denoise(u)
    narrowing = jnp.sqrt(0.4 * view.denoising_variance)[:, None] * jnp.eye(2)
    return Guided(denoised, denoised + jnp.array([-0.2, 0.1]), jnp.zeros(()), narrowing=narrowing)


def run(share, seed=0):
    key_theta, key_paths = jax.random.split(jax.random.key(seed))
    theta = jax.random.normal(key_theta, (COUNT,))
    log_proposal = -0.5 * theta**2 - 0.5 * jnp.log(2 * jnp.pi)
    start = {"x": jnp.zeros((COUNT, 2)), "theta": theta}

    @jax.jit
    def found():
        return guide(
            jax.random.split(key_paths, COUNT), start, log_proposal, TARGET, LADDER, REFERENCE,
            too_narrow, unguided_share=share,
        )  # fmt: skip

    return found(), log_proposal


def test_weights_are_exact_and_bounded():
    paths, log_proposal = run(SHARE)
    mean, error = estimate(paths)
    assert abs(mean - evidence()) < 4.5 * error  # false-alarm rate 7e-6
    assert error < 0.03 * evidence()
    # No more than the weight over the share, where it is the guided paths' alone that has no bound.
    most = jax.vmap(log_weight)(paths.position) - log_proposal - np.log(SHARE)
    assert np.all(np.asarray(paths.log_weight - most) < 1e-3)
    alone, log_proposal = run(0.0)
    most = jax.vmap(log_weight)(alone.position) - log_proposal - np.log(SHARE)
    assert np.any(np.asarray(alone.log_weight - most) > 1.0)
    assert psis(paths.log_weight)[1] < 0.5 < psis(alone.log_weight)[1]


def estimate(paths):
    weights = np.exp(np.asarray(paths.log_weight, float))
    return weights.mean(), weights.std(ddof=1) / np.sqrt(COUNT)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ratio, share: jnp.logaddexp(jnp.log(share), jnp.log1p(-share) + ratio),
        lambda ratio, share: -jnp.logaddexp(jnp.log1p(-share), jnp.log(share) - ratio),
        lambda ratio, share: ratio,
    ],
    ids=["mixture of weights", "shares exchanged", "guided ratio for all"],
)
def test_wrong_mixtures_are_caught(monkeypatch, wrong):
    error = estimate(run(SHARE)[0])[1]
    monkeypatch.setattr(guided, "log_mixture_ratio", wrong)
    assert abs(estimate(run(SHARE)[0])[0] - evidence()) > 6.0 * error
