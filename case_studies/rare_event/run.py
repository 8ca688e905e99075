"""Probabilities of rare events by six methods, against exact and published numbers.

::

    python -m case_studies.rare_event [--out DIR]

Writes tables of truths, of methods by problem, of the law of a flow and of digits, and a figure.
"""

import time
from pathlib import Path

import jax
import numpy as np

from case_studies.rare_event.digits import Plain, run_digits
from case_studies.rare_event.figures import draw_estimates
from case_studies.rare_event.flow_law import flow_law
from case_studies.rare_event.methods import Estimates, methods_of, run_all
from case_studies.rare_event.problems import Problem, all_problems, plain_check

NUM_ESTIMATES, NUM_CHECKS, NUM_PLAIN = 20, 40_000_000, 80_000
# Evaluations of a plain draw: the steps of the reverse process that paths take.
PLAIN_STEPS = 25
REFERENCE, FORM = "subset simulation", "FORM"
HEAD = (
    "| event | method | mean over the truth | relative error | intervals that hold "
    "the truth | evaluations of the score | of the limit state | of the score for a relative error "
    "of 10 % | subset simulation's, times | seconds of all |\n|" + "---|" * 10
)


def errors(found: Estimates, truth: float) -> np.ndarray:
    """Return relative errors of the probabilities."""
    return np.exp(found.log_probability) / truth - 1.0


def gain(found: Estimates, reference: Estimates, truth: float) -> tuple[float, float, float]:
    """Return how many times the evaluations the reference needs for the same error.

    Evaluations times mean squared relative error, the reference's over the method's, with its 95 %
    interval by the bootstrap over estimates.
    """
    first, second = errors(reference, truth) ** 2, errors(found, truth) ** 2
    price = reference.evaluations / found.evaluations
    rng = np.random.default_rng(0)
    resampled = [
        each[rng.integers(len(each), size=(2_000, len(each)))].mean(1) for each in (first, second)
    ]
    low, high = np.quantile(resampled[0] / np.maximum(resampled[1], 1e-300), [0.025, 0.975])
    return price * first.mean() / second.mean(), price * float(low), price * float(high)


def held(found: Estimates, truth: float) -> str:
    """Return how many intervals hold the truth, of how many."""
    low, high = found.interval
    return f"{np.sum((low <= np.log(truth)) & (np.log(truth) <= high))} of {len(low)}"


def method_row(
    label: str, name: str, found: Estimates | None, reference: Estimates | None, truth: float
) -> str:
    """Return the line of a method."""
    if found is None:
        return f"| {label} | {name} | event not reached |" + " |" * 7
    off = errors(found, truth)
    spread = float(np.sqrt(np.mean(off**2)))
    cells = [f"{1 + off.mean():.2g}" if off.mean() < -0.9 else f"{1 + off.mean():.2f}"]
    if name == FORM:
        return f"| {label} | {name} | {cells[0]} | {spread:.2f} | | {found.evaluations:,.0f} | " + (
            f"{found.states:,.0f} | | | |"
        )
    cells += [f"{spread:.3f}", held(found, truth), f"{found.evaluations:,.0f}"]
    cells.append("" if np.isnan(found.states) else f"{found.states:,.0f}")
    needed = found.evaluations * (spread / 0.1) ** 2
    cells.append(f"{needed:,.0f}" if spread < 0.9 and found.evaluations else "")
    ratio = ""
    if reference is not None and name != REFERENCE and found.evaluations and spread < 0.9:
        ratio = "{:.2g} ({:.2g} to {:.2g})".format(*gain(found, reference, truth))
    return f"| {label} | {name} | {' | '.join(cells)} | {ratio} | {found.seconds:.0f} |"


def problem_rows(problem: Problem, found: dict[str, Estimates | None]) -> list[str]:
    """Return the lines of a problem, plain draws by their formula last."""
    rows = [
        method_row(problem.name, name, each, found[REFERENCE], problem.truth)
        for name, each in found.items()
    ]
    draws = (1 - problem.truth) / problem.truth * 100
    plain = f"{draws * PLAIN_STEPS:.1e}"
    rows.append(f"| {problem.name} | plain draws, by formula | | | | | | {plain} | | |")
    return rows


def truth_rows(problems: list[Problem], num_checks: int) -> list[str]:
    """Return the table of truths, each beside plain draws."""
    rows = [
        "| event | probability | from | published | plain draws that met it | expected |\n"
        "|---|---|---|---|---|---|"
    ]
    for problem in problems:
        met, count = plain_check(problem, num_checks)
        published = "" if problem.published is None else f"{problem.published:.10e}"
        rows.append(
            f"| {problem.name} | {problem.truth:.10e} | {problem.source} | {published} | "
            f"{met:,} of {count:,} | {problem.truth * count:,.1f} |"
        )
    return rows


def digit_rows(plain: dict[str, Plain], found: dict[str, Estimates | None]) -> list[str]:
    """Return the table of digits."""
    rows = [
        "| law | method | estimates | mean | spread over the mean | intervals that hold "
        "the plain paths' mean | evaluations of an estimate | for a relative error of 10 % | "
        "seconds of all |\n" + "|---|---|---|---|---|---|---|---|---|"
    ]
    for law, each in plain.items():
        low, high = each.interval
        needed = each.evaluations / each.met * 100 if each.met else np.nan
        rows.append(
            f"| {law} | plain draws | 1 | {each.met / each.num_draws:.2e} ({low:.2e} to "
            f"{high:.2e}) | | | {each.evaluations:,} | {needed:,.0f} | |"
        )
    truth = plain["paths"].met / plain["paths"].num_draws
    laws = {"subset simulation": "score at the lowest noise"}
    for name, each in found.items():
        if each is None:
            rows.append(f"| | {name} | event not reached |" + " |" * 6)
            continue
        law = laws.get(name, "paths" if "guided" in name else "flow")
        value = np.exp(each.log_probability)
        spread = value.std(ddof=1) / value.mean()
        cells = ["", "", f"{each.evaluations:,.0f}", "", ""]
        if name != FORM:
            needed = each.evaluations * (spread / 0.1) ** 2
            cells = [
                f"{spread:.2f}", held(each, truth) if law == "paths" else "",
                f"{each.evaluations:,.0f}", f"{needed:,.0f}", f"{each.seconds:.0f}",
            ]  # fmt: skip
        rows.append(f"| {law} | {name} | {len(value)} | {value.mean():.2e} | {' | '.join(cells)} |")
    return rows


def write(rows: list[str], path: Path) -> None:
    """Write a table and show it."""
    path.write_text("\n".join(rows) + "\n")
    print("\n".join(rows), flush=True)


def main(
    out: Path,
    *,
    num_estimates: int = NUM_ESTIMATES,
    num_checks: int = NUM_CHECKS,
    num_plain: int = NUM_PLAIN,
    problems: list[Problem] | None = None,
) -> None:
    """Run everything and write it.

    Without plain draws, `num_plain=0`, the digits are left out.
    """
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    problems = all_problems() if problems is None else problems
    write(truth_rows(problems, num_checks), out / "truths.md")
    write(flow_law(jax.random.key(0)), out / "flow.md")
    rows, found = [HEAD], {}
    for problem in problems:
        found[problem.name] = run_all(problem, num_estimates, methods_of(problem))
        rows += problem_rows(problem, found[problem.name])
        write(rows, out / "methods.md")
    draw_estimates(problems, found, out / "estimates.png")
    if num_plain:
        write(digit_rows(*run_digits(num_estimates, num_plain)), out / "digits.md")
    print(f"wrote {out} after {(time.perf_counter() - start) / 60:.1f} minutes")
