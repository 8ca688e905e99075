"""The two pictures: energies of particles, and the forty modes."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from case_studies.annealing.methods import Outcome
from case_studies.annealing.mixtures import FORTY, power
from case_studies.annealing.particle_study import Kept

# Colours of Okabe and Ito, which the colour-blind can tell apart.
COLOURS = {
    "exact": "#bbbbbb",
    "none": "#D55E00",
    "`FeynmanKac`, target score": "#CC79A7",
    "`FeynmanKac`, tempered noise": "#E69F00",
    "`LaplacianOnly`": "#0072B2",
    "`VarianceControl`": "#009E73",
    "the network itself": "#000000",
}


def energies(path: Path, name: str, studies: dict[float, list[Kept]]) -> None:
    """Draw energy histograms of one system, a panel a temperature."""
    figure = Figure(figsize=(4.6 * len(studies), 4.4), layout="constrained")
    panels = figure.subplots(1, len(studies))
    for axes, (temperature, kept) in zip(panels, studies.items(), strict=True):
        low, high = np.quantile(kept[0].energy, (0.0005, 0.9995))
        bins = np.linspace(low - 0.15 * (high - low), high + 0.4 * (high - low), 60)
        for one in kept:
            if one.label == "exact draws":
                continue
            colour = next(c for label, c in COLOURS.items() if one.label.startswith(label))
            filled = one.label == "exact"
            axes.hist(
                one.energy, bins, weights=one.share, density=True, color=colour, linewidth=1.3,
                histtype="stepfilled" if filled else "step",
                label=one.label.replace("`", "").split(":")[0],
            )  # fmt: skip
        axes.set(title=f"{name}, T = {temperature:g}", xlabel="energy", yticks=[])
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def forty(path: Path, outcomes: dict[str, Outcome]) -> None:
    """Draw two thousand draws of each method with the learned score beside exact ones."""
    rng = np.random.default_rng(0)
    panels = {"exact draws": power("forty").draw(rng, 2_000)}
    for label, found in outcomes.items():
        panels[label] = found.x[0][rng.choice(len(found.x[0]), 2_000, p=found.share[0])]
    figure = Figure(figsize=(3.4 * len(panels), 3.7), layout="constrained")
    for axes, (label, x) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.plot(*FORTY.unit * x.T, ",", color="#0072B2")
        axes.plot(*FORTY.unit * FORTY.means.T, "+", color="#D55E00", markersize=4)
        axes.set(title=label.replace("`", "").split(":")[0], xlim=(-50, 50), ylim=(-50, 50))
        axes.title.set_fontsize(9)
        axes.set_aspect("equal")
    figure.savefig(path, dpi=110)
