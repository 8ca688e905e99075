"""Judge unconditional samples of the digits network with a classifier, and draw 64 of them.

The classifier is the small convolutional MNIST network of microsoft/onnxjs-demo (MIT), converted
to safetensors; it is not part of this repository::

    python -m training.judge --classifier classifier_mnist_cntk.safetensors --data package/data

Prints the share of 512 samples (100 reverse steps) whose largest class probability exceeds 0.9,
and the share of each class; beside them the same shares for real test images and for uniform
noise. On its raw logits the classifier is certain of everything, noise included, so that number
says nothing; the calibrated one divides the logits by the temperature at which real test images
are most likely to have their labels.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors.numpy import load_file

from scoreppl import pretrained
from training.digits import read_images, read_labels, to_pixels


def logits(weights: dict[str, np.ndarray], images: Array) -> Array:
    """Logits for images with pixels in [-1, 1], shape ``(n, 28, 28)``."""
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
    flat = x.reshape(len(x), -1)
    return flat @ weights["Parameter193"].reshape(-1, 10) + weights["Parameter194"]


def fit_temperature(logits: Array, labels: np.ndarray) -> float:
    """Temperature that maximises the likelihood of the labels, on a grid."""
    grid = np.exp(np.linspace(0, 9, 181))
    rows = np.arange(len(labels))
    scores = [float(jnp.mean(jax.nn.log_softmax(logits / T)[rows, labels])) for T in grid]
    return float(grid[int(np.argmax(scores))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with the idx files")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    weights = load_file(arguments.classifier)
    network = pretrained.load("digits")
    draw = jax.jit(lambda network, key: network.sample(key, (128,), num_steps=100))
    keys = jax.random.split(jax.random.key(arguments.seed), 4)
    samples = jnp.concatenate([draw(network, key) for key in keys])
    real = jnp.asarray(to_pixels(read_images(arguments.data / "t10k-images-idx3-ubyte")[:2000]))
    labels = read_labels(arguments.data / "t10k-labels-idx1-ubyte")[:2000]
    noise = jax.random.uniform(keys[0], (512, 28, 28), minval=-1.0, maxval=1.0)
    temperature = fit_temperature(logits(weights, real), labels)
    print(f"temperature {temperature:.0f}")
    for name, images in (("samples", samples), ("real test digits", real), ("noise", noise)):
        raw = logits(weights, images)
        confident = [
            float(jnp.mean(jnp.max(jax.nn.softmax(raw / T), -1) > 0.9)) for T in (1.0, temperature)
        ]
        shares = np.bincount(np.argmax(raw, -1), minlength=10) / len(images)
        print(
            f"{name}: above 0.9 raw {confident[0]:.3f}, calibrated {confident[1]:.3f}; "
            f"class shares {shares.round(3).tolist()}"
        )
    if arguments.picture is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 6))
        tiles = np.asarray(samples[:64]).reshape(8, 8, 28, 28).transpose(0, 2, 1, 3)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(tiles.reshape(224, 224), cmap="gray", vmin=-1, vmax=1)
        axes.axis("off")
        figure.savefig(arguments.picture, dpi=80)
