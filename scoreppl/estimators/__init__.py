"""Estimates from weighted draws, with honest errors."""

from scoreppl.estimators.control_variates import ControlVariates
from scoreppl.estimators.draws import WeightedDraws, draws_of, weighted_draws
from scoreppl.estimators.evidence import Evidence, log_evidence, resample
from scoreppl.estimators.importance import Expectation, balance_heuristic, expectation, psis
from scoreppl.estimators.mixture_proposal import MixtureProposal
from scoreppl.estimators.multi_expectation import MultiExpectation, multi_expectation
from scoreppl.estimators.stein import Stein, SteinFunctions, SteinKernel

__all__ = [
    "ControlVariates",
    "Evidence",
    "Expectation",
    "MixtureProposal",
    "MultiExpectation",
    "Stein",
    "SteinFunctions",
    "SteinKernel",
    "WeightedDraws",
    "balance_heuristic",
    "draws_of",
    "expectation",
    "log_evidence",
    "multi_expectation",
    "psis",
    "resample",
    "weighted_draws",
]
