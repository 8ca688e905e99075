"""A small classifier of 8 x 8 digits, whose probability of a class is the weight of a draw."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors.numpy import load_file, save_file

from case_studies.augmentation.data import NUM_CLASSES

WIDTH, NUM_PIXELS = 64, 64
FILE = Path(__file__).parent / "classifier.safetensors"


def initial(key: Array) -> dict[str, Array]:
    """Return parameters of a perceptron with one hidden layer."""
    key_first, key_second = jax.random.split(key)
    return {
        "weight0": jax.random.normal(key_first, (NUM_PIXELS, WIDTH)) / math.sqrt(NUM_PIXELS),
        "bias0": jnp.zeros(WIDTH),
        "weight1": jax.random.normal(key_second, (WIDTH, NUM_CLASSES)) / math.sqrt(WIDTH),
        "bias1": jnp.zeros(NUM_CLASSES),
    }


def log_probabilities(params: dict[str, Array], x: Array) -> Array:
    """Return the log probabilities of the ten classes, for images of shape ``(..., 8, 8)``."""
    flat = jnp.reshape(x, (*jnp.shape(x)[:-2], NUM_PIXELS))
    hidden = jax.nn.silu(flat @ params["weight0"] + params["bias0"])
    return jax.nn.log_softmax(hidden @ params["weight1"] + params["bias1"])


def save(params: dict[str, Array], card: dict) -> None:
    """Write parameters and their card."""
    tensors = {name: np.asarray(value) for name, value in params.items()}
    save_file(tensors, FILE, metadata={"card": json.dumps(card)})


def load() -> dict[str, Array]:
    """Load the trained classifier."""
    return {name: jnp.asarray(value) for name, value in load_file(FILE).items()}
