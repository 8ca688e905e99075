r"""Two small networks of one size for the plane: one predicts the noise, the other an energy.

Both add a perceptron to the exact answer for a Gaussian. The first gives

.. math:: \epsilon(x, t) = \frac{\sigma}{v} x + f(x, t), \quad v = \sigma^2 + \alpha^2 d^2,

the second a log density up to a constant, whose gradient is its score,

.. math:: \log p_t(x) = -\frac{\|x\|^2}{2 v} + \frac{x \cdot f(x, t)}{w} + g(x, t),
    \quad w^2 = \sigma^2 + b^2,

with d about the spread of the data and b that of its finest part.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

import scoreppl as sp
from case_studies.composition.problem import NOISE, RING_SCALE

WIDTH, DEPTH = 96, 3
DATA_VARIANCE = 0.125
FOLDER = Path(__file__).parent / "networks"
_SPACE = jnp.pi * 2.0 ** jnp.arange(-1, 4)
_TIME = 2.0 ** jnp.arange(-2, 3)


def initial(key: Array, num_outputs: int) -> dict[str, Array]:
    """Return parameters of a perceptron; its last layer begins small."""
    sizes = [2 + 4 * len(_SPACE) + 2 * len(_TIME), *[WIDTH] * DEPTH, num_outputs]
    params = {}
    for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        scale = math.sqrt(1 / inputs) * (0.1 if layer == DEPTH else 1.0)
        draw = jax.random.normal(jax.random.fold_in(key, layer), (inputs, outputs))
        params |= {f"weight{layer}": scale * draw, f"bias{layer}": jnp.zeros(outputs)}
    return params


def _perceptron(params: dict[str, Array], x: Array, t: Array) -> Array:
    space, time = jnp.outer(_SPACE, x).ravel(), NOISE.log_snr(t) / 4 * _TIME
    waves = [wave(angle) for angle in (space, time) for wave in (jnp.sin, jnp.cos)]
    hidden = jnp.concatenate([x, *waves])
    for layer in range(DEPTH):
        hidden = jax.nn.silu(hidden @ params[f"weight{layer}"] + params[f"bias{layer}"])
    return hidden @ params[f"weight{DEPTH}"] + params[f"bias{DEPTH}"]


def epsilon(params: dict[str, Array], x: Array, t: Array, condition: None) -> Array:
    """Predict the noise in one event."""
    alpha, sigma = NOISE(t)
    return sigma * x / (sigma**2 + alpha**2 * DATA_VARIANCE) + _perceptron(params, x, t)


def energy(params: dict[str, Array], x: Array, t: Array, condition: None) -> Array:
    """Return log p_t of one event up to a constant."""
    alpha, sigma = NOISE(t)
    found = _perceptron(params, x, t)
    wide = -0.5 * jnp.sum(x**2) / (sigma**2 + alpha**2 * DATA_VARIANCE)
    return wide + x @ found[:2] / jnp.sqrt(sigma**2 + RING_SCALE**2) + found[2]


APPLY = {"plane_epsilon": epsilon, "plane_energy": energy}
NUM_OUTPUTS = {"epsilon": 2, "energy": 3}


def as_network(params: dict[str, Array], prediction: str) -> sp.ScoreNetwork:
    """Return parameters as a score model; all noise levels are used."""
    return sp.ScoreNetwork(
        APPLY[f"plane_{prediction}"], params, noise=NOISE, prediction=prediction,
        event_shape=(2,), min_time=0.0,
    )  # fmt: skip


def load(law: str, prediction: str) -> sp.ScoreNetwork:
    """Load the network of the ``"ring"`` or the ``"bar"`` that predicts as asked."""
    return sp.load_score_network(FOLDER / f"{law}_{prediction}.safetensors", apply_fns=APPLY)
