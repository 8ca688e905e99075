"""Rank ECDFs with simultaneous bands, and TARP's coverage curves."""

import numpy as np
from matplotlib.figure import Figure

from case_studies.calibration.kernels import NUM_DRAWS
from case_studies.calibration.problems import Problem
from case_studies.calibration.ranks import band
from case_studies.calibration.study import Ranked

BAND = 0.01


def draw_ranks(found: dict[str, Ranked], problem: Problem, num_draws: int = NUM_DRAWS) -> Figure:
    """Draw each kernel's rank ECDFs less the uniform one, with the 99 per cent band of one ECDF."""
    columns = min(5, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3 * columns + 0.4, 2.6 * rows + 1.0), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shares = np.arange(1, num_draws + 1) / (num_draws + 1)
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    for axes, (name, ranked) in zip(panels.flat, found.items(), strict=False):
        low, high = band(len(ranked.rank), num_draws, BAND)
        axes.fill_between(shares, low - shares, high - shares, color="0.85", lw=0)
        for label, rank in zip(problem.summaries, ranked.rank.T, strict=True):
            axes.plot(shares, _ecdf(rank, num_draws) - shares, lw=1.2, label=label)
        axes.set_title(name.replace("`", ""), fontsize=8)
        axes.axhline(0, color="black", lw=0.6)
        axes.set_ylim(-0.35, 0.35)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    legend = {"loc": "outside lower center", "fontsize": 8, "frameon": False}
    figure.legend(handles, labels, ncols=min(len(labels), 2 * columns), **legend)
    figure.supylabel("ECDF of the ranks less uniform", fontsize=9)
    return figure


def draw_tarp(found: dict[str, dict[str, Ranked]], num_draws: int = NUM_DRAWS) -> Figure:
    """Draw coverage against credibility by distances from random points, a panel a problem."""
    figure = Figure(figsize=(4.2 * len(found) + 2.4, 4.4), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)
    shares = np.arange(1, num_draws + 1) / (num_draws + 1)
    # A kernel looks alike in all panels.
    names = list(dict.fromkeys(name for kernels in found.values() for name in kernels))
    lines = {}
    for axes, (problem, kernels) in zip(panels.flat, found.items(), strict=True):
        low, high = band(max(len(r.rank) for r in kernels.values()), num_draws, BAND)
        axes.fill_between(shares, low, high, color="0.85", lw=0)
        for name, ranked in kernels.items():
            index = names.index(name)
            style = ("-", "--", ":")[index // 10]
            observed = _ecdf(ranked.rank[:, -1], num_draws)
            (lines[name.replace("`", "")],) = axes.plot(
                shares, observed, style, lw=1.2, color=f"C{index % 10}"
            )
        axes.plot([0, 1], [0, 1], color="black", lw=0.6)
        axes.set(title=problem, xlabel="credibility", xlim=(0, 1), ylim=(0, 1))
    figure.legend(
        lines.values(), lines.keys(), loc="outside right center", fontsize=7, frameon=False
    )
    panels[0, 0].set_ylabel("coverage")
    return figure


def _ecdf(rank: np.ndarray, num_draws: int) -> np.ndarray:
    return np.cumsum(np.bincount(rank, minlength=num_draws + 1))[:-1] / len(rank)
