"""Train the two networks on all days but the last 2,000, which are kept for tests.

::

    pip install -e ".[dev,portfolio]"
    python -m case_studies.portfolio_tail.train

``scaled`` learns returns in units of each stock's volatility forecast for the day, ``static`` in
units of its standard deviation over the training days. Both together take a minute on one core
and write ``networks/*.safetensors``.
"""

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import scoreppl as sp
from case_studies.portfolio_tail.data import NUM_TEST_DAYS, Returns, load_returns
from case_studies.portfolio_tail.network import FOLDER, NOISE, as_network, denoise, initial
from training.descend import descend

NUM_STEPS, BATCH, LEARNING_RATE = 10_000, 256, 2e-3
NAMES = ("scaled", "static")


def events_and_scale(name: str, returns: Returns) -> tuple[np.ndarray, np.ndarray]:
    """Return the events a network learns, shape ``(n, 20)``, and what one unit of them is.

    For ``"scaled"`` the unit is that of the first test day, for ``"static"`` that of every day.
    """
    if name == "scaled":
        return returns.scaled, returns.volatility[-NUM_TEST_DAYS]
    scale = returns.simple[:-NUM_TEST_DAYS].std(0)
    return returns.simple / scale, scale


def loss_of(events: np.ndarray, batch: int) -> Callable[[dict[str, Array], Array], Array]:
    """Return the denoising error, each eigenvector's over what it is for Gaussian returns.

    Noise levels are those of an angle ladder, arctan s uniform, and stratified over the batch.
    """
    data = jnp.asarray(events, jnp.float32)

    def loss(params: dict[str, Array], key: Array) -> Array:
        key_pick, key_level, key_noise = jax.random.split(key, 3)
        clean = data[jax.random.randint(key_pick, (batch,), 0, len(data))]
        share = (jnp.arange(batch) + jax.random.uniform(key_level, (batch,))) / batch
        scale = jnp.tan(0.02 + (jnp.pi / 2 - 0.03) * share)
        noisy = clean + scale[:, None] * jax.random.normal(key_noise, clean.shape)
        times = NOISE.time(-2 * jnp.log(scale))
        found = jax.vmap(lambda x, t: denoise(params, x, t, None))(noisy, times)
        error = (found - clean) @ jax.lax.stop_gradient(params["vectors"])
        precision = jax.lax.stop_gradient(1 / params["variances"]) + 1 / scale[:, None] ** 2
        return jnp.mean(precision * error**2)

    return loss


@partial(jax.jit, static_argnames="num_steps")
def train(key: Array, events: Array, params: dict[str, Array], num_steps: int) -> dict[str, Array]:
    """Fit a network by denoising the events."""
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, min(200, num_steps), num_steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return descend(loss_of(events, BATCH), params, optimiser, jax.random.split(key, num_steps))


def fit(name: str, returns: Returns, num_steps: int = NUM_STEPS) -> tuple[dict, list[str]]:
    """Return the parameters of one network, and what is to be said of its errors."""
    events = np.float32(events_and_scale(name, returns)[0])
    learnt, held_out = events[:-NUM_TEST_DAYS], events[-NUM_TEST_DAYS:]
    start = initial(jax.random.key(0), learnt)
    params = train(jax.random.key(1), jnp.asarray(learnt), start, num_steps)
    key, rows = jax.random.key(2), []
    for label, days in (("training days", learnt), ("test days", held_out)):
        error = jax.jit(loss_of(days, 50_000))
        rows.append(
            f"{label}: denoising error {error(params, key):.4f}, "
            f"of the best Gaussian {error(start, key):.4f}"
        )
    return params, rows


def main() -> None:
    """Train and write both."""
    returns = load_returns()
    first, last = returns.days[0], returns.days[-NUM_TEST_DAYS - 1]
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        begin = time.perf_counter()
        params, rows = fit(name, returns)
        seconds = time.perf_counter() - begin
        print(name, f"{seconds:.0f} s", *rows, sep="\n  ", flush=True)
        sp.save_score_network(
            FOLDER / f"{name}.safetensors",
            as_network(params),
            architecture="returns_denoiser",
            card={
                "name": name,
                "data": "daily returns of 20 stocks from skfolio's sp500_dataset, "
                f"{str(first)[:10]} to {str(last)[:10]}",
                "licence": "weights: Apache-2.0; prices: skfolio, BSD 3-clause, "
                "for testing and examples only",
                "training": "python -m case_studies.portfolio_tail.train: "
                f"{NUM_STEPS} steps of {BATCH} days",
                "training_seconds": round(seconds),
                "parameters": int(sum(np.size(value) for value in params.values())),
                "heldout": rows,
                "stocks": list(returns.names),
                "unit": events_and_scale(name, returns)[1].tolist(),
                "unit_of": f"{str(returns.days[-NUM_TEST_DAYS])[:10]}"
                if name == "scaled"
                else "all days",
            },
        )


if __name__ == "__main__":
    main()
