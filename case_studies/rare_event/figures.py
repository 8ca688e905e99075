"""Twenty estimates of each method with their intervals, a panel a problem."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from case_studies.rare_event.methods import Estimates
from case_studies.rare_event.problems import Problem

REACH = 2.5


def draw_estimates(
    problems: list[Problem], found: dict[str, dict[str, Estimates | None]], path: Path
) -> None:
    """Draw log ratios of estimates and truth; what is further off than `REACH` is a triangle."""
    columns = min(4, len(problems))
    lines = -(-len(problems) // columns)
    names = list(dict.fromkeys(name for problem in problems for name in found[problem.name]))
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.4 * columns, 3.2 * lines), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, problem in zip(axes.flat, problems, strict=False):
        axis.axhline(0.0, color="black", linewidth=0.8)
        for name, each in found[problem.name].items():
            if each is None:
                continue
            place = names.index(name)
            off = each.log_probability - np.log(problem.truth)
            across = place + np.linspace(-0.35, 0.35, len(off))
            with np.errstate(invalid="ignore"):  # estimates without a draw have no interval
                error = np.abs(each.interval - each.log_probability)
            error = np.where(np.isfinite(error), error, 0.0)
            near, colour = np.abs(off) <= REACH, f"C{place}"
            axis.errorbar(
                across[near], off[near], yerr=error[:, near], fmt=".", color=colour,
                markersize=4, linewidth=0.7,
            )  # fmt: skip
            for marker, beyond in (("v", off < -REACH), ("^", off > REACH)):
                at = np.full(beyond.sum(), REACH if marker == "^" else -REACH)
                axis.plot(across[beyond], at, marker, color=colour, markersize=4)
        axis.set(title=problem.name, xticks=[], ylim=(-1.08 * REACH, 1.08 * REACH))
    for axis in axes[:, 0]:
        axis.set_ylabel("log of estimate over truth")
    for axis in axes.flat[len(problems) :]:
        axis.axis("off")
    handles = [
        Line2D([], [], color=f"C{place}", marker=".", linewidth=0.7, label=name)
        for place, name in enumerate(names)
    ]
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)
    plt.close(figure)
