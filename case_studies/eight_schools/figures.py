"""The prior's tails as the network knows them, and the posterior by every sampler."""

import numpy as np
from matplotlib.figure import Figure

from case_studies.eight_schools.judge import Estimates, standard_error
from case_studies.eight_schools.truth import Truth


def draw_figure(
    draws: dict[str, np.ndarray], summaries: dict[str, Estimates], truth: Truth
) -> Figure:
    """Draw survival functions of prior draws, and errors of the means with two standard errors."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    tails, spreads, errors = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for name, effects in draws.items():
        style = {"color": "black", "lw": 3, "alpha": 0.35} if name == "exact" else {"color": "C0"}
        for axes, values in ((tails, np.abs(effects[:, 0])), (spreads, effects.std(1))):
            ordered = np.sort(values)
            share = 1 - (np.arange(len(ordered)) + 0.5) / len(ordered)
            axes.loglog(ordered, share if axes is tails else 1 - share, label=name, **style)
    tails.set(xlabel="size of one effect, points", ylabel="share of larger ones", xlim=(0.1, None))
    spreads.set(xlabel="spread over schools, points", ylabel="share of smaller ones")
    spreads.set_xlim(0.02, 1000)
    tails.legend(frameon=False)
    for row, found in enumerate(summaries.values()):
        error, noise = found.mean.mean(0) - truth.mean, standard_error(found.mean)
        places = row + np.linspace(-0.28, 0.28, len(error))
        errors.errorbar(error, places, xerr=2 * noise, fmt=".", color=f"C{row}", lw=1)
    errors.axvline(0, color="black", lw=0.8)
    errors.set_yticks(range(len(summaries)), [name.replace("`", "") for name in summaries])
    errors.invert_yaxis()
    errors.set_xlabel("error of the eight means, points,\nwith two Monte Carlo errors")
    return figure
