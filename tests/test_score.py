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
    to_denoised,
    to_epsilon,
)
from tests.networks import (
    EVENT,
    EVERY_PREDICTION,
    EVERY_SCHEDULE,
    NETWORKS,
    PARAMS,
    SCALE,
    SIGMA_DATA,
    X,
    epsilon,
    network,
    reference,
)


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
