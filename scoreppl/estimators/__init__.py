"""Estimates from weighted draws, with honest errors."""

from scoreppl.estimators.coupling import coupled_draws
from scoreppl.estimators.evidence import Evidence, log_evidence, resample
from scoreppl.estimators.least_squares import LeastSquares, least_squares
from scoreppl.estimators.multilevel import Levels, Multilevel, multilevel
from scoreppl.estimators.orthonormal import OrthonormalBasis, orthonormalise

__all__ = [
    "Evidence",
    "LeastSquares",
    "Levels",
    "Multilevel",
    "OrthonormalBasis",
    "coupled_draws",
    "least_squares",
    "log_evidence",
    "multilevel",
    "orthonormalise",
    "resample",
]
