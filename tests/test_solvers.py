"""The solvers against exact Gaussian laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl import noise
from scoreppl.analytic import GaussianMixture
from scoreppl.solvers import ancestral, multistep
from tests.networks import EVERY_SCHEDULE, SCHEDULES

DRAWS = 20_000
MEAN = np.array([1.5, -0.4, 0.0])
SCALE = np.array([0.3, 1.0, 0.0])  # the last entry is a point mass


def gaussian_denoiser(schedule):
    """Return E[x_0 | x_t] of independent normals N(MEAN, SCALE^2)."""

    def denoise(x, t):
        alpha, sigma = schedule(t)
        gain = alpha * SCALE**2 / (alpha**2 * SCALE**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return denoise


def draw(schedule, times, seed):
    """Draw x at times[-1] from exact draws of x at times[0]."""
    alpha, sigma = schedule(times[0])
    key_start, key_solver = jax.random.split(jax.random.key(seed))
    start = jax.random.normal(key_start, (DRAWS, 3))
    start = alpha * MEAN + jnp.sqrt(alpha**2 * SCALE**2 + sigma**2) * start
    denoise = gaussian_denoiser(schedule)
    solve = jax.jit(jax.vmap(lambda key, x: ancestral(key, x, times, denoise, schedule)))
    return solve(jax.random.split(key_solver, DRAWS), start)


def exact_law(schedule, times):
    """Mean and variance of the solver's output, from the joint law of a forward step.

    Given x_t and x_0 = D the step draws from q(x_s | x_t, x_0), whose mean and variance follow
    here by conditioning the forward chain x_0 -> x_s -> x_t, in float64.
    """
    alphas, sigmas = (np.asarray(value, np.float64) for value in schedule(times))
    mean = alphas[0] * MEAN
    variance = alphas[0] ** 2 * SCALE**2 + sigmas[0] ** 2
    for (a_t, a_s), (s_t, s_s) in zip(
        zip(alphas, alphas[1:], strict=False), zip(sigmas, sigmas[1:], strict=False), strict=True
    ):
        ratio = a_t / a_s  # x_t = ratio x_s + noise of the variance that makes up s_t
        regression = ratio * s_s**2 / s_t**2  # Cov(x_s, x_t | x_0) / Var(x_t | x_0)
        noise_variance = s_s**2 * (1 - ratio**2 * s_s**2 / s_t**2)
        gain = a_t * SCALE**2 / (a_t**2 * SCALE**2 + s_t**2)
        # x_s = a_s D + regression (x_t - a_t D) + noise, D = MEAN + gain (x_t - a_t MEAN)
        slope = regression + (a_s - regression * a_t) * gain
        shift = (a_s - regression * a_t) * (MEAN - gain * a_t * MEAN)
        mean, variance = slope * mean + shift, slope**2 * variance + noise_variance
    return mean, variance


def assert_moments(draws, mean, variance, allowance=0.0):
    # Five standard errors of the mean and of the variance of normals, 6 entries: false-alarm rate
    # 6 * 5.7e-7 = 3.4e-6 a call. Rounding adds 1e-5.
    draws = np.asarray(draws, np.float64)
    scale = np.sqrt(variance)
    errors = np.abs(draws.mean(0) - mean)
    assert np.all(errors <= 5 * scale / np.sqrt(DRAWS) + 1e-5 + allowance * scale)
    errors = np.abs(draws.var(0) - variance)
    assert np.all(errors <= (5 * np.sqrt(2 / DRAWS) + 1e-5 + allowance) * variance + 1e-9)


@EVERY_SCHEDULE
def test_coarse_steps_have_the_exact_law_of_the_posterior_step(schedule):
    t_max = 0.95 if isinstance(schedule, noise.FlowMatching) else 1.0
    times = noise.time_grid(schedule, 4, t_min=0.02, t_max=t_max)
    assert_moments(draw(schedule, times, seed=1), *exact_law(schedule, times))


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("name", ["VPLinear", "VE", "FlowMatching"])
def test_fine_steps_have_the_law_of_the_prior(name, seed):
    schedule = SCHEDULES[name]
    times = noise.time_grid(schedule, 300, t_min=0.02)
    alpha, sigma = (np.asarray(value, np.float64) for value in schedule(times[-1]))
    # 1 % for the discretisation, which halves with the step: see the next test.
    draws = draw(schedule, times, seed)
    assert_moments(draws, alpha * MEAN, alpha**2 * SCALE**2 + sigma**2, allowance=0.01)


def test_discretisation_error_halves_with_the_step():
    # By the recursion alone: it is what the solver obeys, by the test of coarse steps.
    schedule = SCHEDULES["VPLinear"]
    alpha, sigma = (np.asarray(value, np.float64) for value in schedule(0.02))
    exact = alpha**2 * SCALE[:2] ** 2 + sigma**2
    errors = [
        exact_law(schedule, np.linspace(1, 0.02**0.25, steps + 1) ** 4)[1][:2] / exact - 1
        for steps in (100, 200, 400)
    ]
    np.testing.assert_allclose(errors[1] / errors[0], 0.5, atol=0.03)
    np.testing.assert_allclose(errors[2] / errors[1], 0.5, atol=0.03)


@EVERY_SCHEDULE
def test_zero_noise_at_the_end_returns_the_denoised_event(schedule):
    times = jnp.array([0.9, 0.4, 0.0])
    target = jnp.array([2.0, -1.0])
    x = ancestral(jax.random.key(0), jnp.ones(2), times, lambda x, t: target, schedule)
    _, sigma = schedule(0.0)
    # Six standard deviations of the noise left at t = 0: false-alarm rate 4e-9.
    np.testing.assert_allclose(x, schedule(0.0)[0] * target, atol=6 * float(sigma) + 1e-6)


def test_zero_signal_at_the_start_is_finite():
    times = jnp.array([1.0, 0.5, 0.1])
    schedule = noise.FlowMatching()
    x = ancestral(jax.random.key(0), jnp.ones(2), times, lambda x, t: jnp.zeros(2), schedule)
    assert np.all(np.isfinite(x))


def test_denoiser_is_called_once_a_step_at_the_earlier_time():
    times = jnp.array([1.0, 0.6, 0.3, 0.1])
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return 0.5 * x

    ancestral(jax.random.key(0), jnp.ones(2), times, denoise, noise.VPLinear())
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(calls, reverse=True), times[:-1])


def test_the_key_decides_and_vmap_is_a_loop():
    schedule, times = noise.VPLinear(), jnp.array([1.0, 0.6, 0.3, 0.1])
    denoise = gaussian_denoiser(schedule)

    @jax.jit
    def solve(key, x):
        return ancestral(key, x, times, denoise, schedule)

    keys, x = jax.random.split(jax.random.key(4), 3), jnp.arange(9.0).reshape(3, 3)
    loop = jnp.stack([solve(key, event) for key, event in zip(keys, x, strict=True)])
    np.testing.assert_allclose(jax.vmap(solve)(keys, x), loop, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(solve(keys[0], x[0]), loop[0])
    assert not np.any(solve(keys[1], x[0]) == loop[0])


def test_times_that_increase_give_nan():
    x = ancestral(
        jax.random.key(0), jnp.ones(2), jnp.array([0.2, 0.5]), lambda x, t: x, noise.VPLinear()
    )
    assert np.all(np.isnan(x))


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_events_of_any_shape_and_networks_of_low_precision(shape):
    times = [0.9, 0.5, 0.1]
    x = ancestral(
        jax.random.key(0),
        np.ones(shape, np.int32),
        times,
        lambda x, t: (0.5 * x).astype(jnp.bfloat16),
        noise.VPLinear(),
    )
    assert x.shape == shape and x.dtype == jnp.float32
    assert np.all(np.isfinite(x))


@pytest.mark.parametrize("num_steps", [10, 20])
def test_multistep_beats_ancestral_on_the_spread_of_a_normal(num_steps):
    # The mean of x_0 is linear in the steps and the draws use the same keys, so the two spreads
    # are compared draw for draw; 4,000 draws leave each a relative error of 1.1 %, and ancestral
    # steps are short by more than 20 % here.
    model = GaussianMixture(jnp.zeros((1, 1)), scales=1.0)

    def spread(solver):
        draws = model.sample(
            jax.random.key(0), (4000,), num_steps=num_steps, solver=solver, spacing="logsnr"
        )
        return float(jnp.std(draws))

    short, better = spread(ancestral), spread(multistep)
    assert abs(better - 1) < 0.5 * abs(short - 1)
