"""Figures of the study: reward against distance from the prior, and pictures by method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from case_studies.sdxl_latent.study import Study
from case_studies.sdxl_latent.summary import best_of, summarise

LARGEST_BEST = 64


def draw_distances(axis: Any, study: Study, title: str, farthest: float) -> None:
    """Draw mean rewards against distances: lines for guided paths, a dashed one for best of N."""
    start = study.plain.reward.mean()
    for name, sweep in study.sweeps.items():
        found = [summarise(draws) for draws in sweep]
        is_resampled = np.isnan(found[0].distance.value)
        far = [each.tilt_distance if is_resampled else each.distance.value for each in found]
        rewards = [each.weighted if is_resampled else each.reward for each in found]
        near = np.asarray([0.0, *far]) <= farthest
        axis.errorbar(
            np.asarray([0.0, *far])[near],
            np.asarray([start, *(each.value for each in rewards)])[near],
            np.asarray([0.0, *(each.error for each in rewards)])[near], marker=".", capsize=2,
            label=f"{name}, weighted" if is_resampled else name,
        )  # fmt: skip
    sizes = [2**i for i in range(1, 7) if 2**i <= min(LARGEST_BEST, len(study.plain.reward) // 8)]
    best = [best_of(study.plain.reward, size) for size in sizes]
    axis.plot(
        [0.0, *(each.distance for each in best)], [start, *(each.reward.value for each in best)],
        "k--", marker="x", label="best of N",
    )  # fmt: skip
    axis.set(xlabel="distance from the prior (nats)", ylabel="mean reward", title=title)
    axis.set_xlim(0, farthest)


def draw_surrogate(study: Study, path: Path, farthest: float = 20.0) -> None:
    """Draw the Gaussian's rewards by distance, with the highest that are possible."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    draw_distances(axis, study, "Gaussian, linear reward", farthest)
    far = np.linspace(0, farthest, 200)
    axis.plot(far, np.sqrt(2 * far), color="grey", lw=4, alpha=0.4, label="highest possible")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_network(studies: Mapping[str, Study], path: Path, farthest: float = 30.0) -> None:
    """Draw the network's rewards by distance, a panel a reward."""
    figure, axes = plt.subplots(
        1, len(studies), figsize=(5.4 * len(studies), 4.2), layout="constrained", squeeze=False
    )
    for axis, (title, study) in zip(axes[0], studies.items(), strict=True):
        draw_distances(axis, study, title, farthest)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_pictures(pictures: Mapping[str, np.ndarray], path: Path, title: str) -> None:
    """Draw rows of pictures by method; those of a column begin with the same noise.

    Parameters
    ----------
    pictures
        Images by method, shape ``(n, 3, height, width)`` in [0, 1].
    path
        Where to write.
    title
        Of the figure.
    """
    columns = max(len(images) for images in pictures.values())
    figure, axes = plt.subplots(
        len(pictures), columns, figsize=(0.62 * columns + 2.0, 0.62 * len(pictures) + 0.4),
        squeeze=False,
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (name, images) in zip(axes, pictures.items(), strict=True):
        line[0].text(-0.15, 0.5, name, ha="right", va="center", transform=line[0].transAxes)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(np.moveaxis(np.asarray(image), 0, -1))
    left = 2.0 / (0.62 * columns + 2.0)
    figure.suptitle(title, fontsize=10)
    figure.subplots_adjust(left=left, right=0.995, top=0.93, bottom=0.01, wspace=0.04, hspace=0.04)
    figure.savefig(path, dpi=120)
    plt.close(figure)
