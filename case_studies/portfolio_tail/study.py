"""Expected shortfall by plain and by guided paths of one law, at equal network evaluations."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import f as variance_ratio_law

import scoreppl as sp
from case_studies.portfolio_tail.paths import (
    NUM_STEPS,
    Law,
    Losses,
    Tilt,
    evaluations,
    fit_law,
    guided_losses,
    limit_state,
    line_search,
    low_rank,
    unguided,
)
from case_studies.portfolio_tail.shortfall import (
    PROBABILITY,
    TailRisk,
    regression,
    tail_risk,
    tilt_slope,
)

PLAIN_PILOTS, GUIDED_PILOTS, GUIDED_PATHS = 1_000, 500, 2_000
CONTROL_NOISE = 0.3


class Runs(NamedTuple):
    """Independent runs of one method.

    Attributes
    ----------
    risks
        What each estimated.
    controlled
        The same from the same paths with the control variate v - 1; empty where v is one.
    evaluations
        Network evaluations of a run, pilots included.
    seconds
        Seconds of all runs, compilation included.
    """

    risks: list[TailRisk]
    controlled: list[TailRisk]
    evaluations: int
    seconds: float


def pilot(key: jax.Array, law: Law, slopes: np.ndarray) -> tuple[Tilt, int]:
    """Choose the tilt: plain paths find the tail at 1 %, two rounds of guided ones the one asked.

    Returns the tilt and the evaluations it took.
    """
    keys = jax.random.split(key, 3)
    found = guided_losses(keys[0], law, slopes, Tilt(0.0, 0.0), unguided, PLAIN_PILOTS)
    tilt = _tilt(found, 0.01)
    for key_round in keys[1:]:
        found = guided_losses(key_round, law, slopes, tilt, line_search, GUIDED_PILOTS)
        tilt = _tilt(found, PROBABILITY)
    cost = evaluations(unguided, PLAIN_PILOTS) + 2 * evaluations(line_search, GUIDED_PILOTS)
    return tilt, cost


def _tilt(found: Losses, probability: float) -> Tilt:
    end = tail_risk(*found, probability=probability).value_at_risk
    return Tilt(tilt_slope(*found, end), end)


def guided_runs(
    law: Law, slopes: np.ndarray, guidance, num_runs: int, num_paths: int = GUIDED_PATHS
) -> Runs:
    """Run pilots and guided paths, from the beginning in each run."""
    begin, risks, controlled, cost = time.perf_counter(), [], [], 0
    for seed in range(num_runs):
        key_pilot, key_paths = jax.random.split(jax.random.fold_in(jax.random.key(2), seed))
        tilt, cost = pilot(key_pilot, law, slopes)
        found = guided_losses(key_paths, law, slopes, tilt, guidance, num_paths)
        risks.append(tail_risk(*found))
        controlled.append(tail_risk(*found, use_control=True))
    cost += evaluations(guidance, num_paths)
    return Runs(risks, controlled, cost, time.perf_counter() - begin)


def plain_runs(losses: np.ndarray, cost: int, seconds: float) -> Runs:
    """Divide plain losses into runs of as many evaluations."""
    size = cost // NUM_STEPS
    parts = losses[: len(losses) // size * size].reshape(-1, size)
    share = parts.size / len(losses)
    return Runs([tail_risk(part) for part in parts], [], size * NUM_STEPS, share * seconds)


def compare(
    law: Law, slopes: np.ndarray, plain: np.ndarray, plain_seconds: float, num_runs: int
) -> dict[str, Runs]:
    """Return runs of every method, all of about as many evaluations."""
    found = {"`LineSearch`": guided_runs(law, slopes, line_search, num_runs)}
    cost = found["`LineSearch`"].evaluations
    found["`LowRank`"] = guided_runs(law, slopes, low_rank, num_runs)
    few = GUIDED_PATHS * evaluations(line_search, 1) // evaluations(limit_state, 1)
    found["`LimitState`, another law"] = guided_runs(law, slopes, limit_state, num_runs, few)
    return {"plain paths": plain_runs(plain, cost, plain_seconds)} | found


def table(compared: dict[str, dict[str, Runs]], truths: dict[str, TailRisk], num_plain: int) -> str:
    """Return means and spreads of runs, variances against plain paths, and coverage."""
    lines = [
        "| portfolio | paths | evaluations a run | VaR | ES | variance of VaR, plain over this "
        "| variance of ES, plain over this | VaR covered | ES covered | largest share "
        "| seconds a run |",
        "|" + "---|" * 11,
    ]
    for portfolio, methods in compared.items():
        truth = truths[portfolio]
        lines.append(
            f"| {portfolio} | truth: {num_plain:,} plain paths | {num_plain * NUM_STEPS:,} "
            f"| {truth.value_at_risk:.2f} ({truth.interval[0]:.2f} to {truth.interval[1]:.2f}) "
            f"| {truth.shortfall:.2f} ± {truth.shortfall_error:.2f} | | | | | | |"
        )
        plain = methods["plain paths"]
        for name, runs in methods.items():
            lines.append(_row(portfolio, name, runs, runs.risks, plain, truth))
            if runs.controlled:
                controlled = f"{name}, control v − 1"
                lines.append(_row(portfolio, controlled, runs, runs.controlled, plain, truth))
    lines.append("")
    lines.append(
        "Per cent of wealth, at 99.9 %. Mean ± standard deviation of a run; ratios with intervals "
        "at 95 %. Covered: runs whose interval at 95 % holds the truth."
    )
    return "\n".join(lines) + "\n"


def _row(
    portfolio: str, name: str, runs: Runs, risks: list[TailRisk], plain: Runs, truth: TailRisk
) -> str:
    quantiles = np.array([risk.value_at_risk for risk in risks])
    shortfalls = np.array([risk.shortfall for risk in risks])
    ratios = ["", ""]
    if runs is not plain:
        ratios = [
            variance_ratio([risk.value_at_risk for risk in plain.risks], quantiles),
            variance_ratio([risk.shortfall for risk in plain.risks], shortfalls),
        ]
    covered = ["", ""]
    if "another law" not in name:
        inside = [
            sum(r.interval[0] <= truth.value_at_risk <= r.interval[1] for r in risks),
            sum(abs(r.shortfall - truth.shortfall) <= 1.96 * r.shortfall_error for r in risks),
        ]
        covered = [f"{count} of {len(risks)}" for count in inside]
    share = np.median([risk.largest_share for risk in risks])
    return (
        f"| {portfolio} | {name} | {runs.evaluations:,} "
        f"| {quantiles.mean():.2f} ± {quantiles.std(ddof=1):.2f} "
        f"| {shortfalls.mean():.2f} ± {shortfalls.std(ddof=1):.2f} | {ratios[0]} | {ratios[1]} "
        f"| {covered[0]} | {covered[1]} | {share:.2f} | {runs.seconds / len(risks):.1f} |"
    )


def variance_ratio(first: list[float], second: np.ndarray) -> str:
    """Say how many times more the first vary, with the interval of normal numbers."""
    ratio = np.var(first, ddof=1) / np.var(second, ddof=1)
    law = variance_ratio_law(len(first) - 1, len(second) - 1)
    low, high = ratio / law.ppf([0.975, 0.025])
    return f"{ratio:.0f} ({low:.0f} to {high:.0f})"


def control_table(law: Law, events: np.ndarray, slopes: np.ndarray) -> str:
    """Return what of a variance the network's score explains, for smooth and for tail functions.

    The score is that at the events with a little noise added, whose mean under the network's law
    is zero as far as the network's levels agree.
    """
    level = law.network.noise.time(-2 * np.log(CONTROL_NOISE))

    @jax.jit
    def score(key: jax.Array, x: jax.Array) -> jax.Array:
        noisy = x + CONTROL_NOISE * jax.random.normal(key, x.shape)
        return jax.vmap(law.network.score, (0, None))(noisy, level)

    controls = np.asarray(score(jax.random.key(3), jnp.asarray(events)), np.float64)
    losses = np.asarray(events, np.float64) @ slopes
    terms = {"mean loss": losses, "mean squared loss": losses**2}
    for probability in (0.05, 0.01, PROBABILITY):
        quantile = np.quantile(losses, 1 - probability)
        level_name = f"{100 * (1 - probability):g} %"
        terms[f"probability beyond VaR at {level_name}"] = np.float64(losses > quantile)
        terms[f"ES at {level_name}"] = np.maximum(losses - quantile, 0.0) / probability
    lines = ["| mean of | variance left by the score's 20 components |", "|---|---|"]
    for name, values in terms.items():
        left = np.var(values - regression(values, controls)) / np.var(values)
        lines.append(f"| {name} | {left:.3f} |")
    bias = np.abs(controls.mean(0)) / controls.std(0) * np.sqrt(len(controls))
    lines.append("")
    lines.append(
        f"{len(events):,} plain paths, equal weights. The largest mean of a component is "
        f"{bias.max():.1f} of its standard errors from zero."
    )
    return "\n".join(lines) + "\n"


def steps_table(network: sp.ScoreNetwork, slopes: np.ndarray, num_paths: int = 4_000) -> str:
    """Return what the number of steps does to the law's tail, by guided paths."""
    lines = ["| steps | VaR | ES |", "|---|---|---|"]
    for num_steps in (25, 50, 100):
        law = fit_law(jax.random.key(0), network, num_steps)
        tilt, _ = pilot(jax.random.key(4), law, slopes)
        risk = tail_risk(
            *guided_losses(jax.random.key(5), law, slopes, tilt, line_search, num_paths)
        )
        lines.append(
            f"| {num_steps} | {risk.value_at_risk:.2f} ({risk.interval[0]:.2f} to "
            f"{risk.interval[1]:.2f}) | {risk.shortfall:.2f} ± {risk.shortfall_error:.2f} |"
        )
    lines.append("")
    lines.append(f"`LineSearch`, {num_paths:,} paths, equal weights, at 99.9 %.")
    return "\n".join(lines) + "\n"
