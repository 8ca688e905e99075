"""Score models of latents with their autoencoder, of plain JAX functions; needs no extra."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import scoreppl as sp
from scoreppl.backends import Autoencoder, LatentDiffusion, from_callable

NOISE = sp.noise.VPLinear()
LATENT, IMAGE = (2, 3, 4), (3, 6, 8)
# Orthonormal columns: pooling and the transpose undo what the decoder does.
COLOURS = np.array([[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]], np.float32)
CODER = Autoencoder(
    lambda colours, z: jnp.repeat(jnp.repeat(jnp.einsum("ck,bkhw->bchw", colours, z), 2, 2), 2, 3),
    lambda colours, x: jnp.einsum(
        "ck,bchw->bkhw", colours, x.reshape(*x.shape[:2], x.shape[2] // 2, 2, -1, 2).mean((3, 5))
    ),
    COLOURS, scale=4.0, shift=0.1,
)  # fmt: skip


def standard_normal(params, x, t):
    """Return the noise in standard normal latents."""
    return params * NOISE(t)[1] * x


def wrap(fn=standard_normal, params=None):
    params = jnp.ones(()) if params is None else params
    network = from_callable(fn, params, noise=NOISE, prediction="epsilon", event_shape=LATENT)
    return LatentDiffusion(network, CODER)


def latents(*shape):
    return np.random.default_rng(0).standard_normal((*shape, *LATENT)).astype(np.float32)


def test_it_is_the_score_model_of_its_network():
    backend = wrap()
    assert isinstance(backend, sp.ScoreModel) and not backend.has_log_density
    assert backend.event_shape == LATENT and backend.min_time == backend.network.min_time
    assert backend.noise is backend.network.noise
    x = latents()
    np.testing.assert_allclose(backend.score(x, 0.4), -x, rtol=1e-5)
    np.testing.assert_allclose(backend.denoise(x, 0.4), NOISE(0.4)[0] * x, rtol=1e-4, atol=1e-5)
    key = jax.random.key(0)
    drawn = backend.sample(key, (3,), num_steps=5)
    assert drawn.shape == (3, *LATENT)
    np.testing.assert_array_equal(drawn, backend.network.sample(key, (3,), num_steps=5))
    with pytest.raises(ValueError, match="a score and no density"):
        backend.log_prob(x)


def test_images_are_decoded_and_encoded_as_the_autoencoder_is_declared():
    backend, z = wrap(), latents(5)
    images = jax.jit(lambda backend, z: jax.vmap(backend.decode)(z))(backend, z)
    mixed = np.einsum("ck,nkhw->nchw", COLOURS, z / 4 + 0.1)
    np.testing.assert_allclose(images[:, :, ::2, 1::2], 0.5 * mixed + 0.5, rtol=1e-5)
    assert images.shape == (5, *IMAGE)
    back = jax.vmap(backend.encode)(images)
    np.testing.assert_allclose(back, z, rtol=1e-4, atol=1e-4)
    far = backend.decode(100 * z[0])
    assert float(far.min()) == 0.0 and float(far.max()) == 1.0


def test_the_decoder_has_a_gradient():
    backend, z = wrap(), latents()
    slope = np.random.default_rng(1).standard_normal(IMAGE).astype(np.float32)
    found = jax.jit(jax.grad(lambda z: jnp.vdot(slope, backend.decode(z))))(z)
    pooled = slope.reshape(3, 3, 2, 4, 2).sum((2, 4))
    expected = np.einsum("ck,chw->khw", COLOURS, pooled) / 8
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # Beyond black and white there is none.
    np.testing.assert_array_equal(jax.grad(lambda z: jnp.sum(backend.decode(z)))(1e4 + 0 * z), 0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda backend: backend.decode(latents(2)), "use jax.vmap"),
        (lambda backend: backend.decode(jnp.zeros((2, 4, 3))), "a latent has (2, 3, 4)"),
        (lambda backend: backend.encode(jnp.zeros((6, 8, 3))), "must be (3, height, width)"),
        (lambda backend: backend.encode(jnp.zeros((2, *IMAGE))), "must be (3, height, width)"),
        (lambda backend: backend.encode(jnp.zeros((3, 8, 8))), "height and width of the model"),
        (lambda backend: backend.encode(255 * jnp.ones(IMAGE)), "goes from 255 to 255"),
    ],
)
def test_latents_and_images_of_other_sizes_are_refused(call, message):
    with pytest.raises(ValueError) as error:
        call(wrap())
    assert message in str(error.value)


def test_lags_needs_one_call_a_step_and_no_backward_pass():
    """Each call for one path is counted, and the network cannot be differentiated."""
    calls = []
    plain = jax.custom_jvp(standard_normal)

    @plain.defjvp
    def backward(primals, tangents):
        raise RuntimeError("the network was differentiated")

    def counted(params, x, t):
        jax.debug.callback(lambda _: calls.append(1), x)
        return plain(params, x, t)

    backend = wrap(counted)

    def model():
        image = backend.decode(numpyro.sample("z", sp.ScorePrior(backend)))
        numpyro.factor("reward", 2.0 * jnp.mean(image))

    steps, paths = 5, 4

    def run(guidance):
        kernel = sp.GuidedDiffusion(
            model, guidance=guidance, num_steps=steps, num_pilots=4, block_size=paths
        )
        state = kernel.init(jax.random.key(0), 0, None, (), {})
        jax.effects_barrier()
        calls.clear()
        state = jax.jit(lambda state: kernel.sample(state, (), {}))(state)
        jax.effects_barrier()
        return state

    state = run(sp.guidance.LAGS(hvp="none"))
    assert np.all(np.isfinite(state.block_log_weight))
    assert np.any(state.block_z["z"] != 0)
    assert int(state.num_score_evaluations) == steps
    assert len(calls) == steps * paths
    with pytest.raises(RuntimeError, match="the network was differentiated"):
        run(sp.guidance.Tweedie())


def test_what_is_shown_of_a_network_holds_no_weights():
    weights = {"weights": jnp.zeros(1_000)}
    backend = wrap(lambda params, x, t: standard_normal(jnp.ones(()), x, t), weights)
    assert len(repr(backend)) < 500 and "ScoreNetwork(1,000 parameters" in repr(backend)
    assert repr(sp.noise.DiscreteVP.linear()) == "DiscreteVP(1000 steps)"
