"""Judge unconditional samples of the digits network with a classifier, and draw 64 of them.

The classifier is the small convolutional MNIST network of microsoft/onnxjs-demo (MIT), converted
to safetensors; it is not part of this repository::

    python -m training.judge --classifier classifier_mnist_cntk.safetensors --picture digits.png

Prints the share of 512 samples (100 reverse steps) whose largest class probability exceeds 0.9,
and the share of each class; for scale, the same share among the shipped real test digits.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors.numpy import load_file

from scoreppl import pretrained


def classify(weights: dict[str, np.ndarray], images: Array) -> Array:
    """Class probabilities of images with pixels in [-1, 1], shape ``(n, 28, 28)``."""
    x = (images[:, None] + 1) * 127.5

    def conv(x: Array, kernel: str, bias: str) -> Array:
        return jax.nn.relu(
            jax.lax.conv(x, jnp.asarray(weights[kernel]), (1, 1), "SAME") + weights[bias]
        )

    def pool(x: Array, size: int) -> Array:
        window = (1, 1, size, size)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")

    x = pool(conv(x, "Parameter5", "Parameter6"), 2)
    x = pool(conv(x, "Parameter87", "Parameter88"), 3)
    logits = x.reshape(len(x), -1) @ weights["Parameter193"].reshape(-1, 10)
    return jax.nn.softmax(logits + weights["Parameter194"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    weights = load_file(arguments.classifier)
    network = pretrained.load("digits")
    draw = jax.jit(lambda network, key: network.sample(key, (128,), num_steps=100))
    keys = jax.random.split(jax.random.key(arguments.seed), 4)
    samples = jnp.concatenate([draw(network, key) for key in keys])
    real = pretrained.test_digits()
    for name, images in (("samples", samples), ("real test digits", jnp.asarray(real.images))):
        probabilities = classify(weights, images)
        confident = float(jnp.mean(jnp.max(probabilities, -1) > 0.9))
        shares = np.bincount(np.argmax(probabilities, -1), minlength=10) / len(images)
        print(f"{name}: {confident:.3f} above 0.9; class shares {shares.round(3).tolist()}")
    if arguments.picture is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 6))
        tiles = np.asarray(samples[:64]).reshape(8, 8, 28, 28).transpose(0, 2, 1, 3)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(tiles.reshape(224, 224), cmap="gray", vmin=-1, vmax=1)
        axes.axis("off")
        figure.savefig(arguments.picture, dpi=80)
