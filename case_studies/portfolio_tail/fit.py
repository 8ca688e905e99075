"""How well the networks' laws have the days' quantiles, tails and correlations."""

import numpy as np
from scipy.stats import kurtosis

from case_studies.portfolio_tail.data import NUM_TEST_DAYS, Returns
from case_studies.portfolio_tail.portfolios import PORTFOLIOS
from case_studies.portfolio_tail.train import events_and_scale

_LEVELS = (0.001, 0.01, 0.05, 0.95, 0.99, 0.999)


def samples_of(name: str, returns: Returns, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return events of the training days, of the test days and of the network."""
    events = events_and_scale(name, returns)[0]
    return {
        "training days": events[:-NUM_TEST_DAYS],
        "test days": events[-NUM_TEST_DAYS:],
        "network": draws,
    }


def table(name: str, returns: Returns, draws: np.ndarray) -> str:
    """Return moments and quantiles, in a network's units."""
    samples = samples_of(name, returns, draws)
    shown = " | ".join(f"{100 * level:g} %" for level in _LEVELS)
    lines = [
        f"| {name} | | standard deviation | excess kurtosis | {shown} |",
        "|" + "---|" * (4 + len(_LEVELS)),
    ]
    for label, events in samples.items():
        spread, tails = np.median(events.std(0)), np.median(kurtosis(events))
        quantiles = np.median(np.quantile(events, _LEVELS, axis=0), axis=1)
        lines.append(_row("one stock, the median", label, spread, tails, quantiles))
    for portfolio, holdings in PORTFOLIOS.items():
        for label, events in samples.items():
            held = events @ holdings
            quantiles = np.quantile(held, _LEVELS)
            lines.append(_row(portfolio, label, held.std(), kurtosis(held), quantiles))
    learnt, held_out, network = (np.corrcoef(events.T) for events in samples.values())
    pairs = np.triu_indices(len(learnt), 1)
    lines.append("")
    lines.append(
        "Root mean square difference of the correlations: network and training days "
        f"{_distance(network[pairs], learnt[pairs]):.3f}, test days and training days "
        f"{_distance(held_out[pairs], learnt[pairs]):.3f}."
    )
    return "\n".join(lines) + "\n"


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(np.mean((first - second) ** 2)))


def _row(what: str, label: str, spread: float, tails: float, quantiles: np.ndarray) -> str:
    shown = " | ".join(f"{value:.2f}" for value in quantiles)
    return f"| {what} | {label} | {spread:.3f} | {tails:.1f} | {shown} |"
