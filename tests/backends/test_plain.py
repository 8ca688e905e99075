"""Functions of JAX arrays as score models, and the check of their prediction type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from scoreppl.backends import denoising_errors, from_callable

NOISE = sp.noise.VPLinear()
# Two separated modes, so that the exact denoiser beats every linear one.
MIXTURE = sp.analytic.GaussianMixture(
    [[-2.0, 0.5], [1.5, -1.0]], scales=0.3, weights=[0.6, 0.4], noise=NOISE
)
DATA = np.asarray(MIXTURE.sample_exact(jax.random.key(0), (200,)))


def exact(prediction):
    """Return the exact network of a prediction type; its parameter is added to the denoiser."""

    def fn(shift, x, t):
        alpha, sigma = NOISE(t)
        denoised = MIXTURE.denoise(x, t) + shift
        epsilon = (x - alpha * denoised) / sigma
        return {
            "epsilon": epsilon,
            "x0": denoised,
            "v": alpha * epsilon - sigma * denoised,
            "score": -epsilon / sigma,
        }[prediction]

    return fn


def wrap(fn=None, prediction="epsilon", params=0.0, **options):
    return from_callable(
        exact(prediction) if fn is None else fn, params, noise=NOISE, prediction=prediction,
        event_shape=(2,), **options,
    )  # fmt: skip


TYPES = ("epsilon", "x0", "v", "score")


@pytest.mark.parametrize("prediction", TYPES)
def test_a_right_type_passes_and_every_wrong_one_is_named(prediction):
    network = wrap(prediction=prediction, check_data=DATA)
    x, t = jnp.array([0.3, -0.2]), 0.4
    np.testing.assert_allclose(network.denoise(x, t), MIXTURE.denoise(x, t), atol=1e-4)
    for declared in TYPES:
        if declared != prediction:
            with pytest.raises(ValueError, match=f"'{declared}'.* with prediction='{prediction}'"):
                wrap(exact(prediction), declared, check_data=DATA)


def test_a_network_that_does_not_denoise_is_refused():
    with pytest.raises(ValueError, match="by any prediction type"):
        wrap(lambda shift, x, t: 30.0 * jnp.sin(20.0 * x) + shift, check_data=DATA)
    with pytest.raises(ValueError, match="by any prediction type"):
        wrap(params=jnp.nan, check_data=DATA)
    for scale in (0.5, 2.0):
        with pytest.raises(ValueError, match="the data's scale|the scale of the data"):
            wrap(check_data=scale * DATA)
    energy = lambda shift, x, t: MIXTURE.log_prob(x, t)  # noqa: E731
    wrap(energy, "energy", check_data=DATA)
    with pytest.raises(ValueError, match="by any prediction type"):
        wrap(lambda shift, x, t: -20.0 * energy(shift, x, t), "energy", check_data=DATA)


def test_a_network_at_other_times_is_doubted():
    """At times that it does not know a network is hardly better than a linear guess."""

    def shrinks(shift, x, t):
        alpha, sigma = NOISE(t)
        return sigma * x / (alpha**2 * 0.1 + sigma**2)

    with pytest.warns(UserWarning, match="hardly better than a linear guess"):
        wrap(shrinks, check_data=np.random.default_rng(0).normal(0, 0.32, DATA.shape))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"event_shape": (3,)}, "could not be traced on one event of shape (3,)"),
        ({"noise": None}, "`noise` of type NoneType is no schedule"),
    ],
)
def test_what_cannot_be_run_is_named(options, message):
    def fixed(params, x, t):
        return x + jnp.zeros(5)

    options = {"noise": NOISE, "prediction": "epsilon", "event_shape": (5,)} | options
    with pytest.raises(ValueError) as error:
        sp.backends.from_callable(fixed, None, **options)
    assert message in str(error.value)


def test_errors_are_those_of_the_exact_denoiser():
    """Its mean squared error is the mean trace of the posterior covariance over the size."""
    network = wrap()
    found = denoising_errors(network, np.tile(DATA, (20, 1)), log_snr=[0.0, 3.0])
    for level, error, epsilon in zip(*found[:3], strict=True):
        t = NOISE.time(level)
        alpha, sigma = NOISE(t)
        x = alpha * jnp.tile(DATA, (20, 1)) + sigma * jax.random.normal(
            jax.random.key(5), (4_000, 2)
        )
        traces = np.asarray(jax.vmap(lambda x: jnp.trace(MIXTURE.covariance(x, t)))(x)) / 2  # noqa: B023
        # Errors of 4,000 squares that vary by half more than their mean: 3 % each, at four.
        assert abs(error / traces.mean() - 1) < 0.15
        assert epsilon == pytest.approx(error * np.exp(level), rel=1e-3)
    assert np.all(found.relative_error < 0.9)
    worse = denoising_errors(wrap(params=0.2), DATA, log_snr=[3.0])
    assert worse.mean_squared_error[0] > found.mean_squared_error[1] + 0.03


def test_inputs_outputs_and_conditions():
    fn = exact("epsilon")
    seen = wrap(
        lambda shift, *, image, step, label: {"sample": fn(shift + label, image, step / 1000)},
        input_transform=lambda x, t, c: {"image": x, "step": 1000 * t, "label": c},
        output_transform=lambda output: output["sample"],
        condition=jnp.asarray(0.25),
    )
    x, t = jnp.array([0.3, -0.2]), 0.4
    expected = MIXTURE.denoise(x, t) + 0.25
    np.testing.assert_allclose(seen.denoise(x, t), expected, atol=1e-4)
    batched = wrap(
        lambda shift, x, t: (jax.vmap(lambda x, t: fn(shift, x, t))(x, t),), batched=True
    )
    np.testing.assert_allclose(batched.denoise(x, t), MIXTURE.denoise(x, t), atol=1e-4)
    # Parameters are arguments: other values need no other program, and have a gradient.
    slope = jax.grad(lambda network: jnp.sum(network.denoise(x, t)), allow_int=True)(wrap())
    assert float(slope.params) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fn": 3.0}, "`fn` of type float is not callable"),
        ({"input_transform": "x"}, "`input_transform` of type str"),
        ({"input_transform": lambda x, t, c: x}, "`input_transform` returned"),
        ({"fn": lambda p, x, t: {"sample": x}}, "returned a dict; pass `output_transform`"),
        ({"fn": lambda p, x, t: x[:1]}, "returned shape"),
        ({"prediction": "eps", "fn": lambda p, x, t: x}, "`prediction='eps'` is not known"),
        ({"check_data": DATA[:, :1]}, "`check_data` has shape"),
        ({"check_data": DATA[:1]}, "at least two"),
        ({"check_data": np.full((3, 2), np.nan)}, "NaN or infinite"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError) as error:
        wrap(**options)
    assert message in str(error.value)


def test_the_root_knows_the_backends():
    assert sp.backends.from_callable is from_callable
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sp.nothing  # noqa: B018
