r"""A small network that denoises twenty returns: a Gaussian's answer with gains that may vary.

Events are returns in units of a volatility (`train.py`), x_t = x_0 + s eps. In the
eigenvectors of their correlations y, with variances lambda, and with c^2 = lambda + s^2, the
denoised event is

.. math::
    y_0 = \frac{\lambda e^h}{\lambda e^h + s^2} \, y + \frac{\sqrt\lambda \, s}{c} \, m,

where a perceptron gives h and m from y / c and s. With h = m = 0 this is exact for a Gaussian; a
wild day's gains are those of a larger variance, so that heavy tails are learnt as a mixture of
scales is, and far outside the data the answer stays between nothing and y.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp

NOISE = sp.noise.VE(0.02, 300.0)
WIDTH, DEPTH = 96, 3
FOLDER = Path(__file__).parent / "networks"
_TIME = 2.0 ** jnp.arange(-2, 3)


def initial(key: Array, events: np.ndarray) -> dict[str, Array]:
    """Return parameters for events of shape ``(n, d)``; the last layer begins at zero."""
    size = events.shape[1]
    variances, vectors = np.linalg.eigh(np.cov(events.T))
    params = {
        "mean": jnp.asarray(events.mean(0), jnp.float32),
        "variances": jnp.asarray(variances, jnp.float32),
        "vectors": jnp.asarray(vectors, jnp.float32),
    }
    sizes = [2 * size + 1 + 2 * len(_TIME), *[WIDTH] * DEPTH, 3 * size]
    for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        scale = 0.0 if layer == DEPTH else math.sqrt(1 / inputs)
        draw = jax.random.normal(jax.random.fold_in(key, layer), (inputs, outputs))
        params |= {f"weight{layer}": scale * draw, f"bias{layer}": jnp.zeros(outputs)}
    return params


def denoise(params: dict[str, Array], x: Array, t: Array, condition: None) -> Array:
    """Return x_0 given one noisy event."""
    _, scale = NOISE(t)
    mean, variances, vectors = (
        jax.lax.stop_gradient(params[name]) for name in ("mean", "variances", "vectors")
    )
    rotated = (x - mean) @ vectors
    whole = jnp.sqrt(variances + scale**2)
    white = rotated / whole
    angle = jnp.log(scale) * _TIME
    hidden = jnp.concatenate(
        [
            jnp.arcsinh(white),
            jnp.arcsinh((x - mean) / jnp.sqrt(1 + scale**2)),
            jnp.log(jnp.mean(white**2) + 1e-3)[None],
            jnp.sin(angle),
            jnp.cos(angle),
        ]
    )
    for layer in range(DEPTH):
        hidden = jax.nn.silu(hidden @ params[f"weight{layer}"] + params[f"bias{layer}"])
    gains, shifts, jumps = jnp.split(hidden @ params[f"weight{DEPTH}"] + params[f"bias{DEPTH}"], 3)
    kept = jax.nn.sigmoid(jnp.log(variances) + gains - 2 * jnp.log(scale))
    found = vectors @ (kept * rotated + jnp.sqrt(variances) * scale / whole * shifts)
    jumped = jax.nn.sigmoid(jumps - 4 - 2 * jnp.log(scale))
    return mean + found + jumped * (x - mean - found)


def as_network(params: dict[str, Array]) -> sp.ScoreNetwork:
    """Return parameters as a score model."""
    return sp.ScoreNetwork(
        denoise, params, noise=NOISE, prediction="x0", event_shape=params["mean"].shape,
        min_time=0.0,
    )  # fmt: skip


def load(name: str) -> sp.ScoreNetwork:
    """Load the network of ``"scaled"`` returns, or that of ``"static"`` ones."""
    path = FOLDER / f"{name}.safetensors"
    return sp.load_score_network(path, apply_fns={"returns_denoiser": denoise})
