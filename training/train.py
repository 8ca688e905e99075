"""The training loop that both scripts share: loss, optimiser, averaging, held-out errors, card.

The loss is the mean squared error of the velocity prediction v = alpha eps - sigma x0 on the
linear variance-preserving schedule, with log-SNR drawn from a clipped normal, which spends the
budget where the denoiser is neither trivial nor hopeless (the noise distribution of Karras et
al., arXiv:2206.00364). The weights that are kept are an exponential moving average.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from scoreppl.network_file import save_score_network
from scoreppl.noise import VPLinear
from scoreppl.pretrained.unet import UNetShape, init_unet, unet
from scoreppl.score import ScoreNetwork

NOISE = VPLinear()
LOG_SNR_MEAN, LOG_SNR_SD, LOG_SNR_RANGE = 2.0, 2.5, (-9.9, 9.0)
MAX_LOG_SNR = 7.0
HELD_OUT_LOG_SNR = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 7.0)


@dataclass(frozen=True)
class Plan:
    """Settings of one training run.

    Attributes
    ----------
    shape
        Widths and depths of the network.
    rounds
        Number of steps and peak learning rate of each round; a round starts from the averaged
        weights of the one before, with a fresh optimiser.
    batch, seed, ema
        Batch size, random seed and decay of the average.
    """

    shape: UNetShape
    rounds: tuple[tuple[int, float], ...]
    batch: int
    seed: int
    ema: float = 0.999


def loss(params: dict[str, Array], key: Array, images: Array) -> Array:
    """Velocity error at one random noise level an image."""
    key_level, key_noise = jax.random.split(key)
    # Stratified over the batch: the levels of one batch cover the distribution evenly.
    count = len(images)
    uniform = (jnp.arange(count) + jax.random.uniform(key_level, (count,))) / count
    log_snr = LOG_SNR_MEAN + LOG_SNR_SD * jax.scipy.special.ndtri(uniform)
    t = NOISE.time(jnp.clip(log_snr, *LOG_SNR_RANGE))
    alpha, sigma = (level[:, None, None] for level in NOISE(t))
    noise = jax.random.normal(key_noise, images.shape)
    prediction = unet(params, alpha * images + sigma * noise, t)
    return jnp.mean((prediction - (alpha * noise - sigma * images)) ** 2)


def train(
    images: np.ndarray, plan: Plan, start: dict[str, Array] | None = None, first_round: int = 0
) -> dict[str, Array]:
    """Run all rounds and return the averaged weights.

    `start` and `first_round` take a run up again after a round that was kept.
    """
    average = init_unet(jax.random.key(plan.seed), plan.shape) if start is None else start
    for number in range(first_round, len(plan.rounds)):
        average = _round(images, plan, number, average)
    return average


def _round(images: np.ndarray, plan: Plan, number: int, params: Any) -> Any:
    """AdamW with warm-up and cosine decay; returns the averaged weights."""
    steps, rate = plan.rounds[number]
    seed = plan.seed + 2 * number
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 200, steps)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4)
    )
    state, average = optimiser.init(params), params

    @jax.jit
    def update(params: Any, state: Any, average: Any, key: Array, images: Array) -> tuple:
        value, gradient = jax.value_and_grad(loss)(params, key, images)
        change, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        average = jax.tree.map(lambda a, p: plan.ema * a + (1 - plan.ema) * p, average, params)
        return params, state, average, value

    order = np.random.default_rng(seed)
    permutation = np.empty(0, int)
    started, recent = time.perf_counter(), []
    for step in range(1, steps + 1):
        if len(permutation) < plan.batch:
            permutation = order.permutation(len(images))
        chosen, permutation = permutation[: plan.batch], permutation[plan.batch :]
        key = jax.random.fold_in(jax.random.key(seed + 1), step)
        params, state, average, value = update(params, state, average, key, images[chosen])
        recent.append(float(value))
        if step % 250 == 0:
            seconds = time.perf_counter() - started
            print(f"{step} loss {np.mean(recent):.5f} seconds {seconds:.0f}", flush=True)
            recent = []
    return average


def as_network(params: dict[str, Array], size: int) -> ScoreNetwork:
    """Wrap the parameters with what training fixed."""
    return ScoreNetwork(
        unet,
        params,
        noise=NOISE,
        prediction="v",
        event_shape=(size, size),
        batched=True,
        min_time=NOISE.time(MAX_LOG_SNR),
    )


def held_out_errors(network: ScoreNetwork, images: np.ndarray, seed: int = 7) -> list[dict]:
    """Denoising error by noise level on images that training has not seen.

    Each row holds the noise sd in data units, the mean squared error of the denoiser a pixel
    (against the variance of the data a pixel, which a denoiser that knows nothing reaches) and
    that of the predicted noise.
    """

    @jax.jit
    def errors(key: Array, images: Array, t: Array) -> Array:
        alpha, sigma = NOISE(t)
        noise = jax.random.normal(key, images.shape)
        denoised = jax.vmap(network.denoise, (0, None))(alpha * images + sigma * noise, t)
        return jnp.mean((denoised - images) ** 2)

    rows = []
    for index, log_snr in enumerate(HELD_OUT_LOG_SNR):
        t = NOISE.time(jnp.asarray(log_snr))
        parts = np.array_split(images, max(1, len(images) // 250))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), len(parts))
        denoising = float(np.mean([errors(k, p, t) for k, p in zip(keys, parts, strict=True)]))
        ratio = float(np.exp(log_snr))
        rows.append(
            {
                "log_snr": log_snr,
                "noise_sd": round(float(np.exp(-log_snr / 2)), 4),
                "denoising_mse": round(denoising, 6),
                "epsilon_mse": round(denoising * ratio, 5),
            }
        )
    return rows


def write(path: Path, network: ScoreNetwork, card: dict[str, Any]) -> None:
    """Save the network with its card."""
    save_score_network(path, network, architecture="unet", card=card)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
