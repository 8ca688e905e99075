"""From a disagreement in nats to words; the one place of the thresholds.

Nats, shares and decisions have thresholds of their own, and the worst of the three counts. They are
a judgement, and this is what they mean, measured over trained networks, noise levels and step sizes
(``case_studies/curl``, where the tables are):

- Nats count decisions. A median of 0.02 nats changes about 1 in 100 acceptance decisions and one
  of 0.2 nats about 10 in 100, for one-step moves and for trajectories alike. For small
  disagreements D and normal log acceptances the share is E|D| times half the acceptance rate.
- Shares count rejections, which are what an acceptance adds to the moves. Where the median is 10 %
  of the standard deviation of log alpha, the decisions changed are about 1 in 7 of the rejections,
  and at 50 % they are most of them. Small steps meet this threshold: the curl of a move falls
  with h and the deviation with h^(3/2), so that few decisions change, but as few are corrections.
  Where log acceptances have heavy tails the share looks small, and the nats decide.
- Decisions are counted themselves, too. Medians do not see a curl that fewer than half of the moves
  meet, such as one in a single mode; the mean change of an acceptance probability does.
"""

import numpy as np

OK = (0.02, 0.1, 0.02)
"""Nats, share of the standard deviation of log alpha and share of the decisions, below which
nothing is to be seen."""

APPROXIMATE = (0.2, 0.5, 0.1)
"""The same, up to which the acceptance is an approximate correction."""

EXPLANATIONS = {
    "ok": "the acceptance is that of a conservative score for practical purposes.",
    "approximate": "the curl is visible in the acceptance, which corrects approximately.",
    "not corrected": "the curl rivals the acceptance; do not call this a Metropolis correction.",
}
"""What each verdict says, from the best to the worst."""


def verdict(
    median: float, sd_log_acceptance: float, rounding: float = 0.0, flips: float = 0.0
) -> str:
    """Judge a disagreement: ``"ok"``, ``"approximate"`` or ``"not corrected"``.

    Parameters
    ----------
    median
        Median absolute disagreement in nats.
    sd_log_acceptance
        Standard deviation of the moves' log acceptance in nats.
    rounding
        Disagreement in nats that float rounding explains; below it only nats are judged, for
        the ratio of two roundings says nothing.
    flips
        Share of the decisions that it changes.
    """
    share = 0.0 if median <= rounding else ratio(median, sd_log_acceptance)
    found = (median, share, flips)
    if all(value < limit for value, limit in zip(found, OK, strict=True)):
        return "ok"
    if all(value <= limit for value, limit in zip(found, APPROXIMATE, strict=True)):
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
