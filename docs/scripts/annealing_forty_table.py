"""Correctors on forty modes annealed to the inverse temperature 3: the table of docs/smc.md.

::

    python -m docs.scripts.annealing_forty_table

About ten minutes on two cores.
"""

import time
from pathlib import Path

import numpy as np

import scoreppl as sp
from tests.test_forty_modes import exact_masses, exact_row, measure

OUT = Path(__file__).parents[1] / "tables" / "forty_modes.md"
NUM_RUNS = 10


def rows() -> tuple[tuple, ...]:
    """Return label, steps, probes and options of each row."""
    laplacian, variance = sp.correctors.LaplacianOnly(), sp.correctors.VarianceControl()
    never = sp.correctors.Resampling(0.0)
    return (
        ("`LaplacianOnly`, the default", 100, None, {"corrector": laplacian}),
        ("`LaplacianOnly`, one probe", 50, 1, {"corrector": laplacian}),
        (
            "`LaplacianOnly`, never resampled",
            100,
            None,
            {"corrector": laplacian, "resampling": never},
        ),  # fmt: skip
        ("`VarianceControl`", 100, None, {"corrector": variance}),
        ("`EnergyControl`", 100, None, {"corrector": sp.correctors.EnergyControl()}),
        (
            "`LaplacianOnly`, one probe, moves",
            50,
            1,
            {"corrector": laplacian, "moves": sp.correctors.Moves(5)},
        ),  # fmt: skip
        ("`FeynmanKac`", 100, None, {"corrector": sp.correctors.FeynmanKac()}),
    )


def cell(values: np.ndarray, digits: int) -> str:
    """Mean ± standard deviation of one run."""
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def main() -> None:
    """Measure all rows and write the table."""
    lines = [
        "| corrector | steps | score evaluations | W1 | mode distance | log Z error |",
        "|" + "---|" * 6,
    ]
    rng = np.random.default_rng(1)
    masses = exact_masses(rng)
    exact = np.array([exact_row(rng, masses) for _ in range(NUM_RUNS)])
    lines.append(f"| exact draws | | | {cell(exact[:, 0], 2)} | {cell(exact[:, 1], 3)} | |")
    for label, num_steps, num_probes, options in rows():
        begin = time.perf_counter()
        found = measure(num_steps, num_probes, NUM_RUNS, **options)
        cost = f"{num_steps} and Laplacians" if num_probes is None else str(2 * num_steps)
        if "moves" in options:
            cost += " and moves"
        lines.append(
            f"| {label} | {num_steps} | {cost} | {cell(found[:, 0], 2)} "
            f"| {cell(found[:, 1], 3)} | {cell(found[:, 2], 3)} |"
        )
        print(lines[-1], f"{time.perf_counter() - begin:.0f} s", flush=True)
    lines += ["", f"{NUM_RUNS} runs of 10,000 particles a row: mean ± standard deviation of a run."]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
