"""Warm-up: step size, mass matrix, what the flags leave alone, and what the end freezes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from scoreppl.mcmc import hmc
from scoreppl.mcmc.adaptation import window_adaptation

COVARIANCE = np.array([[1.0, 0.4, 0.0], [0.4, 0.25, 0.03], [0.0, 0.03, 0.04]])
# Stan's windows of a warm-up of 150: 75 fast, one slow window of 25, 50 fast.
LAST_WINDOW = slice(75, 100)


def run_updates(adaptation, positions, rates, step_size=0.3, mass=None):
    """Feed given positions and acceptance rates; return the state after every update."""
    mass = jnp.ones(positions.shape[1]) if mass is None else mass

    def body(state, inputs):
        state = adaptation.update(state, *inputs)
        return state, state

    start = adaptation.init(jnp.asarray(step_size), mass)
    inputs = (jnp.arange(len(positions)), positions, rates)
    return jax.jit(lambda: jax.lax.scan(body, start, inputs))()


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mass_matrix_is_the_covariance_of_the_last_window(dense, seed):
    rng = np.random.default_rng(seed)
    positions = rng.multivariate_normal(np.array([5.0, -1.0, 0.2]), COVARIANCE, 150)
    adaptation = window_adaptation(150, target_acceptance_rate=0.8, dense_mass=dense)
    start = jnp.eye(3) if dense else jnp.ones(3)
    final, path = run_updates(
        adaptation, jnp.asarray(positions, jnp.float32), jnp.full(150, 0.8), mass=start
    )
    sample = np.cov(positions[LAST_WINDOW].T)
    # Stan's shrinkage: five imaginary draws of variance 1e-3.
    shrunk = 25 / 30 * sample + 1e-3 * 5 / 30 * np.eye(3)
    expected = shrunk if dense else np.diag(shrunk)
    np.testing.assert_allclose(final.inverse_mass_matrix, expected, rtol=1e-3, atol=1e-4)
    # Nothing before the window has ended, nothing after it.
    np.testing.assert_array_equal(path.inverse_mass_matrix[98], start)
    assert bool((path.inverse_mass_matrix[99:] == final.inverse_mass_matrix).all())


def test_later_windows_forget_earlier_ones():
    # A warm-up of 500: windows of 25, 50 and then 300 up to the last 50.
    rng = np.random.default_rng(2)
    positions = rng.normal(size=(500, 3)) * np.array([0.1, 1.0, 10.0])
    positions[:150] *= 100.0
    final, _ = run_updates(
        window_adaptation(500, target_acceptance_rate=0.8),
        jnp.asarray(positions, jnp.float32),
        jnp.full(500, 0.8),
    )
    # 300 draws: relative standard error (2 / 300)**0.5 = 8 %; 0.4 is five of them.
    np.testing.assert_allclose(final.inverse_mass_matrix, [0.01, 1.0, 100.0], rtol=0.4)


def test_the_last_update_freezes_the_averaged_step_size():
    rng = np.random.default_rng(3)
    positions = jnp.asarray(rng.normal(size=(150, 2)), jnp.float32)
    rates = jnp.asarray(rng.uniform(0.3, 1.0, 150), jnp.float32)
    final, path = run_updates(window_adaptation(150, target_acceptance_rate=0.65), positions, rates)
    averaged = np.exp(np.asarray(path.dual_averaging.log_step_size_avg))
    current = np.exp(np.asarray(path.dual_averaging.log_step_size))
    np.testing.assert_allclose(final.step_size, averaged[-1], rtol=1e-6)
    assert abs(averaged[-1] / current[-1] - 1) > 1e-3  # else the line above shows nothing
    inside = np.r_[0:99, 100:149]  # the end of the window restarts from the average
    np.testing.assert_allclose(path.step_size[inside], current[inside], rtol=1e-5)


def test_the_step_size_follows_the_acceptance():
    positions = jnp.zeros((100, 2))
    for rate, sign in ((0.99, 1), (0.1, -1)):
        final, _ = run_updates(
            window_adaptation(100, target_acceptance_rate=0.6, adapt_mass_matrix=False),
            positions,
            jnp.full(100, rate),
        )
        assert sign * np.log(final.step_size / 0.3) > 1.0


def test_flags_leave_things_alone():
    rng = np.random.default_rng(4)
    positions = jnp.asarray(rng.normal(size=(150, 2)) * 3, jnp.float32)
    rates = jnp.full(150, 0.9)
    mass = jnp.array([2.0, 0.5])

    def final(**flags):
        adaptation = window_adaptation(150, target_acceptance_rate=0.6, **flags)
        return run_updates(adaptation, positions, rates, mass=mass)[0]

    fixed = final(adapt_step_size=False, adapt_mass_matrix=False)
    assert float(fixed.step_size) == np.float32(0.3)
    np.testing.assert_array_equal(fixed.inverse_mass_matrix, mass)
    only_step = final(adapt_mass_matrix=False)
    assert float(only_step.step_size) > 0.5
    np.testing.assert_array_equal(only_step.inverse_mass_matrix, mass)
    only_mass = final(adapt_step_size=False)
    assert float(only_mass.step_size) == np.float32(0.3)
    assert float(only_mass.inverse_mass_matrix[0]) > 4.0


def test_a_short_warm_up_adapts_the_step_size_only():
    rng = np.random.default_rng(5)
    positions = jnp.asarray(rng.normal(size=(19, 2)) * 3, jnp.float32)
    final, _ = run_updates(
        window_adaptation(19, target_acceptance_rate=0.6), positions, jnp.full(19, 0.95)
    )
    np.testing.assert_array_equal(final.inverse_mass_matrix, np.ones(2))
    assert float(final.step_size) > 0.4


# In a chain.


def gaussian_chains(num_warmup, num_samples, **options):
    """Warm up 32 one-step HMC chains on a correlated Gaussian.

    One step, because the acceptance of several steps on a Gaussian does not fall with the step
    size: it is 1 again wherever the trajectory closes. Returns the tuning and the acceptance
    rates of the warm-up and after it.
    """
    precision = jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32)
    adaptation = window_adaptation(num_warmup, **options)
    mass = jnp.eye(3) if options.get("dense_mass") else jnp.ones(3)

    def algorithm(tuning):
        return hmc(
            lambda x: -precision @ x,
            lambda x: jnp.zeros(()),
            step_size=tuning.step_size,
            inverse_mass_matrix=tuning.inverse_mass_matrix,
            num_integration_steps=1,
        )

    def chain(key):
        def body(carry, inputs):
            index, key = inputs
            state, tuning = carry
            state, info = algorithm(tuning).step(key, state)
            rate = info.acceptance_rate
            tuning = jax.lax.cond(
                index < num_warmup,
                lambda: adaptation.update(tuning, index, state.position, rate),
                lambda: tuning,
            )
            return (state, tuning), rate

        tuning = adaptation.init(jnp.asarray(0.1), mass)
        state = algorithm(tuning).init(jnp.zeros(3))
        total = num_warmup + num_samples
        inputs = (jnp.arange(total), random.split(key, total))
        (_, tuning), rates = jax.lax.scan(body, (state, tuning), inputs)
        return tuning, rates

    tuning, rates = jax.jit(jax.vmap(chain))(random.split(random.key(6), 32))
    return tuning, rates[:, :num_warmup], rates[:, num_warmup:]


@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_the_target_acceptance_is_reached_and_the_covariance_found(rate):
    tuning, warm, after = gaussian_chains(1000, 200, target_acceptance_rate=rate, dense_mass=True)
    # Dual averaging drives the mean over a stretch of the warm-up to the target: the last slow
    # window without its start. 32 * 400 rates of standard deviation 0.4: error below 0.01.
    assert float(warm[:, 550:950].mean()) == pytest.approx(rate, abs=0.03)
    # The step size that is kept is the geometric mean of those that were tried, and acceptance is
    # concave around it: up to a tenth above the target, as in Stan.
    assert rate - 0.03 < float(after.mean()) < rate + 0.15
    # Relative to the covariance. The last window has 500 transitions of autocorrelation time
    # about 8, so one chain's error is (2 / 60)**0.5 = 18 %, their mean's 3 %; the bias of a
    # sample variance of 60 effective draws and of the shrinkage is 3 %.
    root = np.linalg.inv(np.linalg.cholesky(COVARIANCE))
    whitened = root @ np.asarray(tuning.inverse_mass_matrix, float).mean(0) @ root.T
    np.testing.assert_allclose(whitened, np.eye(3), atol=0.2)


# Bad input.


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_an_impossible_target_acceptance_is_refused(rate):
    with pytest.raises(ValueError, match="target_accept_prob"):
        window_adaptation(100, target_acceptance_rate=rate)


@pytest.mark.parametrize(
    ("dense", "shape"), [(False, (3, 3)), (True, (3,)), (True, (3, 2)), (False, (3, 2))]
)
def test_a_mass_matrix_of_the_wrong_shape_is_refused(dense, shape):
    adaptation = window_adaptation(100, target_acceptance_rate=0.8, dense_mass=dense)
    with pytest.raises(ValueError, match="inverse_mass_matrix.*dense_mass"):
        adaptation.init(jnp.asarray(0.1), jnp.ones(shape))
