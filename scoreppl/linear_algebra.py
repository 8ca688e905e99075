"""Factorisations and solutions of small systems, safe for many particles at once.

jaxlib 0.10 spreads a batch of LAPACK calls over the threads that also run the calls themselves:
two batches at a time on two cores wait for each other for ever. On CPUs these functions take a
batch one matrix after another, which is as fast for small matrices; elsewhere they are batched.
They have forward derivatives, no reverse ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _looped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Replace the batching of `function` on CPUs by a loop, however many batches are nested."""
    single = jax.custom_batching.custom_vmap(function)

    @single.def_vmap
    def batched(size, is_batched, *operands):
        operands = [
            operand if has_axis else jnp.broadcast_to(operand, (size, *operand.shape))
            for operand, has_axis in zip(operands, is_batched, strict=True)
        ]
        result = jax.lax.platform_dependent(
            *operands,
            cpu=lambda *rows: jax.lax.map(lambda row: single(*row), rows),
            default=jax.vmap(function),
        )
        return result, jax.tree.map(lambda _: True, result)

    return single


def _one_after_another(function: Callable[..., Any]) -> Callable[..., Any]:
    # The derivative is stated, because the one that JAX derives from a batching rule loses axes.
    call = jax.custom_jvp(_looped(function))

    @call.defjvp
    def slope(operands, tangents):
        count = len(operands)
        along = _looped(lambda *both: jax.jvp(function, both[:count], both[count:])[1])
        return call(*operands), along(*operands, *tangents)

    return call


# Lambdas, because defaults of keyword arguments would become operands.
cholesky = _one_after_another(lambda matrix: jnp.linalg.cholesky(matrix))
eigh = _one_after_another(lambda matrix: jnp.linalg.eigh(matrix))
log_abs_det = _one_after_another(lambda matrix: jnp.linalg.slogdet(matrix)[1])
orthonormal_basis = _one_after_another(lambda columns: jnp.linalg.qr(columns)[0])
solve = _one_after_another(lambda matrix, right: jnp.linalg.solve(matrix, right))
solve_lower = _one_after_another(
    lambda matrix, right: jax.scipy.linalg.solve_triangular(matrix, right, lower=True)
)
