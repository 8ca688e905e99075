"""Checks of arguments that several parts share."""

import operator
from typing import Any


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
