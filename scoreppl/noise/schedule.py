"""What a schedule is, and how the package's dataclasses become pytrees."""

from dataclasses import fields
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike


@runtime_checkable
class Schedule(Protocol):
    """A map from time to noise level, elementwise on arrays of any shape."""

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return ``(alpha, sigma)`` at time `t`, each of the shape of `t`."""
        ...

    def log_snr(self, t: ArrayLike) -> Array:
        """Return 2 log(alpha / sigma) at time `t`; decreasing in `t`."""
        ...

    def time(self, log_snr: ArrayLike) -> Array:
        """Return the time of a log signal-to-noise ratio, clipped to [0, 1]."""
        ...


_Part = TypeVar("_Part")


def register_part(cls: type[_Part]) -> type[_Part]:
    """Register a dataclass as a pytree that JAX rebuilds without running its checks.

    As `jax.tree_util.register_dataclass` (fields with ``metadata={"static": True}`` are static,
    the others are children), but unflattening bypasses ``__init__``: JAX fills these objects
    with tracers, gradients and placeholders, which no check of a user's input should see.
    """
    names = {f.name: f.metadata.get("static", False) for f in fields(cls)}  # type: ignore[arg-type]
    children = [name for name, static in names.items() if not static]
    statics = [name for name, static in names.items() if static]

    def flatten(part):
        return [getattr(part, name) for name in children], tuple(getattr(part, n) for n in statics)

    def flatten_with_keys(part):
        values, static_values = flatten(part)
        keys = map(jax.tree_util.GetAttrKey, children)
        return list(zip(keys, values, strict=True)), static_values

    def unflatten(static_values, values):
        part = object.__new__(cls)
        for name, value in zip(children + statics, (*values, *static_values), strict=True):
            object.__setattr__(part, name, value)
        return part

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def as_float(value: ArrayLike) -> Array:
    """Return `value` as a floating-point array, in float32 at least."""
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(jnp.result_type(value, float), jnp.float32))


def is_concrete(*values: ArrayLike) -> bool:
    """Return whether the values are known now, so that they can be checked."""
    return not any(isinstance(value, Tracer) for value in values)
