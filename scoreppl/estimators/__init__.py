"""Estimates from weighted draws, with honest errors."""

from scoreppl.estimators.evidence import Evidence, log_evidence, resample
from scoreppl.estimators.mixture_proposal import MixtureProposal
from scoreppl.estimators.multi_expectation import MultiExpectation, multi_expectation

__all__ = [
    "Evidence",
    "MixtureProposal",
    "MultiExpectation",
    "log_evidence",
    "multi_expectation",
    "resample",
]
