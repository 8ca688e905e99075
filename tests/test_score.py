"""Score networks: every prediction against the exact score of a normal, shapes, transformations."""

import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl import noise
from scoreppl.score import (
    PREDICTIONS,
    ScoreModel,
    ScoreNetwork,
    from_denoised,
    reverse_diffusion,
    to_denoised,
    to_epsilon,
    tweedie_covariance,
    tweedie_covariance_product,
)

SCHEDULES = {
    "VPLinear": noise.VPLinear(),
    "VPCosine": noise.VPCosine(),
    "VE": noise.VE(0.01, 20.0),
    "EDM": noise.EDM(),
    "FlowMatching": noise.FlowMatching(),
    "DiscreteVP": noise.DiscreteVP.scaled_linear(),
}
EVERY_SCHEDULE = pytest.mark.parametrize(
    "schedule", [pytest.param(schedule, id=name) for name, schedule in SCHEDULES.items()]
)
SIGMA_DATA = 0.8
MEAN = np.array([[0.7, -1.2], [0.1, 2.0]])
SCALE = np.array([[0.5, 1.0], [1.5, 0.2]])
PARAMS = {"mean": jnp.float32(MEAN), "scale": jnp.float32(SCALE)}
EVENT = (2, 2)
X = jnp.array([[0.3, -0.9], [1.4, 1.1]])


# Networks that know the law N(mean, scale^2) of the data, on the linear schedule. Each is written
# from the definition of its prediction and shares no code with the package's conversions.


def _exact(params, x, t):
    alpha, sigma = noise.VPLinear()(t)
    residual = x - alpha * params["mean"]
    variance = alpha**2 * params["scale"] ** 2 + sigma**2
    data = params["mean"] + alpha * params["scale"] ** 2 * residual / variance
    return alpha, sigma, residual, variance, data, sigma * residual / variance


def epsilon(params, x, t, condition):
    return _exact(params, x, t)[5]


def v(params, x, t, condition):
    alpha, sigma, _, _, data, eps = _exact(params, x, t)
    return alpha * eps - sigma * data


def x0(params, x, t, condition):
    return _exact(params, x, t)[4]


def score(params, x, t, condition):
    _, _, residual, variance, _, _ = _exact(params, x, t)
    return -residual / variance


def velocity(params, x, t, condition):
    alpha, sigma, _, _, data, eps = _exact(params, x, t)
    beta = 0.1 + 19.9 * t  # d alpha / dt = -beta alpha / 2, d sigma / dt = beta alpha^2 / (2 sigma)
    return beta / 2 * (alpha**2 / sigma * eps - alpha * data)


def edm(params, x, t, condition):
    alpha, sigma, _, _, data, _ = _exact(params, x, t)
    ratio = sigma / alpha
    skip = SIGMA_DATA**2 / (ratio**2 + SIGMA_DATA**2)
    return (data - skip * x / alpha) * jnp.sqrt(ratio**2 + SIGMA_DATA**2) / (ratio * SIGMA_DATA)


def energy(params, x, t, condition):
    _, _, residual, variance, _, _ = _exact(params, x, t)
    return -0.5 * jnp.sum(residual**2 / variance)


NETWORKS = {f.__name__: f for f in (epsilon, v, x0, score, velocity, edm, energy)}
EVERY_PREDICTION = pytest.mark.parametrize("prediction", PREDICTIONS)


def network(prediction, **changes):
    arguments = {
        "noise": noise.VPLinear(),
        "prediction": prediction,
        "event_shape": EVENT,
        "sigma_data": SIGMA_DATA,
    }
    return ScoreNetwork(NETWORKS[prediction], PARAMS, **(arguments | changes))


def reference(t):
    """Score and denoiser in float64."""
    integral = 0.1 * t + 19.9 * t**2 / 2
    alpha, variance = np.exp(-integral / 2), -np.expm1(-integral)
    residual = np.asarray(X, np.float64) - alpha * MEAN
    total = alpha**2 * SCALE**2 + variance
    return -residual / total, MEAN + alpha * SCALE**2 * residual / total, alpha, variance


@EVERY_PREDICTION
@pytest.mark.parametrize("t", [2.0**-8, 0.0625, 0.5, 1.0])
def test_every_prediction_gives_the_exact_score_and_denoiser(prediction, t):
    exact_score, exact_denoised, alpha, variance = reference(t)
    model = network(prediction)
    # Rounding, 6e-8 a step: a network of x0 or F itself holds the score times sigma^2 only as a
    # difference of numbers of order 1; a denoiser made of the score at small alpha, the converse.
    atol = 2e-6 / variance if prediction in ("x0", "edm", "velocity") else 1e-5
    np.testing.assert_allclose(model.score(X, t), exact_score, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(model.denoise(X, t), exact_denoised, rtol=1e-5, atol=2e-6 / alpha)


@EVERY_PREDICTION
def test_energy_alone_has_a_density(prediction):
    model = network(prediction)
    assert model.has_log_density == (prediction == "energy")
    if model.has_log_density:
        exact = -0.5 * np.sum(reference(0.5)[0] ** 2 * _total_variance(0.5))
        np.testing.assert_allclose(model.log_prob(X, 0.5), exact, rtol=1e-5)
    else:
        with pytest.raises(ValueError, match=f"this one predicts '{prediction}'"):
            model.log_prob(X, 0.5)


def _total_variance(t):
    _, _, alpha, variance = reference(t)
    return alpha**2 * SCALE**2 + variance


CONVERTED = [name for name in PREDICTIONS if name != "energy"]


@EVERY_SCHEDULE
@pytest.mark.parametrize("t", [0.07, 0.5, 0.93])
def test_round_trips_between_every_pair_of_predictions(schedule, t):
    keys = jax.random.split(jax.random.key(5), 2)
    denoised = jax.random.normal(keys[0], (4,))
    alpha, sigma = schedule(t)
    x = alpha * denoised + sigma * jax.random.normal(keys[1], (4,))
    arguments = (x, t, schedule, SIGMA_DATA)
    # Rounding of x (6e-8 |x|) reaches D over alpha, and eps over sigma.
    ratio = float(sigma / alpha)
    tolerance = 3e-6 * (1 + ratio) * (1 + 1 / ratio)
    outputs = {name: from_denoised(name, denoised, *arguments) for name in CONVERTED}
    for first, second in itertools.product(CONVERTED, repeat=2):
        there = to_denoised(first, outputs[first], *arguments)
        np.testing.assert_allclose(there, denoised, atol=tolerance)
        output = from_denoised(second, there, *arguments)
        scale = 1 + float(jnp.abs(outputs[second]).max())
        np.testing.assert_allclose(output, outputs[second], atol=tolerance * scale)
        back = to_denoised(second, output, *arguments)
        np.testing.assert_allclose(back, denoised, atol=tolerance)
        eps = to_epsilon(first, outputs[first], *arguments)
        np.testing.assert_allclose(alpha * denoised + sigma * eps, x, atol=tolerance * scale)


@EVERY_SCHEDULE
def test_velocity_is_the_time_derivative_of_the_noisy_event(schedule):
    data, eps, t = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.7]), 0.4

    def noisy(t):
        alpha, sigma = schedule(t)
        return alpha * data + sigma * eps

    exact = jax.jvp(noisy, (t,), (1.0,))[1]
    np.testing.assert_allclose(
        from_denoised("velocity", data, noisy(t), t, schedule), exact, rtol=1e-4, atol=1e-4
    )


def test_predictions_that_are_regular_at_the_ends_stay_finite_there():
    schedule, x, output = noise.FlowMatching(), jnp.ones(3), jnp.full(3, 0.5)
    for prediction in ("v", "x0", "velocity", "edm"):  # no signal at t = 1
        assert np.all(np.isfinite(to_denoised(prediction, output, x, 1.0, schedule)))
    for prediction in CONVERTED:
        assert np.all(np.isfinite(to_epsilon(prediction, output, x, 1.0, schedule)))
    for prediction in ("epsilon", "v", "x0", "velocity"):  # no noise at t = 0
        assert np.all(np.isfinite(to_denoised(prediction, output, x, 0.0, schedule)))


@pytest.mark.parametrize("prediction", ["energy", "eps"])
@pytest.mark.parametrize("convert", [to_denoised, to_epsilon, from_denoised])
def test_conversions_name_a_prediction_they_do_not_know(convert, prediction):
    with pytest.raises(ValueError, match=f"`prediction='{prediction}'` cannot be converted"):
        convert(prediction, X, X, 0.5, noise.VPLinear())


# Construction and shapes


def test_defaults_and_protocol():
    model = network("epsilon")
    np.testing.assert_allclose(model.noise.log_snr(model.min_time), 8.0, atol=1e-5)
    assert network("epsilon", min_time=0.25).min_time == 0.25
    assert isinstance(model, ScoreModel)
    assert network("epsilon", event_shape=[2, 2]).event_shape == (2, 2)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prediction": "eps"}, "`prediction='eps'` is not known; use one of 'epsilon', 'v', "),
        ({"event_shape": 4}, r"`event_shape=4` must be a tuple of sizes"),
        ({"event_shape": (2, -1)}, r"`event_shape=\(2, -1\)` must be a tuple of sizes"),
        ({"event_shape": (2.5,)}, r"`event_shape=\(2.5,\)` must be a tuple of sizes"),
        ({"event_shape": "22"}, "`event_shape='22'` must be a tuple of sizes"),
        ({"min_time": 1.0}, "`min_time=1.0` must obey 0 <= min_time < 1"),
        ({"min_time": -0.1}, "`min_time=-0.1` must obey"),
        ({"min_time": float("nan")}, "`min_time=nan` must obey"),
        ({"sigma_data": 0.0}, "`sigma_data=0.0` must be positive"),
    ],
)
def test_bad_construction_is_named(changes, message):
    arguments = {"noise": noise.VPLinear(), "prediction": "epsilon", "event_shape": EVENT}
    with pytest.raises(ValueError, match=message):
        ScoreNetwork(epsilon, PARAMS, **(arguments | changes))


@EVERY_PREDICTION
@pytest.mark.parametrize("method", ["score", "denoise"])
def test_wrong_shapes_of_x_and_t_are_named(prediction, method):
    call = getattr(network(prediction), method)
    with pytest.raises(ValueError, match=r"`x` has shape \(3, 2, 2\), .* is \(2, 2\)"):
        call(jnp.ones((3, 2, 2)), 0.5)
    with pytest.raises(ValueError, match=r"`x` has shape \(\), but `event_shape`"):
        jax.jit(call)(1.0, 0.5)
    with pytest.raises(ValueError, match=r"`t` has shape \(3,\) and must be a scalar"):
        call(X, jnp.full(3, 0.5))


@pytest.mark.parametrize(
    "prediction, batched, output, message",
    [
        ("epsilon", False, lambda x: x[0], r"shape \(2,\).*needs \(2, 2\)"),
        ("epsilon", False, lambda x: x[None], r"shape \(1, 2, 2\).*needs \(2, 2\)"),
        ("epsilon", False, lambda x: (x, x), r"shape tuple.*needs \(2, 2\)"),
        ("x0", True, lambda x: x[0], r"shape \(2, 2\).*batched=True needs \(1, 2, 2\)"),
        ("energy", False, lambda x: x, r"shape \(2, 2\) where prediction='energy'.*needs \(\)"),
        ("energy", False, lambda x: x.sum(keepdims=True), r"shape \(1, 1\).*needs \(\)"),
        ("energy", True, lambda x: x.sum(), r"shape \(\).*batched=True needs \(1,\)"),
    ],
)
@pytest.mark.parametrize("method", ["score", "denoise"])
def test_wrong_shapes_from_apply_fn_are_named(prediction, batched, output, message, method):
    model = ScoreNetwork(
        lambda params, x, t, condition: output(x),
        None,
        noise=noise.VPLinear(),
        prediction=prediction,
        event_shape=EVENT,
        batched=batched,
    )
    with pytest.raises(ValueError, match="`apply_fn` returned " + message):
        getattr(model, method)(X, 0.5)
    with pytest.raises(ValueError, match="`apply_fn` returned " + message):
        jax.eval_shape(getattr(model, method), X, 0.5)


@EVERY_PREDICTION
def test_batched_networks_agree_with_networks_of_one_event(prediction):
    def batched(params, x, t, condition):
        assert x.shape[1:] == EVENT and t.shape == x.shape[:1]
        return jax.vmap(lambda x, t: NETWORKS[prediction](params, x, t, condition))(x, t)

    single = network(prediction)
    model = ScoreNetwork(
        batched,
        PARAMS,
        noise=noise.VPLinear(),
        prediction=prediction,
        event_shape=EVENT,
        batched=True,
        sigma_data=SIGMA_DATA,
    )
    events, times = jnp.stack([X, 2 * X, -X]), jnp.array([0.1, 0.5, 0.9])
    for method in ("score", "denoise"):
        one, many = getattr(single, method), jax.vmap(getattr(model, method))
        single_event = getattr(model, method)(X, 0.5)
        np.testing.assert_allclose(single_event, one(X, 0.5), rtol=1e-5, atol=1e-5)
        loop = jnp.stack([one(x, t) for x, t in zip(events, times, strict=True)])
        np.testing.assert_allclose(many(events, times), loop, rtol=1e-4, atol=1e-5)


def test_condition_reaches_the_network():
    model = ScoreNetwork(
        lambda params, x, t, condition: params * x + condition["shift"],
        jnp.float32(2.0),
        noise=noise.VPLinear(),
        prediction="x0",
        event_shape=(3,),
        condition={"shift": jnp.arange(3.0)},
    )
    np.testing.assert_allclose(model.denoise(jnp.ones(3), 0.5), [2.0, 3.0, 4.0])


# Transformations


def test_networks_are_pytrees_and_compile_once_for_all_parameters():
    traces = []

    def apply_fn(params, x, t, condition):
        traces.append(None)
        return params * x + condition

    model = ScoreNetwork(
        apply_fn,
        jnp.float32(0.5),
        noise=noise.VPLinear(),
        prediction="x0",
        event_shape=(3,),
        condition=jnp.zeros(3),
    )
    leaves, structure = jax.tree.flatten(model)
    assert len(leaves) == 6  # params, beta_min, beta_max, condition, sigma_data, min_time
    denoise = jax.jit(lambda model, x, t: model.denoise(x, t))
    denoise(model, jnp.ones(3), 0.5)
    changed = jax.tree.unflatten(structure, [1.5 * leaf for leaf in leaves])
    np.testing.assert_allclose(denoise(changed, jnp.ones(3), 0.5), 0.75 * jnp.ones(3))
    assert len(traces) == 1

    model.sample(jax.random.key(0), (2,), num_steps=3)
    traces.clear()
    changed.sample(jax.random.key(1), (2,), num_steps=3)
    assert not traces

    jax.tree.map(lambda _: object(), model)
    jax.tree.map(lambda _: None, model)


def test_gradients_with_respect_to_the_network():
    model = network("epsilon")

    def loss(model):
        return jnp.sum(model.score(X, 0.5))

    gradient = jax.jit(jax.grad(loss))(model)
    assert isinstance(gradient, ScoreNetwork)
    # d/dmean of -(x - alpha mean) / (alpha^2 scale^2 + sigma^2)
    exact = reference(0.5)[2] / _total_variance(0.5)
    np.testing.assert_allclose(gradient.params["mean"], exact, rtol=1e-5)


def test_a_stack_of_networks_is_vmapped():
    model = network("v")
    stack = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf), jnp.asarray(leaf)]), model)
    scores = jax.vmap(lambda model: model.score(X, 0.5))(stack)
    np.testing.assert_allclose(scores, jnp.stack([model.score(X, 0.5)] * 2), rtol=1e-5)


@EVERY_PREDICTION
def test_networks_pickle(prediction):
    model = network(prediction)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.score(X, 0.5), model.score(X, 0.5))
    assert jax.tree.structure(copy) == jax.tree.structure(model)


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
    ],
)
def test_sample_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        network("v").sample(jax.random.key(0), **arguments)
