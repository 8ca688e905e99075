"""Rewards of pictures: one with a gradient, and one looked at from outside only."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from safetensors.numpy import load_file

from case_studies.augmentation.classifier import log_probabilities
from case_studies.sdxl_latent.model import Reward

JUDGE = Path(__file__).parent / "judge.safetensors"
# The middle of a picture that digits fill, and the classifier's size.
MIDDLE, SIDE = 5 / 8, 8


def redness(image: Array) -> Array:
    """Return by how much red exceeds the mean of green and blue, over the light there is.

    Red is 1, yellow and magenta 1/2, green and blue -1/2, cyan -1, white 0 and black 0.

    Parameters
    ----------
    image
        Shape ``(3, height, width)`` in [0, 1].
    """
    red, green, blue = image
    light = jnp.mean(jnp.max(image, axis=0))
    return jnp.mean(red - 0.5 * (green + blue)) / (light + 1e-2)


def shrunk(image: Array) -> Array:
    """Return the middle of a picture in grey, shape (8, 8) in [-1, 1], for the classifier."""
    grey = jnp.max(image, axis=0)
    height, width = (round(MIDDLE * size) for size in grey.shape)
    top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
    middle = grey[top : top + height, left : left + width]
    return 2.0 * jax.image.resize(middle, (SIDE, SIDE), "linear", antialias=True) - 1.0


def load_judge() -> dict[str, Array]:
    """Load the classifier of `case_studies.sdxl_latent.train`."""
    return {name: jnp.asarray(value) for name, value in load_file(JUDGE).items()}


def class_log_probabilities(image: Array) -> Array:
    """Return the classifier's log probabilities of the ten digits for one picture."""
    return log_probabilities(load_judge(), shrunk(image))


def reddening(prior: Any, latent: Array) -> Array:
    """Return the redness of a latent's picture."""
    return redness(prior.decode(latent))


def likeness(digit: int) -> Reward:
    """Return the log probability that a latent's picture shows `digit`, without a gradient."""

    def reward(prior: Any, latent: Array) -> Array:
        found = class_log_probabilities(prior.decode(latent))[digit]
        return jax.lax.stop_gradient(found)

    return reward
