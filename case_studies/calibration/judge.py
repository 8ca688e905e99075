"""From ranks to a line of the certificate."""

from typing import NamedTuple

import numpy as np

from case_studies.calibration.kernels import NUM_DRAWS
from case_studies.calibration.plans import Plan
from case_studies.calibration.problems import Problem
from case_studies.calibration.ranks import Uniformity, coverage_range, inside, uniformity
from case_studies.calibration.study import Ranked

# Of one row, all its summaries and TARP together.
FALSE_ALARM_RATE = 0.001
LEVELS = (0.5, 0.9)


class Judged(NamedTuple):
    """What ranks say of one kernel on one problem.

    Attributes
    ----------
    shares
        Of truths inside the central intervals of `LEVELS`: smallest and largest of the summaries,
        TARP's apart.
    worst, worst_name
        The summary with the smallest p-value, TARP's apart; of equal ones the farthest.
    tarp
        Of the distances from random points.
    p_value
        The smallest of all, times their number (Bonferroni).
    """

    shares: tuple[tuple[float, float], ...]
    worst: Uniformity
    worst_name: str
    tarp: Uniformity
    p_value: float

    @property
    def holds(self) -> bool:
        """Whether calibration is not rejected."""
        return self.p_value >= FALSE_ALARM_RATE


def judge(rank: np.ndarray, summaries: tuple[str, ...], num_draws: int = NUM_DRAWS) -> Judged:
    """Test ranks, shape ``(sets, summaries)``; the last summary is TARP's."""
    tests = [uniformity(column, num_draws) for column in rank.T]
    *plain, tarp = tests
    worst = min(range(len(plain)), key=lambda i: (plain[i].p_value, -plain[i].deviation))
    shares = [inside(rank[:, :-1], level, num_draws).mean(0) for level in LEVELS]
    return Judged(
        tuple((float(share.min()), float(share.max())) for share in shares),
        plain[worst],
        summaries[worst],
        tarp,
        min(1.0, len(tests) * min(test.p_value for test in tests)),
    )


HEAD = (
    "| truths | kernel | sets | 50 % | 90 % | deviation of ranks | of the worst | TARP deviation "
    "| p | correlation | evaluations | seconds | verdict |\n" + "|---" * 13 + "|"
)


def row(problem: Problem, plan: Plan, ranked: Ranked) -> str:
    """Return a kernel's line."""
    found = judge(ranked.rank, problem.summaries)
    shares = [f"{100 * low:.0f} to {100 * high:.0f}" for low, high in found.shares]
    verdict = "holds" if found.holds else "**fails**"
    if plan.control:
        as_it_must = found.holds == (plan.control == "exact")
        unlike = "is not seen" if plan.control == "wrong" else f"{verdict}, **and must not**"
        verdict = f"{verdict}, as it must" if as_it_must else unlike
    name = f"control: {plan.name}" if plan.control else plan.name
    p_value = f"{found.p_value:.2g}" if found.p_value > 1e-4 else "< 1e-4"
    cells = [
        problem.name, name, str(len(ranked.rank)), *shares,
        f"{found.worst.deviation:.3f}", found.worst_name, f"{found.tarp.deviation:.3f}",
        p_value, f"{ranked.correlation:.2f}",
        f"{ranked.evaluations:,.0f}" if ranked.evaluations else "", f"{ranked.seconds:.2f}",
        verdict,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def note(counts: set[int]) -> str:
    """Say what the columns of an exact sampler would be."""
    said = []
    for count in sorted(counts):
        (a, b), (c, d) = (coverage_range(level, count) for level in LEVELS)
        said.append(
            f"of {count} sets {100 * a:.0f} to {100 * b:.0f} and {100 * c:.0f} to {100 * d:.0f}"
        )
    return (
        "Coverage in per cent, smallest and largest of the summaries; one summary of an exact "
        f"sampler lies with probability 0.9 between these: {'; '.join(said)}. The worst summary "
        "is that of smallest p, and of equal ones the farthest from uniform. p is the smallest of "
        "all summaries and TARP times their number; a row fails below "
        f"{FALSE_ALARM_RATE:g}, which an exact sampler does at most that often. Correlation is of "
        "a kept draw with the next, the largest of the summaries. Evaluations and seconds are of "
        f"one posterior, {NUM_DRAWS} draws, with warm-up and without compilation and pilot draws."
    )
