"""Train the classifier that weighs draws, on the labels of the prior's training images.

::

    python -m case_studies.augmentation.train

It takes seconds and writes ``classifier.safetensors``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from case_studies.augmentation.classifier import FILE, initial, log_probabilities, save
from case_studies.augmentation.data import Labelled, split
from training.descend import descend

NUM_STEPS, BATCH, NOISE = 4_000, 128, 0.3


@jax.jit
def train(key: Array, images: Array, labels: Array) -> dict[str, Array]:
    """Fit the classifier to noisy copies of labelled images."""
    key_start, key_loop = jax.random.split(key)
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, NUM_STEPS))

    def loss(params: dict[str, Array], key: Array) -> Array:
        key_pick, key_noise = jax.random.split(key)
        chosen = jax.random.randint(key_pick, (BATCH,), 0, len(labels))
        noisy = images[chosen] + NOISE * jax.random.normal(key_noise, (BATCH, 8, 8))
        found = log_probabilities(params, noisy)
        return -jnp.mean(jnp.take_along_axis(found, labels[chosen, None], 1))

    return descend(loss, initial(key_start), optimiser, jax.random.split(key_loop, NUM_STEPS))


def judge(params: dict[str, Array], held_out: Labelled) -> dict[str, float]:
    """Return accuracy and mean log probability of the right class."""
    found = np.asarray(log_probabilities(params, held_out.images))
    right = found[np.arange(len(found)), held_out.labels]
    accuracy = np.mean(found.argmax(1) == held_out.labels)
    return {"accuracy": round(float(accuracy), 4), "log_probability": round(float(right.mean()), 4)}


def main() -> None:
    """Train and write."""
    seen, held_out = split()
    params = train(jax.random.key(0), jnp.asarray(seen.images), jnp.asarray(seen.labels))
    card = {
        "name": "digits8_classifier",
        "data": "scikit-learn's copy of the UCI optical digits: 1,500 images, 297 held out",
        "licence": "weights: Apache-2.0; images: E. Alpaydin, C. Kaynak, UCI Machine Learning "
        "Repository, CC BY 4.0",
        "training": "python -m case_studies.augmentation.train",
        "heldout": judge(params, held_out),
    }
    print(card["heldout"])
    save(params, card)
    print(f"wrote {FILE.name}")


if __name__ == "__main__":
    main()
