"""Pictures of draws, posterior images and acceptances.

Every function returns a `matplotlib.figure.Figure` of its own, outside pyplot: nothing is shown
and no state is kept. matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scoreppl.diagnostics.run import read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HIDDEN = "#9ecae1"
_LINE = "#0072B2"
_DRAWS_IN_ROW = 8
_LEVEL_FIELD = "acceptance_rate_level"


def draws(
    images: ArrayLike,
    *,
    num_columns: int = 8,
    titles: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    colormap: str = "gray",
    label: str = "pixel value",
) -> Figure:
    """Show images in a grid, on one scale.

    Parameters
    ----------
    images
        Shape ``(..., height, width)``, all leading axes in one list; or
        ``(..., height, width, 3)``: colour, values in [0, 1].
    num_columns
        Images in a row.
    titles
        One for each image.
    limits
        Values of the darkest and the brightest grey; by default the 0.5 and 99.5 percentiles.
    colormap
        matplotlib colour map for grey images.
    label
        What the colour bar measures.

    Raises
    ------
    ValueError
        If `images` holds no images, or `titles` are not as many.
    """
    stack = _as_images("images", images)
    if titles is not None and len(titles) != len(stack):
        raise ValueError(f"`titles` has {len(titles)} entries for {len(stack)} images.")
    columns = min(_at_least_one("num_columns", num_columns), len(stack))
    rows = -(-len(stack) // columns)
    figure = _figure(1.15 * columns + 0.9, max((1.4 if titles else 1.15) * rows, 1.7))
    axes = figure.subplots(rows, columns, squeeze=False)
    scale = _limits(stack) if limits is None else limits
    for index, place in enumerate(axes.flat):
        if index >= len(stack):
            place.set_axis_off()
            continue
        shown = _show(place, stack[index], scale, colormap)
        if titles is not None:
            place.set_title(titles[index], fontsize="small")
    if not _is_colour(stack):
        figure.colorbar(shown, ax=axes, label=label, shrink=0.9)
    return figure


def posterior_images(
    samples: ArrayLike,
    truth: ArrayLike | None = None,
    observation: ArrayLike | None = None,
    num_draws: int = 8,
    *,
    limits: tuple[float, float] | None = None,
    colormap: str = "gray",
    label: str = "pixel value",
) -> Figure:
    """Show truth, observation, posterior mean and standard deviation, and some draws.

    Parameters
    ----------
    samples
        Posterior draws, shape ``(..., height, width)`` (leading axes such as chain and draw in
        one list), or ``(..., height, width, 3)`` in colour, values in [0, 1].
    truth, observation
        One image each, where there is one to show. Pixels of the observation that are NaN are
        shown as not observed. It need not have the size of the draws.
    num_draws
        Draws to show, evenly spaced over `samples`; fewer if there are fewer.
    limits, colormap, label
        As in `draws`; one scale for all panels but the standard deviation.

    Raises
    ------
    ValueError
        If the shapes are not as above.
    """
    stack = _as_images("samples", samples)
    count = min(_at_least_one("num_draws", num_draws), len(stack))
    chosen = stack[np.linspace(0, len(stack) - 1, count).round().astype(int)]
    mean, sd = stack.mean(0), stack.std(0)
    panels = [("posterior mean", mean)]
    if observation is not None:
        panels.insert(0, ("observation", _one_image("observation", observation)))
    if truth is not None:
        panels.insert(0, ("truth", _one_image("truth", truth)))
    known = [image.ravel() for name, image in panels if name != "observation"]
    scale = _limits(np.concatenate([*known, chosen.ravel()])) if limits is None else limits

    columns = min(count, _DRAWS_IN_ROW)
    rows = -(-count // columns)
    heights = [2.6, 0.4 + 1.2 * rows]
    figure = _figure(max(2.1 * (len(panels) + 1) + 0.6, 1.15 * columns), sum(heights))
    halves: Any = figure.subfigures(2, 1, height_ratios=heights)
    top, bottom = halves
    axes = np.atleast_1d(top.subplots(1, len(panels) + 1))
    for place, (name, image) in zip(axes, panels, strict=False):
        shown = _show(place, image, scale, colormap)
        hidden = name == "observation" and bool(np.isnan(image).any())
        place.set_title(f"{name}\n(blue: not observed)" if hidden else name, fontsize="medium")
    if not _is_colour(stack):
        top.colorbar(shown, ax=list(axes[:-1]), label=label, shrink=0.8)
    spread = _show(axes[-1], sd.mean(-1) if _is_colour(stack) else sd, (0.0, None), "viridis")
    axes[-1].set_title("posterior sd", fontsize="medium")
    top.colorbar(spread, ax=axes[-1], label=f"sd of {label}", shrink=0.8)
    places = bottom.subplots(rows, columns, squeeze=False).ravel()
    for place in places[count:]:
        place.set_axis_off()
    for place, image in zip(places, chosen, strict=False):
        _show(place, image, scale, colormap)
    bottom.suptitle(f"{count} of {len(stack)} posterior draws", fontsize="medium")
    return figure


def acceptance_by_level(run: Any, *, axes: Axes | None = None) -> Figure:
    """Plot the acceptance rate of an annealed kernel against the noise level.

    The line is the mean over all draws, the band their 10 and 90 percentiles.

    Parameters
    ----------
    run
        A ``numpyro.infer.MCMC`` object after its run, or what `scoreppl.to_inference_data` made
        of one.
    axes
        Where to plot; by default in a new figure.

    Returns
    -------
    Figure
        The figure that holds the plot.

    Raises
    ------
    ValueError
        If the run has no acceptance by noise level.
    """
    levels, rates = _rates_by_level(run)
    place: Any = _figure(5.5, 3.4).subplots() if axes is None else axes
    low, high = np.nanquantile(rates, [0.1, 0.9], axis=0)
    place.fill_between(levels, low, high, color=_LINE, alpha=0.2, linewidth=0, label="10 to 90 %")
    place.plot(levels, np.nanmean(rates, 0), "o-", color=_LINE, markersize=4, label="mean")
    place.set_xscale("log")
    place.invert_xaxis()
    place.set_ylim(0.0, 1.02)
    place.set_xlabel("noise standard deviation σ/α (data units), from noise to data")
    place.set_ylabel("acceptance rate")
    place.set_title(f"Acceptance by noise level, {len(rates)} draws")
    place.grid(alpha=0.3)
    place.legend(loc="lower left", frameon=False)
    return place.get_figure()


def _rates_by_level(run: Any) -> tuple[np.ndarray, np.ndarray]:
    """Noise levels, and acceptances of shape ``(draws, levels)``."""
    if hasattr(run, "get_extra_fields"):
        found = read_run(run)
        levels, rates = found.noise_levels, found.fields.get(_LEVEL_FIELD)
    else:
        levels = rates = None
        stats = run["sample_stats"] if "sample_stats" in run else {}
        if _LEVEL_FIELD in stats and "noise_level" in stats[_LEVEL_FIELD].dims:
            levels = np.asarray(stats["noise_level"])
            rates = np.asarray(stats[_LEVEL_FIELD].transpose(..., "noise_level"))
    if levels is None or rates is None:
        raise ValueError(
            "`run` has no acceptance by noise level: pass the MCMC object of an AnnealedScoreMCMC "
            "run, or what to_inference_data made of it."
        )
    return levels, rates.reshape(-1, len(levels))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # slow to import, and not needed to sample

    return Figure(figsize=(width, height), layout="constrained")


def _show(
    axes: Axes, image: np.ndarray, limits: tuple[float | None, float | None], colormap: str
) -> Any:
    from matplotlib import colormaps

    colours = colormaps[colormap].with_extremes(bad=_HIDDEN)
    axes.set_xticks([])
    axes.set_yticks([])
    if image.ndim == 3:
        return axes.imshow(np.clip(image, 0.0, 1.0), interpolation="nearest")
    low, high = limits
    return axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def _as_images(name: str, values: ArrayLike) -> np.ndarray:
    """Return images with one leading axis."""
    images = np.asarray(values, float)
    event = 3 if images.ndim >= 3 and images.shape[-1] == 3 else 2
    if images.ndim < event or images.size == 0:
        raise ValueError(
            f"`{name}` has shape {images.shape}; images of shape (..., height, width) or "
            "(..., height, width, 3) are needed."
        )
    return images.reshape(-1, *images.shape[-event:])


def _one_image(name: str, value: ArrayLike) -> np.ndarray:
    images = _as_images(name, value)
    if len(images) != 1:
        raise ValueError(f"`{name}` has shape {np.shape(value)}; one image is needed.")
    return images[0]


def _is_colour(images: np.ndarray) -> bool:
    return images.ndim == 4


def _limits(images: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(images, [0.005, 0.995])
    # A flat image still needs a range.
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _at_least_one(name: str, count: int) -> int:
    if count < 1:
        raise ValueError(f"`{name}={count}` must be at least 1.")
    return count
