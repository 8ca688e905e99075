"""How far trained networks are from being gradients, and what it does to an acceptance.

::

    python -m case_studies.curl [--network FILE ...] [--model package.module:function ...]
        [--galaxies] [--full] [--out DIR]

Measures the project's networks, a control that is a gradient, and those that are named; writes
tables and a figure, anew after each network.
"""

import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from case_studies.curl import figures, tables
from case_studies.curl.measure import USUAL, Level, Sizes, Step, measure
from case_studies.curl.networks import Named


def main(out: Path, networks: list[Named], sizes: Sizes = USUAL, seed: int = 0) -> None:
    """Measure networks and write ``*.md`` and ``levels.png``."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    levels: list[Level] = []
    steps: list[Step] = []

    def report(text: str) -> None:
        tqdm.write(f"{time.perf_counter() - start:5.0f} s  {text}")

    for named in networks:
        found = measure(named.name, named.load(), jax.random.key(seed), sizes, report)
        levels += found[0]
        steps += found[1]
        write(out, levels, steps, note(levels, sizes, time.perf_counter() - start))
    for name in ("loops", "trajectories", "steps", "thresholds", "verdicts"):
        print(f"\n{(out / name).with_suffix('.md').read_text()}")
    report(f"done: {out}")


def write(out: Path, levels: list[Level], steps: list[Step], said: str) -> None:
    """Write what there is."""
    found = [*levels, *(step for step in steps if step.factor != 1)]
    texts = {
        "loops": tables.of_loops(levels) + f"\n\n{said}",
        "trajectories": tables.of_trajectories(levels),
        "steps": tables.of_steps(steps),
        "thresholds": tables.at_thresholds(found),
        "verdicts": tables.by_verdict(found),
    }
    for name, text in texts.items():
        (out / f"{name}.md").write_text(text + "\n")
    figures.draw_levels(levels).savefig(out / "levels.png", dpi=110)


def note(levels: list[Level], sizes: Sizes, seconds: float) -> str:
    """Say what a line rests on, and how much of it is quadrature."""
    loop = np.max([level.loop.quadrature_error for level in levels])
    path = np.max([level.path.quadrature_error for level in levels])
    return (
        f"A line rests on {sizes.points * sizes.loops} triangles and "
        f"{sizes.points * sizes.trajectories} trajectories from {sizes.points} points. The largest "
        f"median estimate of a quadrature error among all lines is {tables.number(loop)} nats for "
        f"triangles and {tables.number(path)} for trajectories. {seconds:.0f} seconds in all."
    )
