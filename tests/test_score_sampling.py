"""Score models beyond the score: Tweedie covariance and reverse diffusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl import noise, solvers
from scoreppl.score import (
    ScoreNetwork,
    from_denoised,
    reverse_diffusion,
    tweedie_covariance,
    tweedie_covariance_product,
)
from tests.networks import (
    EVENT,
    MEAN,
    SCALE,
    X,
    network,
    reference,
)

# Tweedie's covariance

COVARIANCE = np.array([[0.6, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 1.1]])


def correlated_normal(params, x, t, condition):
    alpha, sigma = noise.VPLinear()(t)
    total = alpha**2 * COVARIANCE + sigma**2 * jnp.eye(3)
    return alpha * COVARIANCE @ jnp.linalg.solve(total, x)


@pytest.mark.parametrize("t", [0.05, 0.4, 0.8])
def test_tweedie_covariance_of_a_normal(t):
    model = ScoreNetwork(
        correlated_normal, None, noise=noise.VPLinear(), prediction="x0", event_shape=(3,)
    )
    alpha, variance = reference(t)[2:]
    total = alpha**2 * COVARIANCE + variance * np.eye(3)
    exact = COVARIANCE - alpha**2 * COVARIANCE @ np.linalg.solve(total, COVARIANCE)
    x = np.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(tweedie_covariance(model, x, t), exact, rtol=1e-4, atol=1e-5)
    vector = np.array([1, -2, 1])
    product = tweedie_covariance_product(model, x, t, vector)
    np.testing.assert_allclose(product, exact @ vector, rtol=1e-4, atol=1e-5)


def test_tweedie_covariance_keeps_the_event_shape_and_the_asymmetry():
    matrix = jnp.arange(16.0).reshape(4, 4)
    model = ScoreNetwork(
        lambda params, x, t, condition: (matrix @ x.ravel()).reshape(2, 2),
        None,
        noise=noise.FlowMatching(),
        prediction="x0",
        event_shape=(2, 2),
    )
    covariance = tweedie_covariance(model, X, 0.25)
    assert covariance.shape == (2, 2, 2, 2)
    np.testing.assert_allclose(covariance.reshape(4, 4), 0.25**2 / 0.75 * matrix, rtol=1e-5)
    product = tweedie_covariance_product(model, X, 0.25, X)
    np.testing.assert_allclose(product, jnp.tensordot(covariance, X, 2), rtol=1e-5)


def test_tweedie_covariance_of_a_scalar_event():
    model = ScoreNetwork(
        lambda params, x, t, condition: 0.5 * x,
        None,
        noise=noise.FlowMatching(),
        prediction="x0",
        event_shape=(),
    )
    covariance = tweedie_covariance(model, 3.0, 0.25)
    assert covariance.shape == ()
    np.testing.assert_allclose(covariance, 0.5 * 0.25**2 / 0.75, rtol=1e-6)


# Reverse diffusion


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("prediction", ["v", "energy"])
def test_sample_has_the_law_of_the_data(prediction, seed):
    count = 10_000
    draws = network(prediction).sample(jax.random.key(seed), (count,), num_steps=200)
    assert draws.shape == (count, 2, 2) and draws.dtype == jnp.float32
    draws = np.asarray(draws, np.float64)
    # Five standard errors, 4 entries of two moments: false-alarm rate 8 * 5.7e-7 = 5e-6. On top:
    # alpha_1 = 0.0066 of the mean is neglected at the start and mostly forgotten, and 200 steps
    # with a last denoising at sigma = 0.018 err by less than 2 % of the variance here.
    assert np.all(np.abs(draws.mean(0) - MEAN) < (5 / np.sqrt(count) + 0.01) * SCALE)
    assert np.all(np.abs(draws.var(0) / SCALE**2 - 1) < 5 * np.sqrt(2 / count) + 0.02)


@pytest.mark.parametrize("prediction", ["epsilon", "score", "velocity"])
def test_sample_under_a_schedule_without_signal_at_the_start(prediction):
    schedule, count = noise.FlowMatching(), 5_000

    def apply_fn(params, x, t, condition):  # the data are N(3, 0.5^2)
        alpha, sigma = schedule(t)
        gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
        denoised = 3 + gain * (x - 3 * alpha)
        return from_denoised(prediction, denoised, x, t, schedule)

    model = ScoreNetwork(apply_fn, None, noise=schedule, prediction=prediction, event_shape=())
    draws = model.sample(jax.random.key(7), (count,), num_steps=100)
    # Five standard errors: false-alarm rate 2 * 5.7e-7 a prediction; 4 % for the discretisation.
    assert abs(draws.mean() - 3) < 0.5 * (5 / np.sqrt(count) + 0.01)
    assert abs(draws.var() / 0.25 - 1) < 5 * np.sqrt(2 / count) + 0.04


def test_sample_evaluates_the_network_num_steps_times():
    times = []

    def apply_fn(params, x, t, condition):
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return 0.5 * x

    model = ScoreNetwork(
        apply_fn, None, noise=noise.VPLinear(), prediction="x0", event_shape=(2,), min_time=0.125
    )
    for num_steps, expected in [(1, [1.0]), (2, [1.0, 0.125]), (3, [1.0, 0.5625, 0.125])]:
        times.clear()
        draw = model.sample(jax.random.key(0), num_steps=num_steps, spacing="uniform")
        jax.effects_barrier()
        assert draw.shape == (2,)
        np.testing.assert_allclose(sorted(times, reverse=True), expected, rtol=1e-6)


def test_sample_takes_the_times_themselves():
    times = []

    def apply_fn(params, x, t, condition):
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return 0.5 * x

    model = ScoreNetwork(
        apply_fn, None, noise=noise.VPLinear(), prediction="x0", event_shape=(2,), min_time=0.125
    )
    model.sample(jax.random.key(0), num_steps=3, spacing=(0.75, 0.5, 0.25))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(times, reverse=True), [0.75, 0.5, 0.25], rtol=1e-6)
    grid = noise.time_grid(model.noise, 3, spacing="karras", t_min=model.min_time)
    given, named = (
        model.sample(jax.random.key(1), (3,), num_steps=4, spacing=s) for s in (grid, "karras")
    )
    np.testing.assert_array_equal(given, named)


@pytest.mark.parametrize(
    "spacing, message",
    [
        ((1.0, 0.5, 0.1), r"of shape \(3,\).*must have one for each.*`num_steps=2`"),
        ((0.5, 0.5), "must decrease from at most 1 to `min_time="),
        ((1.1, 0.5), "must decrease from at most 1"),
        ((0.5, 0.0), "must decrease from at most 1"),
        ((0.5, float("nan")), "must decrease from at most 1"),
    ],
)
def test_sample_names_bad_times(spacing, message):
    with pytest.raises(ValueError, match=message):
        network("v").sample(jax.random.key(0), num_steps=2, spacing=spacing)


def test_sample_uses_the_solver_it_is_given():
    model = network("epsilon")
    draw = model.sample(
        jax.random.key(0), (3,), num_steps=5, solver=lambda key, x, times, denoise, noise: 0 * x
    )
    expected = jnp.stack([model.denoise(jnp.zeros(EVENT), model.min_time)] * 3)
    np.testing.assert_allclose(draw, expected, rtol=1e-5)


def test_sample_shapes_and_keys():
    model = network("v")
    key = jax.random.key(3)
    few, many = (model.sample(key, (count,), num_steps=4) for count in (2, 5))
    # A draw depends on the key and its place, not on how many are drawn with it.
    np.testing.assert_allclose(few, many[:2], rtol=1e-5, atol=1e-6)
    assert len(np.unique(many[:, 0, 0])) == 5
    assert model.sample(key, (0, 3), num_steps=4).shape == (0, 3, 2, 2)
    square = model.sample(key, (5, 1), num_steps=4)
    np.testing.assert_allclose(square[:, 0], many, rtol=1e-5, atol=1e-6)


def test_sample_takes_models_that_are_no_pytrees():
    class Wrapper:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

    inner = network("v")
    draws = reverse_diffusion(Wrapper(inner), jax.random.key(0), (2,), num_steps=4)
    expected = inner.sample(jax.random.key(0), (2,), num_steps=4)
    np.testing.assert_allclose(draws, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_steps": 0}, "`num_steps=0` must be at least 1"),
        ({"sample_shape": 3}, "`sample_shape=3` must be a tuple of sizes"),
        ({"spacing": "linear"}, "`spacing='linear'` is not known"),
        ({"solver": "ddim"}, "`solver='ddim'` is not callable"),
        ({"solver": solvers.ddim}, r"add parentheses: `solver=ddim\(\)`"),
        ({"solver": solvers.dpm_solver}, r"add parentheses: `solver=dpm_solver\(\)`"),
        ({"solver": solvers.Heun}, "`solver=Heun` is a class: add parentheses"),
        ({"solver": lambda key, x: x}, r"does not take \(key, x, times, denoise, noise\)"),
    ],
)
def test_sample_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        network("v").sample(jax.random.key(0), **arguments)
