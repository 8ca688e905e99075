"""Estimates from weighted draws, with honest errors."""

from scoreppl.estimators.control_variates import ControlVariates
from scoreppl.estimators.coupling import coupled_draws
from scoreppl.estimators.draws import WeightedDraws, draws_of, weighted_draws
from scoreppl.estimators.event_paths import GuidedPaths, choose_paths
from scoreppl.estimators.evidence import Evidence, log_evidence, resample
from scoreppl.estimators.importance import Expectation, balance_heuristic, expectation, psis
from scoreppl.estimators.least_squares import LeastSquares, least_squares
from scoreppl.estimators.mixture_proposal import MixtureProposal
from scoreppl.estimators.multi_expectation import MultiExpectation, multi_expectation
from scoreppl.estimators.multilevel import Levels, Multilevel, multilevel
from scoreppl.estimators.orthonormal import OrthonormalBasis, orthonormalise
from scoreppl.estimators.rare_event import RareEvent, Splitting, Tempering, rare_event
from scoreppl.estimators.stein import Stein, SteinFunctions, SteinKernel

__all__ = [
    "ControlVariates",
    "Evidence",
    "Expectation",
    "GuidedPaths",
    "LeastSquares",
    "Levels",
    "MixtureProposal",
    "MultiExpectation",
    "Multilevel",
    "OrthonormalBasis",
    "RareEvent",
    "Splitting",
    "Stein",
    "SteinFunctions",
    "SteinKernel",
    "Tempering",
    "WeightedDraws",
    "balance_heuristic",
    "choose_paths",
    "coupled_draws",
    "draws_of",
    "expectation",
    "least_squares",
    "log_evidence",
    "multi_expectation",
    "multilevel",
    "orthonormalise",
    "psis",
    "rare_event",
    "resample",
    "weighted_draws",
]
