"""What the network draws, what the samplers' ranks look like, and the real pair."""

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from case_studies.galaxies.cutout import FITTED, Cutout, Fitted, residuals, window
from case_studies.galaxies.methods import NUM_DRAWS
from case_studies.galaxies.scenes import flux

# Brightness below this is shown linearly, and above it logarithmically.
SOFT = 0.05


def stretch(image: np.ndarray, unit: float = SOFT) -> np.ndarray:
    """Return brightness as astronomers show it, arcsinh(image / unit)."""
    return np.arcsinh(np.asarray(image) / unit)


def draw_galaxies(x: np.ndarray) -> Figure:
    """Show galaxies of the network, with their fluxes."""
    columns = min(8, len(x))
    rows = -(-len(x) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.7 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image in zip(figure.axes, x, strict=False):
        _show(axes, stretch(image), f"flux {float(flux(jnp.asarray(image))):.1f}", -0.5, 3.7)
    return figure


def draw_ranks(bins: dict[str, np.ndarray], noise: float) -> Figure:
    """Draw histograms of the true fluxes' ranks among each sampler's draws."""
    figure = Figure(figsize=(2.6 * len(bins), 2.6), layout="constrained")
    all_axes = figure.subplots(1, len(bins), sharey=True, squeeze=False)[0]
    for axes, (name, counts) in zip(all_axes, bins.items(), strict=True):
        edges = np.linspace(0.0, NUM_DRAWS + 1.0, len(counts) + 1) - 0.5
        axes.stairs(counts / counts.sum(), edges, fill=True, color="C0")
        axes.axhline(1 / len(counts), color="black", lw=0.8)
        axes.set_title(f"{name.replace('`', '')}\n{counts.sum()} galaxies", fontsize=8)
        axes.set_xlabel("rank of the true flux")
    all_axes[0].set_ylabel(f"share, noise {noise:g}")
    return figure


def draw_cutout(cutout: Cutout, fitted: Fitted, band: str = "i", num_shown: int = 4) -> Figure:
    """Draw data, fit and residuals of one band, and the two galaxies before the telescope."""
    b = cutout.bands.index(band)
    noise = np.asarray(cutout.sky.noise)[b]
    data = np.where(np.isfinite(noise), np.asarray(cutout.y)[b], np.nan)
    soft = float(np.nanmedian(np.where(np.isfinite(noise), noise, np.nan)))
    figure = Figure(figsize=(2.1 * (2 + num_shown), 6.6), layout="constrained")
    axes = figure.subplots(3, 2 + num_shown)
    seen = fitted.values["seen"].mean(0)[b]
    parts = [
        fitted.values[f"amplitude{k}"][:, b, None, None] * fitted.values[f"image{k}"][:, b]
        for k in range(len(FITTED))
    ]
    top = [(data, f"data, {band}"), (seen, "posterior mean")]
    top += [(part.mean(0), f"source {FITTED[k]}") for k, part in enumerate(parts)]
    top += [(fitted.values["wings"].mean(0)[b], "sky and wings")]
    for place, (image, title) in zip(axes[0], top, strict=False):
        _show(place, stretch(image, soft), title, -1.5, 4.0)
    shown = axes[0, len(top)].imshow(
        residuals(cutout, fitted)[b], origin="lower", cmap="RdBu_r", vmin=-4, vmax=4
    )
    axes[0, len(top)].set_title("residual, in noise", fontsize=8)
    axes[0, len(top)].axis("off")
    figure.colorbar(shown, ax=axes[0, len(top)], shrink=0.7)
    for k, row in enumerate(axes[1:]):
        x = np.asarray(window()) * fitted.values[f"x{k}"]
        _show(row[0], stretch(x.mean(0)), f"source {FITTED[k]}, mean", -0.5, 3.7)
        spread = row[1].imshow(x.std(0, ddof=1), origin="lower", cmap="magma", vmin=0)
        row[1].set_title("standard deviation", fontsize=8)
        row[1].axis("off")
        figure.colorbar(spread, ax=row[1], shrink=0.7)
        for index in range(num_shown):
            _show(row[2 + index], stretch(x[index]), f"draw {index + 1}", -0.5, 3.7)
    return figure


def _show(axes: Axes, image: np.ndarray, title: str, low: float, high: float) -> None:
    axes.imshow(image, origin="lower", vmin=low, vmax=high)
    axes.set_title(title, fontsize=8)
    axes.axis("off")
