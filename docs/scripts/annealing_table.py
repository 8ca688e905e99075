"""Mode masses of annealed draws against exact truth, by levels and moves.

::

    python -m docs.scripts.annealing_table

Writes ``docs/tables/annealing.md``. Two problems in eight dimensions whose prior is an unequal
mixture (``tests/problems.py``): ``lg8``, three linear observations between two modes, and
``pois8``, five Poisson counts.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer import MCMC

import scoreppl as sp
from tests.problems import problem, truth

OUT = Path(__file__).parents[1] / "tables" / "annealing.md"
NUM_DRAWS, NUM_WARMUP, BLOCK = 2048, 1024, 512
SETTINGS = ((20, 1), (20, 4), (20, 12), (40, 12), (80, 12))


def main() -> None:
    """Run all settings and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="*", default=["lg8", "pois8"])
    parser.add_argument("--inners", nargs="*", default=["split", "hmc", "mala"])
    arguments = parser.parse_args()
    rows = [
        "| problem | inner | levels | moves a level | total variation | score evaluations a draw |",
        "|---|---|---|---|---|---|",
    ]
    for name in arguments.problems:
        found, exact = problem(name), truth(name)

        def model(found=found) -> None:
            x = numpyro.sample("x", sp.ScorePrior(found.prior))
            numpyro.factor("weight", found.log_weight(x))

        for inner in arguments.inners:
            for levels, moves in SETTINGS:
                begin = time.perf_counter()
                mcmc = MCMC(
                    sp.AnnealedScoreMCMC(
                        model,
                        inner=inner,
                        num_levels=levels,
                        steps_per_level=moves,
                        block_size=BLOCK,
                    ),
                    num_warmup=NUM_WARMUP,
                    num_samples=NUM_DRAWS,
                    progress_bar=False,
                )
                mcmc.run(jax.random.key(0), extra_fields=("num_score_evaluations",))
                x = mcmc.get_samples()["x"]
                masses = np.asarray(jnp.mean(jax.vmap(found.prior.mode_probabilities)(x), 0))
                distance = 0.5 * np.abs(masses - np.asarray(exact.mode_masses)).sum()
                cost = int(mcmc.get_extra_fields()["num_score_evaluations"][-1])
                rows.append(f"| {name} | {inner} | {levels} | {moves} | {distance:.3f} | {cost} |")
                print(rows[-1], f"{time.perf_counter() - begin:.0f} s", flush=True)
    # A multinomial of 2,048 draws moves the distance by about half a standard error a mode.
    rows.append("")
    rows.append(f"One run of {NUM_DRAWS:,} draws a row; Monte Carlo error about 0.01.")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
