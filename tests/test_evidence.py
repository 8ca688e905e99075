"""The evidence and its error from weights with known mean, and resampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp


def weights(seed, size=4_000, sd=0.8):
    """Log weights of a log-normal law of mean one."""
    return sd * np.random.default_rng(seed).standard_normal(size) - 0.5 * sd**2


def test_the_error_is_the_spread_of_repeated_estimates():
    found = [sp.estimators.log_evidence(3.0 + weights(seed)) for seed in range(200)]
    errors = np.array([value.log_evidence for value in found]) - 3.0
    stated = np.mean([value.standard_error for value in found])
    # 200 repetitions: the spread is known to 5 %, the mean to 7 % of it; five of each.
    assert abs(errors.std() / stated - 1) < 0.25
    assert abs(errors.mean()) < 5 * stated / np.sqrt(200) + 0.5 * stated**2
    exact = 1 / np.exp(0.8**2)
    assert abs(np.mean([value.ess for value in found]) / 4_000 / exact - 1) < 0.1


def test_the_shape_of_the_draws_and_large_weights_do_not_matter():
    flat = sp.estimators.log_evidence(weights(1))
    assert sp.estimators.log_evidence(weights(1).reshape(4, -1)) == flat
    shifted = sp.estimators.log_evidence(weights(1) - 5_000.0)
    np.testing.assert_allclose(shifted.log_evidence + 5_000.0, flat.log_evidence, atol=1e-9)
    np.testing.assert_allclose(shifted[1:3], flat[1:3], rtol=1e-9)


def test_draws_without_weight_count_in_the_mean():
    half = np.concatenate([weights(2), np.full(4_000, -np.inf)])
    found = sp.estimators.log_evidence(half).log_evidence
    np.testing.assert_allclose(
        found, sp.estimators.log_evidence(weights(2)).log_evidence - np.log(2), rtol=1e-9
    )


def test_heavy_tails_warn_and_few_effective_draws_are_refused():
    # Of 4,000 weights of tail index 1 about a hundred are effective, and their mean is infinite.
    tail = -np.log(np.random.default_rng(0).uniform(size=4_000))
    with pytest.warns(UserWarning, match="Pareto k is"):
        assert sp.estimators.log_evidence(tail).pareto_k > 0.7
    with pytest.raises(ValueError, match="sp.AnnealedScoreMCMC"):
        sp.estimators.log_evidence(30.0 * tail)


def test_resampled_draws_have_the_weighted_law():
    rng = np.random.default_rng(3)
    x = rng.standard_normal(20_000)
    values = {"x": jnp.asarray(x), "double": jnp.asarray(np.stack([2 * x, x], 1))}
    drawn = sp.estimators.resample(jax.random.key(0), values, 1.0 * x, 10_000)
    # exp(x) tilts N(0, 1) to N(1, 1); 20,000 weights of ESS share 0.37: five standard errors.
    assert abs(float(drawn["x"].mean()) - 1.0) < 5 / np.sqrt(7_000)
    assert abs(float(drawn["x"].std()) - 1.0) < 5 / np.sqrt(2 * 7_000)
    np.testing.assert_array_equal(drawn["double"][:, 0], 2 * drawn["x"])
    assert drawn["double"].shape == (10_000, 2)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.array([1.0]), "`log_weight` has 1 draws"),
        (np.array([0.0, np.nan]), "not a number"),
        (np.array([0.0, np.inf]), "infinite"),
        (np.full(5, -np.inf), "-inf for every draw"),
        (np.zeros(5), "Only 5.0 of 5 draws"),
    ],
)
def test_bad_weights_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        sp.estimators.log_evidence(bad)
    with pytest.raises(ValueError, match=message):
        sp.estimators.resample(jax.random.key(0), np.zeros(len(bad)), bad, 3)


def test_draws_of_a_chain_are_not_to_be_weighted_again():
    log_weight = np.random.default_rng(0).standard_normal(50)
    chain = {"x": np.repeat(np.arange(25.0), 2)[:, None], "s": np.repeat(np.arange(25.0), 2)}
    with pytest.warns(UserWarning, match="resample that of accept=None"):
        sp.estimators.resample(jax.random.key(0), chain, log_weight, 5)
    # Draws that were resampled before have the same weight where they are the same.
    sp.estimators.resample(jax.random.key(0), chain, np.repeat(log_weight[:25], 2), 5)


def test_bad_arguments_of_resample_are_named():
    with pytest.raises(ValueError, match="`num_samples=2.5` must be an integer"):
        sp.estimators.resample(jax.random.key(0), np.zeros(50), np.zeros(50), 2.5)
    with pytest.raises(ValueError, match="`num_samples=0`"):
        sp.estimators.resample(jax.random.key(0), np.zeros(50), np.zeros(50), 0)
    with pytest.raises(ValueError, match=r"leading axes of \[3\]"):
        sp.estimators.resample(jax.random.key(0), np.zeros(3), np.zeros(50), 5)
