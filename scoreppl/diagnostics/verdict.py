"""From a disagreement in nats to words; the one place of the thresholds.

They are a judgement, drawn from what trained networks show, and not derived: a disagreement
that is small in itself and against the spread of the log acceptance changes few decisions.
"""

import numpy as np

OK = (0.02, 0.1)
"""Nats, and share of the standard deviation of log alpha, below which nothing is to be seen."""

APPROXIMATE = (0.2, 0.5)
"""The same, up to which the acceptance is an approximate correction."""

EXPLANATIONS = {
    "ok": "the acceptance is that of a conservative score for practical purposes.",
    "approximate": "the curl is visible in the acceptance, which corrects approximately.",
    "not corrected": "the curl rivals the acceptance; do not call this a Metropolis correction.",
}
"""What each verdict says, from the best to the worst."""


def verdict(median: float, sd_log_acceptance: float, rounding: float = 0.0) -> str:
    """Judge a median disagreement: ``"ok"``, ``"approximate"`` or ``"not corrected"``.

    Parameters
    ----------
    median
        Median absolute disagreement in nats.
    sd_log_acceptance
        Standard deviation of the moves' log acceptance in nats.
    rounding
        Disagreement in nats that float rounding explains; below it only nats are judged, for
        the ratio of two roundings says nothing.
    """
    share = 0.0 if median <= rounding else ratio(median, sd_log_acceptance)
    if median < OK[0] and share < OK[1]:
        return "ok"
    if median <= APPROXIMATE[0] and share <= APPROXIMATE[1]:
        return "approximate"
    return "not corrected"


def spread(log_acceptance: np.ndarray) -> float:
    """Return the standard deviation of log acceptances, those beyond +-10 counted as +-10.

    Beyond, decisions are made already, and a few divergent moves would swamp all others.
    """
    known = np.clip(log_acceptance[~np.isnan(log_acceptance)], -10.0, 10.0)
    return float(np.std(known)) if known.size else 0.0


def ratio(numerator: float, denominator: float) -> float:
    """Divide; 0 / 0 is 0, and what was not measured (NaN) stays so."""
    if numerator != numerator or denominator != denominator:
        return float("nan")
    if denominator > 0:
        return float(numerator / denominator)
    return 0.0 if numerator == 0 else float("inf")
