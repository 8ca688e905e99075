"""Simulation-based calibration of the quickstart's model on the shipped network.

::

    python -m docs.scripts.calibration

Draws 40 digits from the network and noise scales from their prior, samples each posterior and
counts how often central 90 % intervals of total ink and noise scale hold the truth. Takes about
ten minutes on two quiet cores and writes ``docs/tables/calibration.md``.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.quickstart.model import digit_model, observe, total_ink

OUT = Path(__file__).parents[1] / "tables" / "calibration.md"
NUM_DIGITS, NUM_DRAWS, BLOCK, NUM_WARMUP = 40, 59, 16, 64


def simulate(network: sp.ScoreNetwork, key: Array) -> tuple[Array, Array]:
    """Draw a digit of the network, seen as in the quickstart with noise from its prior."""
    key_x, key_scale, key_noise = jax.random.split(key, 3)
    x = sp.ScorePrior(network, num_steps=300).sample(key_x)
    scale = 0.5 * jnp.abs(jax.random.normal(key_scale))
    clean = observe(x)
    y = clean + scale * jax.random.normal(key_noise, clean.shape)
    return y, jnp.stack([total_ink(x), scale])


def posterior_draws(network: sp.ScoreNetwork, key: Array, y: Array) -> Array:
    """Return total ink and noise scale of NUM_DRAWS draws after warm-up."""
    kernel = sp.AnnealedScoreMCMC(digit_model, block_size=BLOCK)
    state = kernel.init(key, NUM_WARMUP, None, (network, y), {})

    def step(state, _):
        state = kernel.sample(state, (network, y), {})
        values = kernel.postprocess_fn((network, y), {})(state.z)
        return state, jnp.stack([values["ink"], values["noise_scale"]])

    return jax.lax.scan(step, state, None, length=NUM_WARMUP + NUM_DRAWS)[1][NUM_WARMUP:]


def main() -> None:
    """Run all digits and write the table."""
    network = sp.pretrained.load("digits")

    @jax.jit
    def rank(network: sp.ScoreNetwork, key: Array) -> Array:
        key_data, key_chain = jax.random.split(key)
        y, truth = simulate(network, key_data)
        return jnp.sum(posterior_draws(network, key_chain, y) < truth, 0)

    ranks = []
    for key in jax.random.split(jax.random.key(0), NUM_DIGITS):
        ranks.append(np.asarray(rank(network, key)))
        print(len(ranks), ranks[-1], flush=True)
    # With 59 draws, ranks 3 to 56 are a central interval of exactly 54 / 60 = 90 %.
    found = np.stack(ranks)
    coverage = ((found >= 3) & (found <= 56)).mean(0)
    rows = [
        "| quantity | coverage of 90 % intervals | mean rank (29.5 if calibrated) |",
        "|---|---|---|",
    ]
    for index, name in enumerate(("total ink", "noise scale")):
        rows.append(f"| {name} | {coverage[index]:.2f} | {found[:, index].mean():.1f} |")
    OUT.write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
