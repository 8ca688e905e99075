"""Batches of small systems: the numbers of NumPy, forward derivatives, and no deadlock."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl import linear_algebra

# Two factorisations and two solutions that do not wait for each other, for 1,000 particles.
SIDE_BY_SIDE = """
import jax, jax.numpy as jnp
from scoreppl.linear_algebra import cholesky, solve, solve_lower

def step(a, _):
    def both(a):
        one, other = cholesky(a), cholesky(1.1 * a)
        return solve_lower(one, a) + solve_lower(other, a) + solve(a, a) + solve(2 * a, a)
    return a + 1e-6 * jax.vmap(both)(a), None

noise = 0.01 * jax.random.normal(jax.random.key(0), (1000, 30, 30))
start = 2 * jnp.eye(30) + noise + jnp.swapaxes(noise, 1, 2)
print(jnp.sum(jax.jit(lambda a: jax.lax.scan(step, a, length=20)[0])(start)))
"""


def systems(seed):
    """Return positive definite matrices and right-hand sides, with a batch of a batch."""
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((2, 3, 4, 4))
    matrices = roots @ np.swapaxes(roots, -1, -2) + np.eye(4)
    return jnp.asarray(matrices, jnp.float32), jnp.asarray(rng.standard_normal((2, 3, 4)), "f4")


@pytest.mark.parametrize("seed", range(3))
def test_batches_agree_with_numpy(seed):
    matrices, right = systems(seed)
    exact = np.asarray(matrices, float)

    def twice(function, *operands):
        return jax.jit(jax.vmap(jax.vmap(function)))(*operands)

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    lower = twice(linear_algebra.cholesky, matrices)
    close(lower, np.linalg.cholesky(exact))
    values, vectors = twice(linear_algebra.eigh, matrices)
    close(values, np.linalg.eigvalsh(exact))
    close((vectors * values[..., None, :]) @ jnp.swapaxes(vectors, -1, -2), exact)
    close(twice(linear_algebra.log_abs_det, matrices), np.linalg.slogdet(exact)[1])
    solved = np.linalg.solve(exact, np.asarray(right, float)[..., None])[..., 0]
    close(twice(linear_algebra.solve, matrices, right), solved)
    solved = np.linalg.solve(np.linalg.cholesky(exact), np.asarray(right, float)[..., None])[..., 0]
    close(twice(linear_algebra.solve_lower, lower, right), solved)
    basis = np.asarray(twice(linear_algebra.orthonormal_basis, matrices[..., :2]))
    close(np.swapaxes(basis, -1, -2) @ basis, np.broadcast_to(np.eye(2), (2, 3, 2, 2)))
    close(basis @ (np.swapaxes(basis, -1, -2) @ exact[..., :2]), exact[..., :2])


def test_one_operand_may_be_shared():
    matrices, right = systems(0)
    found = jax.vmap(linear_algebra.solve, in_axes=(None, 0))(matrices[0, 0], right[0])
    expected = np.linalg.solve(np.asarray(matrices[0, 0], float), np.asarray(right[0], float).T).T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_forward_derivatives_pass_a_batch():
    matrices, _ = systems(1)
    matrices = matrices[0]

    def log_det(matrices):
        return jax.vmap(linear_algebra.log_abs_det)(matrices)

    _, slopes = jax.jvp(log_det, (matrices,), (jnp.ones_like(matrices),))
    expected = [np.linalg.inv(np.asarray(matrix, float)).sum() for matrix in matrices]
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)


def test_systems_side_by_side_do_not_wait_for_each_other():
    """In a process of its own, which can be stopped; jaxlib 0.10 never ends with jnp.linalg."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    found = subprocess.run(
        [sys.executable, "-c", SIDE_BY_SIDE],
        capture_output=True, text=True, timeout=240, env=environment,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert np.isfinite(float(found.stdout))
