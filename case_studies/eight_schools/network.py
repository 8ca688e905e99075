r"""A score network for exchangeable numbers: a perceptron shared by all, and their mean.

Schools have no order, so the network treats all alike: each school's hidden units see its own and
the mean of all schools'. It reads each school's deviation d from their mean in units of the
deviations' root mean square r, and the logarithm of r over the noise: where the schools are all
but equal, the score is steep, and these two say how steep. It predicts
:math:`v = \alpha \epsilon - \sigma x_0 = a + b\,d / r`.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

import scoreppl as sp
from case_studies.eight_schools.model import NUM_SCHOOLS

NOISE = sp.noise.VPCosine()
WIDTH, DEPTH = 64, 3
FILE = Path(__file__).parent / "network.safetensors"
_FREQUENCIES = 2.0 ** jnp.arange(-2, 3)
_NUM_INPUTS = 4 + 2 * len(_FREQUENCIES)


def initial(key: Array) -> dict[str, Array]:
    """Return parameters; the last layer begins small."""
    sizes = [_NUM_INPUTS, *[WIDTH] * DEPTH, 2]
    params = {}
    for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        for kind, fan_in in (("own", inputs), ("mean", inputs)):
            if kind == "mean" and layer in (0, DEPTH):
                continue
            scale = (0.1 if layer == DEPTH else 1.0) / math.sqrt(fan_in)
            key, key_layer = jax.random.split(key)
            draw = jax.random.normal(key_layer, (inputs, outputs))
            params[f"{kind}{layer}"] = scale * draw
        params[f"bias{layer}"] = jnp.zeros(outputs)
    return params


def v_prediction(params: dict[str, Array], x: Array, t: Array, condition: None) -> Array:
    """Predict alpha eps - sigma x_0 of one event."""
    log_snr = NOISE.log_snr(t)
    centre = jnp.mean(x)
    spread = jnp.sqrt(jnp.mean((x - centre) ** 2) + 1e-12)
    deviation = (x - centre) / spread
    ratio = jnp.log(spread / NOISE(t)[1])
    angle = log_snr / 4 * _FREQUENCIES
    shared = jnp.concatenate([jnp.stack([centre, ratio]), jnp.sin(angle), jnp.cos(angle)])
    shared = jnp.broadcast_to(shared, (NUM_SCHOOLS, len(shared)))
    hidden = jnp.concatenate([jnp.stack([x, deviation], 1), shared], 1)
    for layer in range(DEPTH):
        mixed = hidden @ params[f"own{layer}"] + params[f"bias{layer}"]
        if layer:
            mixed += jnp.mean(hidden, 0) @ params[f"mean{layer}"]
        hidden = jax.nn.silu(mixed)
    found = hidden @ params[f"own{DEPTH}"] + params[f"bias{DEPTH}"]
    return found[:, 0] + found[:, 1] * deviation


def as_network(params: dict[str, Array]) -> sp.ScoreNetwork:
    """Return parameters as a score model."""
    return sp.ScoreNetwork(
        v_prediction, params, noise=NOISE, prediction="v", event_shape=(NUM_SCHOOLS,)
    )


def load() -> sp.ScoreNetwork:
    """Load the trained network."""
    return sp.load_score_network(FILE, apply_fns={"exchangeable": v_prediction})
