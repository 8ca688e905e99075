"""What multilevel Monte Carlo saves over plain draws of its finest diffusion: docs/multilevel.md.

::

    python -m docs.scripts.multilevel_table

Writes ``docs/tables/multilevel.md``: the second moment of a skewed mixture, known exactly, for two
mixtures. Some minutes on two cores.
"""

from pathlib import Path

import jax
import numpy as np
from jax import Array

import scoreppl as sp
from scoreppl.solvers import Solver, ancestral, dpm_solver

OUT = Path(__file__).parents[1] / "tables" / "multilevel.md"
NUM_SEEDS = 20
TARGET = 0.02  # of the exact value
RUNS: tuple[tuple[str, Solver, tuple[int, ...]], ...] = (
    ("dpm_solver(2)", dpm_solver(2), (8, 16, 32, 64)),
    ("dpm_solver(2)", dpm_solver(2), (16, 64, 256)),
    ("ancestral", ancestral, (16, 64, 256)),
)
PROBLEMS = {
    "three separated modes": sp.analytic.GaussianMixture(
        [[-1.5], [0.3], [2.2]], scales=[0.3, 0.5, 0.7], weights=[0.55, 0.3, 0.15]
    ),
    "one skewed mode": sp.analytic.GaussianMixture(
        [[0.0], [1.0]], scales=[0.4, 0.8], weights=[0.7, 0.3]
    ),
}


def square(x: Array) -> Array:
    """Return the square of a scalar event."""
    return x[0] ** 2


def row(problem: str, solver_name: str, solver: Solver, grid: tuple[int, ...]) -> str:
    """Run all seeds, and return a line of the table."""
    model = PROBLEMS[problem]
    mean, covariance = (np.asarray(v, np.float64) for v in model.moments())
    exact = float(np.sum(mean**2) + np.sum(covariance))
    found = [
        sp.estimators.multilevel(
            jax.random.key(seed), square, model, num_steps=grid,
            target_standard_error=TARGET * exact, solver=solver, block_size=256,
        )
        for seed in range(NUM_SEEDS)
    ]  # fmt: skip
    values = np.array([run.value for run in found]) / exact
    stated = np.sqrt(np.mean([run.standard_error**2 for run in found])) / exact
    spent = np.mean([run.num_evaluations for run in found])
    plain = np.mean([run.single_level_evaluations for run in found])
    return (
        f"| {problem} | {solver_name} | {', '.join(map(str, grid))} | "
        f"{100 * (values.mean() - 1):+.1f} | {100 * stated:.2f} | {100 * values.std(ddof=1):.2f} | "
        f"{spent:,.0f} | {plain:,.0f} | {plain / spent:.1f} |"
    )


def main() -> None:
    """Measure and write the table."""
    lines = [
        "| law | solver | steps | bias | stated error | error | evaluations | plain | ratio |",
        "|" + "---|" * 9,
    ]
    for problem in PROBLEMS:
        for run in RUNS:
            lines.append(row(problem, *run))
            print(lines[-1], flush=True)
    lines += [
        "",
        f"Second moment, target 2 %, {NUM_SEEDS} seeds, in per cent of the exact value: "
        "bias of the finest diffusion (known to a quarter of the standard error), stated "
        "standard error, standard deviation over the seeds. Evaluations of the denoiser, without "
        "those of 256 pilots a level, and what plain draws of the finest diffusion need for the "
        "same standard error.",
    ]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
