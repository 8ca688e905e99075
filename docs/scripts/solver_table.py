"""Distances of 20 evaluations to the fine reference, solver by solver.

::

    python -m docs.scripts.solver_table

Writes ``docs/tables/solvers.md``: on the mixture of 8 dimensions of ``tests/problems.py``, whose
draws are exact, and on the network of handwritten digits, whose reference is 300 steps of the
probability flow.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from scoreppl import pretrained
from scoreppl.score import ScoreModel
from scoreppl.solvers import (
    Exponential,
    Heun,
    Solver,
    ancestral,
    ddim,
    deis,
    dpm_solver,
    multistep,
    search,
    unipc,
)
from tests.problems import prior

OUT = Path(__file__).parents[1] / "tables" / "solvers.md"
FINE = 300


class Row(NamedTuple):
    """A solver as ``sample`` takes it; `evaluations` differ from `num_steps` for Heun."""

    label: str
    solver: Solver
    num_steps: int = 20
    spacing: str | Array = "logsnr"
    evaluations: int = 20


class Bench(NamedTuple):
    """A model, its law, and how much of it is measured and searched."""

    model: ScoreModel
    num_runs: int
    num_draws: int
    exact: Callable[[Array, tuple[int, ...]], Array] | None
    num_starts: int
    num_trials: int


NAMED = (
    Row("ancestral", ancestral, 100, evaluations=100),
    Row("ancestral", ancestral),
    Row("multistep (the default)", multistep),
    Row("ddim()", ddim()),
    Row("dpm_solver(2)", dpm_solver(2)),
    Row("dpm_solver(2), early_noise=0.1", Exponential(2, early_noise=0.1)),
    Row("dpm_solver(2), early_noise=-0.1", Exponential(2, early_noise=-0.1)),
    Row("dpm_solver(3)", dpm_solver(3)),
    Row("deis(3)", deis(3)),
    Row("unipc(2)", unipc(2)),
    # Two evaluations a step, and the last denoising.
    Row("Heun()", Heun(), 10, evaluations=19),
)


def benches() -> dict[str, Bench]:
    """Return the models that are measured."""
    mixture = prior(8)
    return {
        "mixture": Bench(mixture, 8, 2_000, mixture.sample_exact, 512, 300),
        "digits": Bench(pretrained.load("digits"), 3, 128, None, 16, 60),
    }


def sliced_distance(x: Array, y: Array) -> float:
    """Return the sliced Wasserstein-2 distance of two sets of equally many events."""
    x, y = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (x, y))
    directions = np.random.default_rng(0).standard_normal((x.shape[1], 256))
    directions /= np.linalg.norm(directions, axis=0)
    gaps = np.sort(x @ directions, 0) - np.sort(y @ directions, 0)
    return float(np.sqrt(np.mean(gaps**2)))


def distance(x: Array, y: Array) -> float:
    """Return the mean over pairs of the distance per coordinate."""
    gaps = np.asarray(x - y, np.float64).reshape(len(x), -1)
    return float(np.mean(np.sqrt(np.mean(gaps**2, 1))))


def searched(bench: Bench, key: Array) -> tuple[Row, Row]:
    """Return what the search finds for 20 evaluations, and the best named method it tried."""
    found = search(key, bench.model, 20, num_starts=bench.num_starts, num_trials=bench.num_trials)
    solver, spacing = min(found.errors, key=lambda name: found.errors[name])
    label = f"order {solver.order}, {solver.interpolate}" + ", corrector" * solver.corrector
    return (
        Row(f"best named of the search ({label}, {spacing})", solver, spacing=spacing),
        Row("searched", found.solver, spacing=found.times),
    )


def measure(bench: Bench, rows: tuple[Row, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return sliced distances to the law and distances from the same starts.

    Shapes are ``(2 + rows, runs)`` and ``(rows, runs)``; the first two of the former are those of
    draws of the law itself and of the fine flow.
    """
    keys = jax.random.split(jax.random.key(1), bench.num_runs)
    shape = (bench.num_draws,)

    def draws(row: Row, run: int) -> Array:
        return bench.model.sample(
            keys[run], shape, num_steps=row.num_steps, solver=row.solver, spacing=row.spacing
        )

    runs = range(bench.num_runs)
    flows = [draws(Row("fine", dpm_solver(3), FINE), run) for run in runs]
    laws = flows
    if bench.exact is not None:
        laws = [bench.exact(jax.random.fold_in(key, 1), shape) for key in keys]
    # The law of one run is compared with the draws of the next, which are independent of it.
    others = laws[1:] + laws[:1]
    sliced = [
        [sliced_distance(x, law) for x, law in zip(draws_of_runs, others, strict=True)]
        for draws_of_runs in (laws, flows)
    ]
    paired = []
    for row in rows:
        begin = time.perf_counter()
        found = [draws(row, run) for run in runs]
        sliced.append([sliced_distance(x, law) for x, law in zip(found, others, strict=True)])
        paired.append([distance(x, flow) for x, flow in zip(found, flows, strict=True)])
        seconds = time.perf_counter() - begin
        print(row.label, np.mean(sliced[-1]), np.mean(paired[-1]), f"{seconds:.0f} s", flush=True)
    return np.array(sliced), np.array(paired)


def main() -> None:
    """Measure all rows and write the table."""
    lines = [
        "| model | solver | evaluations | sliced W2 to the law | distance from the same start |",
        "|" + "---|" * 5,
    ]
    notes = []
    for name, bench in benches().items():
        rows = NAMED + searched(bench, jax.random.key(0))
        sliced, paired = measure(bench, rows)
        lines.append(f"| {name} | the law itself | | {_mean(sliced[0])} | |")
        if bench.exact is not None:
            lines.append(f"| {name} | fine flow | {FINE} | {_mean(sliced[1])} | 0 |")
        for row, law, start in zip(rows, sliced[2:], paired, strict=True):
            # A path with noise does not end where the flow does.
            is_flow = isinstance(row.solver, Exponential | Heun)
            same = f" {np.mean(start):.4f}" if is_flow else ""
            lines.append(f"| {name} | {row.label} | {row.evaluations} | {_mean(law)} |{same} |")
        notes.append(f"{bench.num_runs} runs of {bench.num_draws:,} draws on the {name}")
    lines += [
        "",
        f"{' and '.join(notes)}: mean ± standard deviation of one run. Log-SNR spacing unless said "
        "otherwise. The law of the mixture is exact; that of the digits is 300 evaluations of the "
        "flow. The distance is a mean per coordinate, in data units.",
    ]
    OUT.write_text("\n".join(lines) + "\n")


def _mean(values: np.ndarray) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


if __name__ == "__main__":
    main()
