"""Draws over the densities they should have, and acceptance by level."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from case_studies.composition.samplers import Drawn
from case_studies.composition.truth import CELLS, HALF_WIDTH, Truth

Found = dict[tuple[str, str], Drawn]


def draw_samples(truth: Truth, found: Found, exact: np.ndarray, path: Path) -> None:
    """Draw the first run of each method over the target: a row a source of scores."""
    sources = list(dict.fromkeys(source for source, _ in found))
    methods = list(dict.fromkeys(method for _, method in found))
    limits = (0.75, 1.25) if truth.problem.name == "mixture" else (0.75, 0.75)
    figure, axes = plt.subplots(
        len(sources), 1 + len(methods), squeeze=False, sharex=True, sharey=True,
        figsize=(1.6 * (1 + len(methods)), 1.9 * limits[1] / limits[0] * len(sources)),
        layout="constrained",
    )  # fmt: skip
    axis = HALF_WIDTH * (2 * (np.arange(CELLS) + 0.5) / CELLS - 1)
    for row, source in enumerate(sources):
        for column, method in enumerate(["exact draws", *methods]):
            ax = axes[row, column]
            if column and (source, method) not in found:
                ax.axis("off")
                continue
            draws = found[source, method].draws[0] if column else exact
            ax.contourf(
                axis, axis, truth.log_density.T, np.linspace(-8, truth.log_density.max(), 12),
                cmap="Blues",
            )  # fmt: skip
            ax.scatter(*draws.T, s=1.5, color="tab:red", alpha=0.6, linewidths=0)
            ax.set_aspect("equal")
            ax.set(xlim=(-limits[0], limits[0]), ylim=(-limits[1], limits[1]))
            ax.set_xticks([])
            ax.set_yticks([])
            if row == 0:
                ax.set_title(method.replace("`", "").replace(", ", ",\n"), fontsize=8)
        axes[row, 0].set_ylabel(source, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_acceptance(found: Found, path: Path) -> None:
    """Draw the mean acceptance at each level of all adjusted samplers of one composition."""
    figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    styles = {"LA": ":", "HMC": "-", "HMC, energy difference": "--"}
    sources = list(dict.fromkeys(source for source, _ in found))
    for (source, method), drawn in found.items():
        if drawn.acceptance_rate is not None:
            ax.plot(
                drawn.acceptance_rate, styles[method], color=f"C{sources.index(source)}",
                label=f"{source}: {method}", linewidth=1.2,
            )  # fmt: skip
    ax.set(xlabel="level, from noise to data", ylabel="acceptance", ylim=(0, 1.02))
    ax.legend(fontsize=6, loc="lower left")
    figure.savefig(path, dpi=130)
    plt.close(figure)
