"""Checks of arguments that several parts share."""

import operator
from numbers import Real
from typing import Any

import numpy as np
from jax.core import Tracer


def check_count(name: str, value: Any, least: int) -> int:
    """Return an argument that counts something, or say which it is and what it must be."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise ValueError(f"`{name}={value!r}` must be an integer of at least {least}.")
    if count < least:
        raise ValueError(f"`{name}={value!r}` must be at least {least}.")
    return count


def check_positive(name: str, value: Any) -> float:
    """Return a positive number, infinity included, or say which argument is none."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if not number > 0:
        raise ValueError(f"`{name}={value!r}` must be a positive number.")
    return number


def check_share(name: str, value: Any) -> float:
    """Return a number from 0 to below 1, or say which argument is none."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if not 0.0 <= number < 1.0:
        raise ValueError(f"`{name}={value!r}` must be a number of at least 0 and below 1.")
    return number


def check_finite(name: str, value: Any) -> None:
    """Refuse NaN and infinite numbers in an argument; what JAX is tracing cannot be looked at."""
    if not isinstance(value, Tracer) and not np.all(np.isfinite(np.asarray(value, float))):
        raise ValueError(f"`{name}` holds NaN or infinite values; all must be finite.")
