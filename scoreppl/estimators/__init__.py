"""Estimates from weighted draws, with honest errors."""

from scoreppl.estimators.control_variates import ControlVariates
from scoreppl.estimators.draws import WeightedDraws, draws_of, weighted_draws
from scoreppl.estimators.evidence import Evidence, log_evidence, resample
from scoreppl.estimators.importance import Expectation, balance_heuristic, expectation, psis
from scoreppl.estimators.stein import Stein, SteinFunctions, SteinKernel

__all__ = [
    "ControlVariates",
    "Evidence",
    "Expectation",
    "Stein",
    "SteinFunctions",
    "SteinKernel",
    "WeightedDraws",
    "balance_heuristic",
    "draws_of",
    "expectation",
    "log_evidence",
    "psis",
    "resample",
    "weighted_draws",
]
