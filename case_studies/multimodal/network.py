"""A small score network, trained on whatever draws there are."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array

from scoreppl.noise import VPCosine
from training.descend import descend

NOISE = VPCosine()
_FREQUENCIES = 2.0 ** jnp.arange(-2, 3)


def initial(key: Array, size: int, width: int = 128, depth: int = 3) -> list[dict[str, Array]]:
    """Return parameters of a multilayer perceptron."""
    inputs = size + 2 * len(_FREQUENCIES)
    sizes = [inputs, *[width] * depth, size]
    return [
        {
            "weight": jax.random.normal(jax.random.fold_in(key, i), (a, b)) * math.sqrt(1 / a),
            "bias": jnp.zeros(b),
        }
        for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    ]


def v_prediction(params: dict, x: Array, t: Array, condition: None) -> Array:
    """Predict alpha eps - sigma x_0 of one standardised event."""
    angle = NOISE.log_snr(t) / 4.0 * _FREQUENCIES
    hidden = jnp.concatenate([x, jnp.sin(angle), jnp.cos(angle)])
    for layer in params[:-1]:
        hidden = jax.nn.silu(hidden @ layer["weight"] + layer["bias"])
    return hidden @ params[-1]["weight"] + params[-1]["bias"]


@partial(jax.jit, static_argnames="num_steps")
def train(key: Array, events: Array, num_steps: int = 4_000, batch: int = 256) -> list:
    """Fit the network to standardised events, shape (n, d), by denoising them."""
    key_start, key_loop = jax.random.split(key)
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))
    params = initial(key_start, events.shape[1])

    def loss(params: list, key: Array) -> Array:
        key_pick, key_time, key_noise = jax.random.split(key, 3)
        x = events[jax.random.randint(key_pick, (batch,), 0, len(events))]
        t = jax.random.uniform(key_time, (batch,))
        alpha, sigma = (v[:, None] for v in NOISE(t))
        noise = jax.random.normal(key_noise, x.shape)
        found = jax.vmap(lambda x, t: v_prediction(params, x, t, None))(
            alpha * x + sigma * noise, t
        )
        return jnp.mean((found - (alpha * noise - sigma * x)) ** 2)

    return descend(loss, params, optimiser, jax.random.split(key_loop, num_steps))
