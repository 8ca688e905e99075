"""Tables: every level, trajectories, smaller steps, and what the thresholds of a verdict mean."""

from collections.abc import Callable

import numpy as np

from case_studies.curl.measure import NUM_STEPS, Level, Step
from case_studies.curl.networks import CONTROL
from scoreppl.diagnostics.verdict import APPROXIMATE, EXPLANATIONS, OK

BETWEEN = (0.002, 0.5)
"""Medians, in nats, in which decisions changed are proportional to nats: above, they saturate."""

Found = Level | Step


def number(value: float) -> str:
    """Return two significant digits, without an exponent where that can be read."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{float(f'{value:.2g}'):g}"


def percent(value: float) -> str:
    """Return a share in per cent, in two significant digits."""
    return f"{float(f'{100 * value:.2g}'):g} %" if value >= 1e-4 else "< 0.01 %"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def of_loops(levels: list[Level]) -> str:
    """Return the table of one-step moves, a line a level."""
    rows = [
        [
            level.network, number(level.noise), f"{loop.acceptance_rate:.2f}",
            number(loop.median), number(loop.quantile_90), number(loop.rms), number(loop.kappa),
            percent(loop.ratio), percent(loop.flips), number(loop.asymmetry),
            number(level.denoiser_asymmetry), loop.verdict,
        ]
        for level in levels
        for loop in [level.loop]
    ]  # fmt: skip
    head = [
        "network", "noise", "acceptance", "loop, median", "90 %", "rms", "kappa",
        "median ÷ sd log α", "decisions changed", "asymmetry of the score", "of the denoiser",
        "verdict",
    ]  # fmt: skip
    return table(head, rows)


def of_trajectories(levels: list[Level]) -> str:
    """Return the table of trajectories of five steps, a line a level."""
    rows = [
        [
            level.network, number(level.noise), f"{path.acceptance_path:.2f}",
            f"{path.acceptance_chord:.2f}", number(path.median), number(path.quantile_90),
            percent(path.ratio), percent(path.flips), path.verdict,
        ]
        for level in levels
        for path in [level.path]
    ]  # fmt: skip
    head = [
        "network", "noise", "acceptance by path", "by chord", "path − chord, median", "90 %",
        "median ÷ sd log α", "decisions changed", "verdict",
    ]  # fmt: skip
    return table(head, rows)


def of_steps(steps: list[Step]) -> str:
    """Return the table of smaller steps: MALA and HMC side by side."""
    rows = [
        [
            step.network, number(step.factor), f"{loop.acceptance_rate:.2f}", number(loop.median),
            percent(loop.ratio), percent(loop.flips), loop.verdict, f"{path.acceptance_path:.2f}",
            number(path.median), percent(path.ratio), percent(path.flips), path.verdict,
        ]
        for step in steps
        for loop, path in [(step.loop, step.path)]
    ]  # fmt: skip
    head = ["network", "step"]
    for kernel in ("MALA", f"HMC, {NUM_STEPS} steps"):
        head += [f"{kernel}: acceptance", "median", "÷ sd log α", "decisions changed", "verdict"]
    return table(head, rows)


def judged(found: list[Found]) -> dict[str, np.ndarray]:
    """Return what decides verdicts, by kernel: rows of median, ratio, flips and rejections.

    The control is left out: it has nothing to be judged.
    """
    rest = [each for each in found if each.network != CONTROL]
    loops = [(e.loop.median, e.loop.ratio, e.loop.flips, 1 - e.loop.acceptance_rate) for e in rest]
    paths = [(e.path.median, e.path.ratio, e.path.flips, 1 - e.path.acceptance_path) for e in rest]
    return {"MALA": np.array(loops), "HMC": np.array(paths)}


def at_thresholds(found: list[Found]) -> str:
    """Return what the thresholds mean: decisions changed at them, and of all rejections.

    Decisions changed are proportional to the median where it is small, so that each cell tells
    how many there would be at a threshold; shown are the median of the cells and 80 % of them.
    """
    kinds = judged(found)
    lines = []
    for place, unit, rate in (
        (0, "{:g} nats: decisions changed", _per_nat),
        (1, "{:.0%} of sd log α: decisions changed over rejections", _per_ratio),
    ):
        for threshold in (OK[place], APPROXIMATE[place]):
            cells = [_spread(threshold * rate(rows)) for rows in kinds.values()]
            lines.append([unit.format(threshold), *cells])
    return table(["at the threshold of", *kinds], lines)


def _within(rows: np.ndarray) -> np.ndarray:
    # Where nothing was rejected there is no share of it.
    return rows[(rows[:, 0] > BETWEEN[0]) & (rows[:, 0] < BETWEEN[1]) & (rows[:, 3] > 0)]


def _per_nat(rows: np.ndarray) -> np.ndarray:
    rows = _within(rows)
    return rows[:, 2] / rows[:, 0]


def _per_ratio(rows: np.ndarray) -> np.ndarray:
    rows = _within(rows)
    return rows[:, 2] / rows[:, 3] / rows[:, 1]


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return ""
    low, middle, high = (percent(q) for q in np.quantile(values, [0.1, 0.5, 0.9]))
    return f"{middle} ({low} to {high}), {len(values)} cells"


def by_verdict(found: list[Found]) -> str:
    """Return the decisions changed in all cells of each verdict."""
    pick: dict[str, Callable] = {"MALA": lambda e: e.loop, "HMC": lambda e: e.path}
    rest = [each for each in found if each.network != CONTROL]
    rows = []
    for kernel, part in pick.items():
        for verdict in EXPLANATIONS:
            flips = [part(each).flips for each in rest if part(each).verdict == verdict]
            shown = [percent(f(flips)) for f in (min, np.median, max)] if flips else [""] * 3
            rows.append([kernel, verdict, str(len(flips)), *shown])
    return table(["", "verdict", "cells", "decisions changed: least", "median", "most"], rows)
