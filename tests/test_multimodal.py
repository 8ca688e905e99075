"""The multimodal case study's claims: exact masses where NUTS stays in the mode it started in."""

import jax
import numpy as np
import pytest

pytest.importorskip("optax")

from case_studies.multimodal.methods import (  # noqa: E402
    Outcome,
    run_diffusion_mh,
    run_nuts,
    train_network,
)
from case_studies.multimodal.model import POSTERIORS  # noqa: E402
from case_studies.multimodal.run import Judged  # noqa: E402


@pytest.mark.slow
def test_modes_have_their_masses_where_nuts_is_stuck():
    posterior = POSTERIORS[0]
    key_train, key_run, key_nuts = jax.random.split(jax.random.key(0), 3)
    trained = train_network(posterior, key_train, 48)
    found = Judged(run_diffusion_mh(posterior, key_run, 500, 2_500, trained), posterior.masses)
    assert found.r_hat < 1.01
    # Of at most six modes: false-alarm rate 4e-4.
    assert found.errors < 4.0
    # Sixteen chains, since four may all start towards one mode, which nothing then shows.
    nuts = Judged(run_nuts(posterior, key_nuts, 500, 200, chains=16), posterior.masses)
    assert nuts.r_hat > 1.5 and nuts.distance > 0.1


def test_the_truth_of_the_ten_dimensions_is_that_of_quadrature():
    """Masses by importance sampling from each mode's own neighbourhood."""
    posterior = POSTERIORS[0]
    np.testing.assert_allclose(posterior.masses.sum(), 1.0)
    from case_studies.multimodal.model import CENTRES, MODE_SDS, MODE_WEIGHTS, PRIOR_SD

    rng, found = np.random.default_rng(0), []
    for centre, sds, weight in zip(CENTRES, MODE_SDS, MODE_WEIGHTS, strict=True):
        x = centre + sds * rng.standard_normal((400_000, len(centre)))
        found.append(weight * np.exp(-0.5 * np.sum((x / PRIOR_SD) ** 2, 1)).mean())
    np.testing.assert_allclose(posterior.masses, np.array(found) / sum(found), rtol=0.01)


def test_judged_masses():
    modes = np.array([[0, 0, 1, 2], [0, 1, 1, 2]])
    found = Judged(
        Outcome(modes, np.zeros((2, 4, 1)) + np.arange(4)[:, None], 1, 0.0), np.ones(3) / 3
    )
    np.testing.assert_allclose(found.masses, [3 / 8, 3 / 8, 2 / 8])
    np.testing.assert_allclose(found.distance, 1 / 12)
