"""Train the network on draws of the effects' prior, by denoising.

::

    python -m case_studies.eight_schools.train

It writes ``network.safetensors``, after 23 minutes on two busy cores. The network sees
draws of the effects and nothing else: neither mu, nor tau, nor a density.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import scoreppl as sp
from case_studies.eight_schools.model import NUM_SCHOOLS, draw_effects
from case_studies.eight_schools.network import FILE, NOISE, as_network, initial, v_prediction
from training.descend import descend

NUM_STEPS, BATCH, LEARNING_RATE = 60_000, 1024, 2e-3


def errors(params: dict[str, Array], key: Array, size: int) -> tuple[Array, Array]:
    """Return squared errors of the prediction, mean over schools, at even times, and the times."""
    key_data, key_time, key_noise = jax.random.split(key, 3)
    x, noise = draw_effects(key_data, size), jax.random.normal(key_noise, (size, NUM_SCHOOLS))
    # One time in each of as many even intervals: less noise in the gradient.
    t = (jnp.arange(size) + jax.random.uniform(key_time, (size,))) / size
    alpha, sigma = (value[:, None] for value in NOISE(t))
    noisy = alpha * x + sigma * noise
    found = jax.vmap(lambda x, t: v_prediction(params, x, t, None))(noisy, t)
    return jnp.mean((found - (alpha * noise - sigma * x)) ** 2, 1), t


@partial(jax.jit, static_argnames="num_steps")
def train(key: Array, num_steps: int = NUM_STEPS) -> dict[str, Array]:
    """Fit the network to fresh draws."""
    key_start, key_loop = jax.random.split(key)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, num_steps)),
    )

    def loss(params: dict[str, Array], key: Array) -> Array:
        return jnp.mean(errors(params, key, BATCH)[0])

    return descend(loss, initial(key_start), optimiser, jax.random.split(key_loop, num_steps))


def heldout(params: dict[str, Array]) -> list[str]:
    """Say how large the error on fresh draws is, by time."""
    error, t = (np.asarray(v) for v in errors(params, jax.random.key(1), 100_000))
    quarters = [error[(t >= low) & (t < low + 0.25)].mean() for low in np.arange(4) / 4]
    return [
        f"t in [{i / 4}, {(i + 1) / 4}): mean squared error of v {value:.4f}"
        for i, value in enumerate(quarters)
    ]


def main() -> None:
    """Train and write."""
    start = time.perf_counter()
    params = jax.block_until_ready(train(jax.random.key(0)))
    seconds, rows = round(time.perf_counter() - start), heldout(params)
    print(f"{seconds} s", *rows, sep="\n  ")
    card = {
        "name": "eight_schools",
        "data": "draws of case_studies.eight_schools.model.draw_effects",
        "licence": "Apache-2.0",
        "training": f"python -m case_studies.eight_schools.train: {NUM_STEPS} steps of {BATCH} "
        "fresh draws",
        "training_seconds": seconds,
        "parameters": int(sum(np.size(value) for value in params.values())),
        "heldout": rows,
    }
    sp.save_score_network(FILE, as_network(params), architecture="exchangeable", card=card)


if __name__ == "__main__":
    main()
