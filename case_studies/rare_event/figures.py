"""Twenty estimates of each method with their intervals, a panel a problem."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from case_studies.rare_event.methods import Estimates
from case_studies.rare_event.problems import Problem

REACH = 2.5


def draw_estimates(
    problems: list[Problem], found: dict[str, dict[str, Estimates | None]], path: Path
) -> None:
    """Draw log ratios of estimates and truth; what is further off than `REACH` is a triangle."""
    columns = min(4, len(problems))
    lines = -(-len(problems) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.4 * columns, 3.2 * lines), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, problem in zip(axes.flat, problems, strict=False):
        axis.axhline(0.0, color="black", linewidth=0.8)
        for place, (name, each) in enumerate(found[problem.name].items()):
            if each is None:
                continue
            off = each.log_probability - np.log(problem.truth)
            across = place + np.linspace(-0.35, 0.35, len(off))
            error = np.abs(each.interval - each.log_probability)
            error = np.where(np.isfinite(error), error, 0.0)
            near, colour = np.abs(off) <= REACH, f"C{place}"
            axis.errorbar(
                across[near], off[near], yerr=error[:, near], fmt=".", color=colour,
                markersize=4, linewidth=0.7, label=name,
            )  # fmt: skip
            for marker, beyond in (("v", off < -REACH), ("^", off > REACH)):
                at = np.full(beyond.sum(), REACH if marker == "^" else -REACH)
                axis.plot(across[beyond], at, marker, color=colour, markersize=4)
        axis.set(title=problem.name, xticks=[], ylim=(-1.08 * REACH, 1.08 * REACH))
    for axis in axes[:, 0]:
        axis.set_ylabel("log of estimate over truth")
    for axis in axes.flat[len(problems) :]:
        axis.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    spare = axes.flat[-1] if len(problems) < axes.size else axes.flat[0]
    spare.legend(handles, labels, fontsize=8, loc="center")
    figure.savefig(path, dpi=120)
    plt.close(figure)
