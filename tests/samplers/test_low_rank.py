"""Low-rank roots against the dense matrices that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl.samplers.low_rank import step_roots

SIZE = 7


def parts(seed, removed_scale=0.2):
    rng = np.random.default_rng(seed)
    spread = jnp.asarray(rng.uniform(0.5, 1.5, SIZE))
    added = jnp.asarray(rng.standard_normal((SIZE, 2)))
    removed = jnp.asarray(removed_scale * rng.standard_normal((SIZE, 3)))
    return spread, added, removed


def dense(root):
    """Covariance of what the root draws."""
    columns = jax.vmap(root.apply)(jnp.eye(SIZE)).T
    return np.asarray(columns @ columns.T)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("has_added, has_removed", [(True, True), (True, False), (False, True)])
def test_roots_have_the_covariances(seed, has_added, has_removed):
    spread, added, removed = parts(seed)
    added, removed = added if has_added else None, removed if has_removed else None
    reference, proposal = step_roots(spread, added, removed, jnp.asarray(0.0))
    expected = np.diag(np.asarray(spread) ** 2)
    if has_added:
        expected = expected + np.asarray(added @ added.T)
    np.testing.assert_allclose(dense(reference), expected, atol=2e-5)
    narrower = expected - np.asarray(removed @ removed.T) if has_removed else expected
    np.testing.assert_allclose(dense(proposal), narrower, atol=2e-5)
    for root, matrix in ((reference, expected), (proposal, narrower)):
        volume = 0.5 * np.linalg.slogdet(matrix)[1]
        np.testing.assert_allclose(root.log_volume, volume, rtol=1e-4, atol=1e-4)
        z = jax.random.normal(jax.random.key(seed), (SIZE,))
        np.testing.assert_allclose(root.whiten(root.apply(z)), z, atol=1e-4)


def test_a_proposal_never_gets_narrower_than_allowed():
    spread, _, removed = parts(2, removed_scale=3.0)
    _, proposal = step_roots(spread, None, removed, jnp.asarray(0.1))
    whitened = dense(proposal) / np.outer(spread, spread)
    values = np.linalg.eigvalsh(whitened)
    assert values.min() > 0.1 - 1e-4 and values.max() < 1 + 1e-4
