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


FORWARD = {
    "inside one batch": lambda f, a: jax.vmap(
        lambda m: jax.jvp(f, (m,), (jnp.ones_like(m),))[1])(a[0]),
    "inside two": lambda f, a: jax.vmap(jax.vmap(lambda m: jax.jvp(f, (m,), (m,))[1]))(a),
    "around a batch": lambda f, a: jax.jvp(jax.vmap(f), (a[0],), (jnp.ones_like(a[0]),))[1],
    "a Jacobian": lambda f, a: jax.jacfwd(f)(a[0, 0]),
    "Jacobians": lambda f, a: jax.vmap(jax.jacfwd(f))(a[0]),
}  # fmt: skip


@pytest.mark.parametrize("how", FORWARD)
def test_forward_derivatives(how):
    matrices, _ = systems(1)
    for name, plain in (
        ("cholesky", jnp.linalg.cholesky),
        ("log_abs_det", lambda m: jnp.linalg.slogdet(m)[1]),
        ("solve", lambda m: jnp.linalg.solve(m, jnp.ones(4))),
    ):
        ours = getattr(linear_algebra, name)
        if name == "solve":
            ours = lambda m: linear_algebra.solve(m, jnp.ones(4))  # noqa: E731
        found, expected = FORWARD[how](ours, matrices), FORWARD[how](plain, matrices)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_nested_batches_are_loops_all_the_way_down():
    nested = jax.jit(jax.vmap(jax.vmap(linear_algebra.cholesky)))
    program = nested.lower(jnp.ones((7, 5, 3, 3))).compile().as_text()
    calls = [line for line in program.splitlines() if "lapack_spotrf" in line]
    assert calls and not any("f32[7" in line or "f32[5" in line for line in calls)


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
