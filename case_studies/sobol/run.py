"""Sobol' indices, moments and tails at once: four methods at one number of evaluations.

::

    python -m case_studies.sobol [--out DIR]

Writes tables of errors, costs, budgets and the flow's own law, and a figure.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from case_studies.sobol.methods import METHODS, Found, at_once, index_names, indices, pick_freeze
from case_studies.sobol.model import (
    G_COEFFICIENTS,
    Model,
    g_function,
    g_function_truth,
    ishigami,
    ishigami_truth,
    score_model,
)
from case_studies.sobol.truth import flow_truth, law_truth

NUM_POINTS, NUM_SEEDS, TRUTH_POINTS = 4_096, 20, 2**20
REFERENCE = "plain draws"
MORE_COEFFICIENTS = (*G_COEFFICIENTS, 20.0, 20.0, 50.0, 50.0)
Runs = dict[str, list[Found]]


def run_all(model: Model, num_points: int, num_seeds: int) -> Runs:
    """Run every method with every seed, after one run that only compiles."""
    runs: Runs = {}
    for name, method in METHODS.items():
        method(model, 0, num_points)
        runs[name] = [method(model, seed, num_points) for seed in range(1, num_seeds + 1)]
    return runs


def errors(runs: list[Found], truth: np.ndarray) -> np.ndarray:
    """Return the errors of all runs, shape ``(seeds, J)``."""
    return np.array([run.value for run in runs]) - truth


def ratio(found: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Return the geometric mean over expectations of the ratio of mean squared errors.

    With its 95 % interval by the bootstrap over seeds.
    """

    def of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        # Few seeds may hit a truth exactly where both are shares of points.
        least = np.finfo(float).tiny
        logs = np.log(np.mean(second**2, -2) + least) - np.log(np.mean(first**2, -2) + least)
        return np.exp(logs.mean(-1))

    rng, count = np.random.default_rng(0), len(found)
    chosen = rng.integers(count, size=(2, 2_000, count))
    low, high = np.quantile(of(found[chosen[0]], reference[chosen[1]]), [0.025, 0.975])
    return float(of(found, reference)), float(low), float(high)


def covered(runs: list[Found], truth: np.ndarray) -> str:
    """Return the share of intervals of 1.96 standard errors that hold the truth, in percent."""
    error = np.array([run.error for run in runs])
    if np.any(np.isnan(error)):
        return ""
    return f"{100 * np.mean(np.abs(errors(runs, truth)) <= 1.96 * error):.0f}"


def error_rows(model: Model, runs: Runs, truth: np.ndarray) -> list[str]:
    """Return the lines of a model in the table of errors."""
    spread = {name: np.sqrt(np.mean(errors(each, truth) ** 2, 0)) for name, each in runs.items()}
    return [
        f"| {model.name} | {name} | {truth[index]:.4f} | "
        + " | ".join(f"{spread[method][index]:.5f}" for method in METHODS)
        + " |"
        for index, name in enumerate(index_names(model))
    ]


def summary_rows(model: Model, runs: Runs, truth: np.ndarray) -> list[str]:
    """Return the lines of a model in the summary."""
    rows = []
    for name, each in runs.items():
        gain = ""
        if name != REFERENCE:
            value, low, high = ratio(errors(each, truth), errors(runs[REFERENCE], truth))
            gain = f"{value:.2f} ({low:.2f} to {high:.2f})"
        cost = np.mean([run.evaluations for run in each])
        # T(z) of both halves for f(A), f(B) and all f(A_i).
        calls = (1 + model.with_indices) * model.network_evaluations * cost / model.cost
        network = f"{calls:,.0f}" if model.network_evaluations and name != "one by one" else ""
        heavy = np.array([run.largest_k for run in each])
        tails = f"{np.sum(heavy > 0.7)} of {len(each)}" if np.any(heavy > -np.inf) else ""
        rows.append(
            f"| {model.name} | {name} | {cost:,.0f} | {network} | "
            f"{np.mean([run.seconds for run in each]):.2f} | {gain} | {covered(each, truth)} | "
            f"{tails} |"
        )
    return rows


def by_budget(
    given: list[tuple[Model, np.ndarray]], num_seeds: int, budgets: tuple[int, ...]
) -> str:
    """Compare all at once with plain draws at several numbers of points."""
    lines = [
        "| model | coordinates of a point | points | gain over plain draws | "
        "share of draws in the last sample |\n|---|---|---|---|---|"
    ]
    for model, truth in given:
        for points in budgets:
            runs = [
                [method(model, seed, points) for seed in range(1, num_seeds + 1)]
                for method in (at_once, pick_freeze)
            ]
            value, low, high = ratio(*(errors(each, truth) for each in runs))
            kept = np.mean([run.kept for run in runs[0]])
            lines.append(
                f"| {model.name}, {model.size} inputs | {model.point_size} | {points:,} | "
                f"{value:.2f} ({low:.2f} to {high:.2f}) | {kept:.2f} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def draw_errors(found: list[tuple[Model, Runs, np.ndarray]], path: Path) -> None:
    """Draw root mean squared errors over those of plain draws, a panel a model."""
    figure, axes = plt.subplots(1, len(found), figsize=(3.6 * len(found), 3.6), sharey=True)
    markers = dict(zip(METHODS, "osx^", strict=True))
    for axis, (model, runs, truth) in zip(axes, found, strict=True):
        spread = {m: np.sqrt(np.mean(errors(each, truth) ** 2, 0)) for m, each in runs.items()}
        for name, values in spread.items():
            if name != REFERENCE:
                axis.plot(values / spread[REFERENCE], markers[name], label=name)
        axis.axhline(1.0, color="black", linewidth=0.8)
        names = index_names(model)
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_yscale("log")
        axis.set_title(model.name)
    axes[0].set_ylabel("RMSE over that of plain draws")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(
    out: Path,
    num_points: int = NUM_POINTS,
    num_seeds: int = NUM_SEEDS,
    truth_points: int = TRUTH_POINTS,
    budgets: tuple[int, ...] = (1_024, 4_096, 16_384),
) -> None:
    """Run everything and write it; a few minutes on two cores."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    third, moments = score_model(), score_model(with_indices=False)
    truth, truth_error = flow_truth(third, truth_points)
    # Moments are known better in fewer dimensions.
    truth[third.num_parts :], truth_error[third.num_parts :] = flow_truth(moments, 2 * truth_points)
    law, law_error = law_truth(4 * truth_points)
    lines = ["| | of the flow | of the prior's own law |\n|---|---|---|"]
    for name, *row in zip(index_names(third), truth, truth_error, law, law_error, strict=True):
        lines.append("| {} | {:.5f} ± {:.5f} | {:.5f} ± {:.5f} |".format(name, *row))
    (out / "law.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)

    first, second = ishigami(), g_function()
    given = [
        (first, indices(first, ishigami_truth())[0]),
        (second, indices(second, g_function_truth())[0]),
        (third, truth),
        (moments, truth[third.num_parts :]),
    ]
    found = [(model, run_all(model, num_points, num_seeds), value) for model, value in given]
    head = f"| model | | truth | {' | '.join(METHODS)} |\n|---|---|---|" + "---|" * len(METHODS)
    rows = [head, *(row for each in found for row in error_rows(*each))]
    (out / "errors.md").write_text("\n".join(rows) + "\n")
    head = (
        "| model | method | evaluations of the output | of the denoiser | seconds a run | "
        "gain over plain draws | intervals that hold the truth, % | runs with a Pareto k above 0.7 "
        "|\n|---|---|---|---|---|---|---|---|"
    )
    rows = [head, *(row for each in found for row in summary_rows(*each))]
    (out / "summary.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows), flush=True)
    draw_errors(found, out / "errors.png")
    more = g_function(MORE_COEFFICIENTS)
    given = [given[1], (more, indices(more, g_function_truth(MORE_COEFFICIENTS))[0]), given[3]]
    (out / "budgets.md").write_text(by_budget(given, num_seeds, budgets))
    print(f"wrote {out} after {(time.perf_counter() - start) / 60:.1f} minutes")
