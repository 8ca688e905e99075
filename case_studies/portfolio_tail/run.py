"""Estimate the expected shortfall of a network of returns, and back-test its forecasts.

::

    python -m case_studies.portfolio_tail [--out DIR] [--part shortfall|forecasts]

The second part, fit and back-tests, needs the prices (``pip install -e ".[portfolio]"``); without
them it is left out.
"""

import importlib.util
import time
from pathlib import Path

import jax
import numpy as np

from case_studies.portfolio_tail import backtest, fit, study
from case_studies.portfolio_tail.data import load_returns
from case_studies.portfolio_tail.figures import draw_fit, draw_forecasts, draw_runs
from case_studies.portfolio_tail.network import load
from case_studies.portfolio_tail.paths import NUM_STEPS, fit_law, plain_events
from case_studies.portfolio_tail.portfolios import PORTFOLIOS, loss_slopes, unit
from case_studies.portfolio_tail.shortfall import tail_risk

PARTS, NAMES = ("shortfall", "forecasts"), ("scaled", "static")
NUM_PLAIN, NUM_RUNS, NUM_FORECAST_DRAWS = 1_000_000, 20, 20_000


def estimate(out: Path, num_plain: int, num_runs: int) -> None:
    """Estimate the shortfall of the law of scaled returns by every method."""
    begin = time.perf_counter()
    law = fit_law(jax.random.key(0), load("scaled"))
    events = plain_events(jax.random.key(1), law, num_plain)
    seconds = time.perf_counter() - begin
    print(f"{num_plain:,} plain paths, {num_plain * NUM_STEPS:,} evaluations: {seconds:.0f} s")
    compared, truths = {}, {}
    for portfolio, holdings in PORTFOLIOS.items():
        slopes = loss_slopes("scaled", holdings)
        losses = np.asarray(events, np.float64) @ slopes
        truths[portfolio] = tail_risk(losses)
        compared[portfolio] = study.compare(law, slopes, losses, seconds, num_runs)
        text = study.table(compared, truths, num_plain)
        print(text, flush=True)
    (out / "shortfall.md").write_text(text)
    draw_runs(compared, truths, out / "shortfall.png")
    slopes = loss_slopes("scaled", PORTFOLIOS["equal weights"])
    (out / "controls.md").write_text(study.control_table(law, events[:200_000], slopes))
    (out / "steps.md").write_text(study.steps_table(law.network, slopes))


def check_forecasts(out: Path, num_draws: int) -> None:
    """Compare the networks with the days, and back-test their forecasts."""
    returns, draws = load_returns(), {}
    for name in NAMES:
        law = fit_law(jax.random.key(0), load(name))
        draws[name] = plain_events(jax.random.key(1), law, num_draws)
        (out / f"fit_{name}.md").write_text(fit.table(name, returns, draws[name]))
    draw_fit(draws, returns, out / "fit.png")
    judged = {}
    for portfolio, holdings in PORTFOLIOS.items():
        found = backtest.forecasts(
            returns, holdings, draws["scaled"], draws["static"], unit("static")
        )
        judged[portfolio] = backtest.judge(returns, holdings, found)
        if portfolio == "equal weights":
            draw_forecasts(returns, found, out / "forecasts.png")
    text = backtest.table(judged)
    print(text)
    (out / "backtest.md").write_text(text)


def main(
    out: Path,
    parts: tuple[str, ...] = PARTS,
    num_plain: int = NUM_PLAIN,
    num_runs: int = NUM_RUNS,
    num_draws: int = NUM_FORECAST_DRAWS,
) -> None:
    """Estimate the shortfall of the network's law, and back-test it if the prices are there."""
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    if "shortfall" in parts:
        estimate(out, num_plain, num_runs)
    if "forecasts" in parts:
        if importlib.util.find_spec("skfolio") is None:
            print('No prices: pip install -e ".[portfolio]" for the back-tests.')
        else:
            check_forecasts(out, num_draws)
    print(f"wrote {out} after {(time.perf_counter() - begin) / 60:.0f} minutes")
