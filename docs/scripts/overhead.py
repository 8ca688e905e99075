"""Sampler overhead: an annealed run on the digits network against its bare network calls.

::

    python -m docs.scripts.overhead

Times blocks of draws of the quickstart's model (compiled before) and, interleaved with them, as
many bare jitted calls of the network's score at the same batch size as a block makes; writes
``docs/tables/overhead.md``.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.quickstart.model import digit_model
from case_studies.quickstart.run import simulate

CHAINS, BLOCK, REPEATS = 4, 16, 5
OUT = Path(__file__).parents[1] / "tables" / "overhead.md"


def seconds(fn: Callable[[], Array]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - begin


def main() -> None:
    """Measure and write the table."""
    network = sp.pretrained.load("digits")
    y = simulate(jax.random.key(1)).observation
    kernel = sp.AnnealedScoreMCMC(digit_model, block_size=BLOCK)
    keys = jax.random.split(jax.random.key(0), CHAINS)
    state = kernel.init(keys, 0, None, (network, y), {})
    advance = jax.jit(lambda state, network, y: kernel.sample(state, (network, y), {}))
    batch = CHAINS * BLOCK
    x = jax.random.normal(jax.random.key(2), (batch, 28, 28))
    score = jax.jit(lambda network, x: jax.vmap(network.score, (0, None))(x, 0.3))

    def run() -> Array:
        # The state comes with a spent block, so that this one draw makes a whole new block.
        return advance(state, network, y).block_z["x"]

    jax.block_until_ready(run())
    evaluations = int(advance(state, network, y).num_score_evaluations[0])

    def bare() -> Array:
        out = x
        for _ in range(evaluations):
            out = score(network, x)
        return out

    seconds(bare)
    pairs = [(seconds(run), seconds(bare)) for _ in range(REPEATS)]
    ratios = sorted(a / b for a, b in pairs)
    rows = [
        "| batch | score evaluations a draw | annealed run, s | bare calls, s | ratio (median) |",
        "|---|---|---|---|---|",
        f"| {batch} | {evaluations} | {np.median([a for a, _ in pairs]):.2f} | "
        f"{np.median([b for _, b in pairs]):.2f} | {ratios[REPEATS // 2]:.2f} |",
    ]
    print("\n".join(rows))
    print("ratios:", [round(r, 3) for r in ratios])
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
