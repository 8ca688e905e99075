"""Disagreement in nats, and against the spread of the log acceptance, at every noise level."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from case_studies.curl.measure import NUM_STEPS, Level
from case_studies.curl.networks import CONTROL
from scoreppl.diagnostics.verdict import APPROXIMATE, OK


def draw_levels(levels: list[Level]) -> Figure:
    """Draw medians above and their ratios below, MALA on the left and HMC on the right."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, kind in enumerate(("loop", "path")):
        for row, quantity in enumerate(("median", "ratio")):
            _draw(axes[row, column], levels, kind, quantity)
            for level, style in ((OK[row], ":"), (APPROXIMATE[row], "--")):
                axes[row, column].axhline(level, color="black", lw=0.8, ls=style)
    axes[0, 0].set_title("MALA: around a triangle of two moves")
    axes[0, 1].set_title(f"HMC of {NUM_STEPS} steps: path less chord")
    axes[0, 0].set_ylabel("median, nats")
    axes[1, 0].set_ylabel("median over sd of log acceptance")
    for axis in axes[1]:
        axis.set_xlabel("noise over signal, σ / α")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _draw(axis: Axes, levels: list[Level], kind: str, quantity: str) -> None:
    for index, name in enumerate(dict.fromkeys(level.network for level in levels)):
        chosen = [level for level in levels if level.network == name]
        axis.loglog(
            [level.noise for level in chosen],
            [getattr(getattr(level, kind), quantity) for level in chosen],
            color="grey" if name == CONTROL else f"C{index}",
            marker="s" if name == CONTROL else "o",
            ms=4,
            label=name,
        )
