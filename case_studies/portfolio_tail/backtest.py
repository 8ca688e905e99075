"""One-day value at risk on the test days: networks against historical simulation.

A forecast for day t uses returns before t alone. The networks saw no test day and are never
trained again; the law of ``scaled`` is multiplied by each day's volatility forecasts.
"""

from collections.abc import Iterable

import numpy as np

from case_studies.portfolio_tail.coverage_tests import CoverageTests, coverage_tests
from case_studies.portfolio_tail.data import NUM_TEST_DAYS, Returns

PROBABILITIES = (0.05, 0.01, 0.001)
Forecasts = dict[str, np.ndarray]


def _quantiles(losses: Iterable[np.ndarray]) -> np.ndarray:
    """Upper quantiles of the losses imagined for each day, shape ``(days, probabilities)``."""
    upper = [1 - p for p in PROBABILITIES]
    return np.array([np.quantile(day, upper) for day in losses])


def historical(losses: np.ndarray, window: int) -> np.ndarray:
    """Forecast by the quantiles of the last `window` losses, as they were."""
    days = range(len(losses) - NUM_TEST_DAYS, len(losses))
    return _quantiles(losses[day - window : day] for day in days)


def filtered(returns: Returns, holdings: np.ndarray, window: int | None) -> np.ndarray:
    """Forecast by past scaled returns times today's volatility; None: of all days before."""
    days = range(len(returns.days) - NUM_TEST_DAYS, len(returns.days))
    scaled = returns.scaled
    starts = ((0 if window is None else day - window, day) for day in days)
    return _quantiles(
        -scaled[start:day] @ (holdings * returns.volatility[day]) for start, day in starts
    )


def by_network(draws: np.ndarray, units: np.ndarray, holdings: np.ndarray) -> np.ndarray:
    """Forecast by draws of a network, shape ``(n, 20)``, whose units on each day are given."""
    return _quantiles(-draws @ np.float32(holdings * unit) for unit in units)


def forecasts(
    returns: Returns,
    holdings: np.ndarray,
    scaled_draws: np.ndarray,
    static_draws: np.ndarray,
    static_unit: np.ndarray,
) -> Forecasts:
    """Return every method's forecasts for the test days, shape ``(days, probabilities)``."""
    losses = -returns.simple @ holdings
    volatility = returns.volatility[-NUM_TEST_DAYS:]
    fixed = by_network(static_draws, static_unit[None], holdings)
    return {
        "historical simulation, 500 days": historical(losses, 500),
        "historical simulation, 1,000 days": historical(losses, 1_000),
        "network, static": np.repeat(fixed, NUM_TEST_DAYS, 0),
        "filtered historical simulation, 1,000 days": filtered(returns, holdings, 1_000),
        "filtered historical simulation, all days before": filtered(returns, holdings, None),
        "network, scaled": by_network(scaled_draws, volatility, holdings),
    }


def judge(returns: Returns, holdings: np.ndarray, found: Forecasts) -> dict[str, list]:
    """Return each method's coverage tests, one for each probability."""
    losses = -returns.simple[-NUM_TEST_DAYS:] @ holdings
    return {name: _tests(losses, risk) for name, risk in found.items()}


def _tests(losses: np.ndarray, risk: np.ndarray) -> list[CoverageTests]:
    return [coverage_tests(losses > risk[:, i], p) for i, p in enumerate(PROBABILITIES)]


def table(judged: dict[str, dict[str, list[CoverageTests]]]) -> str:
    """Return exceedances, as many as expected, and p-values by portfolio and method."""
    lines = [
        "| portfolio | forecast | level | exceedances | expected | Kupiec | independence "
        "| conditional |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for portfolio, methods in judged.items():
        for name, tests in methods.items():
            for p, test in zip(PROBABILITIES, tests, strict=True):
                numbers = [test.unconditional, test.independence, test.conditional]
                shown = " | ".join(f"{v:.3f}" for v in numbers)
                lines.append(
                    f"| {portfolio} | {name} | {100 * (1 - p):g} % | {test.num_exceeded} "
                    f"| {p * test.num_days:g} | {shown} |"
                )
    return "\n".join(lines) + "\n"
