"""Truths, sinograms and reconstructions, and how often intervals hold the truth."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from case_studies.tomography.metrics import coverage, quantities
from case_studies.tomography.radon import NUM_ANGLES, filtered_back_projection
from case_studies.tomography.study import OURS
from case_studies.tomography.tables import Judged

NUM_ROWS = 3
# Nineteen draws make central intervals of each of these exactly.
NOMINAL = np.arange(1, 10) / 10


def draw_digits(judged: Judged, transform: np.ndarray) -> Figure:
    """Show the first digits: truth, data, classical reconstruction, and what each method says."""
    columns = 3 + 2 * len(judged.found) + 2
    rows = min(NUM_ROWS, min(len(each) for each in judged.found.values()))
    figure = Figure(figsize=(1.35 * columns, 1.6 * rows), layout="constrained")
    for row, axes in enumerate(figure.subplots(rows, columns, squeeze=False)):
        y, scale = judged.scene.y[row], judged.scene.noise_scales[row]
        sinogram = y.reshape(NUM_ANGLES, -1)
        axes = iter(axes)
        _show(next(axes), judged.scene.images[row], "truth")
        place = next(axes)
        place.imshow(sinogram, aspect="auto", cmap="gray")
        place.set_title(f"sinogram, noise {scale:.2f}", fontsize=7)
        place.axis("off")
        _show(next(axes), filtered_back_projection(transform, sinogram), "back-projection")
        for name, each in judged.found.items():
            draws = each[row].images
            short = "ours" if name == OURS else name
            _show(next(axes), draws.mean(0), f"{short}, mean")
            if name == OURS:
                _show(next(axes), draws.std(0, ddof=1), "ours, sd (to 0.5)", 0.5)
            for number in range(2 if name == OURS else 1):
                _show(next(axes), draws[number], f"{short}, draw {number + 1}")
    return figure


def draw_coverage(judged: Judged) -> Figure:
    """Draw observed against nominal coverage, by quantity and method."""
    asked = quantities()
    figure = Figure(figsize=(2.7 * len(asked), 2.9), layout="constrained")
    for axes, (title, of) in zip(
        figure.subplots(1, len(asked), sharey=True), asked.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="black", lw=0.8)
        for name, images in judged.images.items():
            truth = of(judged.scene.images[: len(images)])
            shares = [coverage(of(images), truth, level) for level in NOMINAL]
            axes.errorbar(
                NOMINAL, [share.mean for share in shares], [share.error for share in shares],
                label=f"{name.replace('`', '')}, {len(images)} digits", lw=1, capsize=2,
            )  # fmt: skip
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("nominal")
    figure.axes[0].set_ylabel("observed")
    figure.suptitle(f"digits {judged.title}", fontsize=9)
    figure.axes[0].legend(fontsize=6)
    return figure


def _show(axes: Axes, image: np.ndarray, title: str, high: float = 1.0) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=high)
    axes.set_title(title, fontsize=7)
    axes.axis("off")
