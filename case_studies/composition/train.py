"""Train the four networks: ring and bar, noise and energy, on the same draws for as many steps.

::

    python -m case_studies.composition.train

It takes about ten minutes on two quiet cores and writes ``networks/*.safetensors``.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import scoreppl as sp
from case_studies.composition import problem
from case_studies.composition.network import FOLDER, NUM_OUTPUTS, as_network, initial
from training.descend import descend

NUM_STEPS, BATCH, LEARNING_RATE = 40_000, 512, 2e-3
LAWS = {"ring": problem.ring, "bar": problem.bar}


def noised(key: Array, law: sp.analytic.GaussianMixture, size: int) -> tuple[Array, Array, Array]:
    """Return fresh draws at uniform times: noisy events, their times and their noise."""
    key_data, key_time, key_noise = jax.random.split(key, 3)
    t = jax.random.uniform(key_time, (size,))
    alpha, sigma = (value[:, None] for value in problem.NOISE(t))
    noise = jax.random.normal(key_noise, (size, 2))
    return alpha * law.sample_exact(key_data, (size,)) + sigma * noise, t, noise


def predicted_noise(network: sp.ScoreModel, x: Array, t: Array) -> Array:
    """Return -sigma times the score of each event of a batch."""
    return jax.vmap(lambda x, t: -problem.NOISE(t)[1] * network.score(x, t))(x, t)


@partial(jax.jit, static_argnames=("prediction", "num_steps"))
def train(
    key: Array, law: sp.analytic.GaussianMixture, prediction: str, num_steps: int = NUM_STEPS
) -> dict[str, Array]:
    """Fit a network by denoising. The draws depend on the key and the law alone."""
    key_start, key_loop = jax.random.split(key)
    optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, num_steps))
    params = initial(key_start, NUM_OUTPUTS[prediction])

    def loss(params: dict[str, Array], key: Array) -> Array:
        x, t, noise = noised(key, law, BATCH)
        return jnp.mean((predicted_noise(as_network(params, prediction), x, t) - noise) ** 2)

    return descend(loss, params, optimiser, jax.random.split(key_loop, num_steps))


def excess_errors(network: sp.ScoreNetwork, law: sp.analytic.GaussianMixture) -> list[str]:
    """Say how far the predicted noise is from the exact one, by time."""
    x, t, _ = noised(jax.random.key(1), law, 100_000)
    error = predicted_noise(network, x, t) - predicted_noise(law, x, t)
    squared = np.sum(np.asarray(error) ** 2, 1)
    edges = ((0.0, 0.02), (0.02, 0.1), (0.1, 0.5), (0.5, 1.0))
    within = [(np.asarray(t) >= low) & (np.asarray(t) < high) for low, high in edges]
    return [
        f"t in [{low}, {high}): mean squared error of the noise {squared[inside].mean():.5f}"
        for (low, high), inside in zip(edges, within, strict=True)
    ]


def main() -> None:
    """Train and write all four."""
    FOLDER.mkdir(exist_ok=True)
    for law_name, build in LAWS.items():
        for prediction in NUM_OUTPUTS:
            start, law = time.perf_counter(), build()
            params = jax.block_until_ready(train(jax.random.key(0), law, prediction))
            seconds = time.perf_counter() - start
            network = as_network(params, prediction)
            rows = excess_errors(network, law)
            print(law_name, prediction, f"{seconds:.0f} s", *rows, sep="\n  ", flush=True)
            sp.save_score_network(
                FOLDER / f"{law_name}_{prediction}.safetensors",
                network,
                architecture=f"plane_{prediction}",
                card={
                    "name": f"{law_name}_{prediction}",
                    "data": f"draws of case_studies.composition.problem.{law_name}()",
                    "licence": "Apache-2.0",
                    "training": "python -m case_studies.composition.train: "
                    f"{NUM_STEPS} steps of {BATCH} fresh draws",
                    "training_seconds": round(seconds),
                    "parameters": int(sum(np.size(value) for value in params.values())),
                    "heldout": rows,
                },
            )


if __name__ == "__main__":
    main()
