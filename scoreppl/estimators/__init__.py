"""Estimates from weighted draws, with honest errors."""

from scoreppl.estimators.evidence import Evidence, log_evidence, resample
from scoreppl.estimators.least_squares import LeastSquares, least_squares
from scoreppl.estimators.orthonormal import OrthonormalBasis, orthonormalise

__all__ = [
    "Evidence",
    "LeastSquares",
    "OrthonormalBasis",
    "least_squares",
    "log_evidence",
    "orthonormalise",
    "resample",
]
