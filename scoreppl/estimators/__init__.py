"""Estimates from weighted draws, with honest errors."""

from scoreppl.estimators.evidence import Evidence, log_evidence, resample

__all__ = ["Evidence", "log_evidence", "resample"]
