"""Quantiles of the networks against the days, estimates of the shortfall, and forecasts."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from case_studies.portfolio_tail.backtest import Forecasts
from case_studies.portfolio_tail.data import NUM_TEST_DAYS, Returns
from case_studies.portfolio_tail.fit import samples_of
from case_studies.portfolio_tail.portfolios import PORTFOLIOS
from case_studies.portfolio_tail.shortfall import TailRisk
from case_studies.portfolio_tail.study import Runs


def draw_fit(draws: dict[str, np.ndarray], returns: Returns, path: Path) -> None:
    """Draw quantiles of each portfolio on the days over those of the networks."""
    figure, axes = plt.subplots(len(draws), 2, figsize=(8, 7), layout="constrained")
    for row, (name, events) in zip(axes, draws.items(), strict=True):
        samples = samples_of(name, returns, events)
        for ax, (portfolio, holdings) in zip(row, PORTFOLIOS.items(), strict=True):
            network = samples["network"] @ holdings
            for label in ("training days", "test days"):
                days = np.sort(samples[label] @ holdings)
                levels = (np.arange(len(days)) + 0.5) / len(days)
                ax.plot(np.quantile(network, levels), days, ".", markersize=3, label=label)
            ends = np.array([days[0], days[-1]])
            ax.plot(ends, ends, color="black", linewidth=0.8)
            ax.set(title=f"{name}, {portfolio}", xlabel="network's quantile", ylabel="days'")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_runs(
    compared: dict[str, dict[str, Runs]], truths: dict[str, TailRisk], path: Path
) -> None:
    """Draw the expected shortfall of twenty runs a method with their intervals."""
    figure, axes = plt.subplots(1, len(compared), figsize=(10, 4), layout="constrained")
    for ax, (portfolio, methods) in zip(axes, compared.items(), strict=True):
        truth = truths[portfolio]
        ax.axhline(truth.shortfall, color="black", linewidth=0.8)
        ax.axhspan(
            truth.shortfall - 1.96 * truth.shortfall_error,
            truth.shortfall + 1.96 * truth.shortfall_error,
            color="black", alpha=0.15, linewidth=0,
        )  # fmt: skip
        for column, (name, runs) in enumerate(methods.items()):
            risks = runs.risks[:20]
            place = column + np.linspace(-0.35, 0.35, len(risks))
            ax.errorbar(
                place, [risk.shortfall for risk in risks],
                yerr=[1.96 * risk.shortfall_error for risk in risks],
                fmt=".", markersize=4, linewidth=0.8, label=name.replace("`", ""),
            )  # fmt: skip
        ax.set(title=portfolio, ylabel="expected shortfall at 99.9 %, per cent", xticks=[])
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_forecasts(returns: Returns, found: Forecasts, path: Path) -> None:
    """Draw losses of equal weights and the value at risk at 99 %."""
    figure, ax = plt.subplots(figsize=(10, 4), layout="constrained")
    days = returns.days[-NUM_TEST_DAYS:]
    losses = -100 * returns.simple[-NUM_TEST_DAYS:] @ PORTFOLIOS["equal weights"]
    ax.plot(days, losses, ".", color="grey", markersize=2.5, label="loss")
    shown = ("historical simulation, 500 days", "network, static", "network, scaled")
    for name in shown:
        ax.plot(days, 100 * found[name][:, 1], linewidth=1, label=name)
    ax.set(ylim=(0, None), ylabel="per cent")
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
