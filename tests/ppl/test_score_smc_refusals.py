"""ScoreSMC names what it cannot do, and warns where its numbers rest on little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from tests.compose.laws import FIRST, SECOND
from tests.ppl.test_open_mixtures import MIXTURE, closed

LAPLACIAN = {"corrector": sp.correctors.LaplacianOnly()}


def run(seed=0, **options):
    options = {"num_particles": 40, "num_steps": 8, "num_pilots": 8} | options
    sampler = sp.ScoreSMC(**options)
    sampler.run(jax.random.key(seed))
    return sampler


@pytest.mark.parametrize(
    "log_weight",
    [
        lambda x: jnp.where(x[0] > 1.0, 0.0, -jnp.inf),
        lambda x: jnp.where(x[0] > 1.0, 0.0, -1e30),
        lambda x: jnp.log(x[0]),
    ],
    ids=["indicator", "all but one", "not a number"],
)
def test_a_corrector_refuses_a_weight_that_noisy_particles_do_not_have(log_weight):
    with pytest.raises(ValueError, match="asks the weight of noisy particles"):
        run(score_model=sp.product(FIRST, SECOND), log_weight=log_weight, **LAPLACIAN)


def test_a_network_without_numbers_is_named_as_the_cause():
    broken = sp.ScoreNetwork(
        lambda p, x, t, c: x * jnp.nan, None, noise=FIRST.noise, prediction="x0", event_shape=(1,)
    )
    with pytest.raises(ValueError, match="NaN or infinite values.* Check the network"):
        run(score_model=sp.product(broken, SECOND))


def test_few_ancestors_are_warned_of():
    with pytest.warns(UserWarning, match="particles of the start have descendants"):
        sampler = run(
            score_model=sp.product(FIRST, SECOND), corrector=sp.correctors.FeynmanKac(),
            num_particles=400, num_steps=40,
        )  # fmt: skip
    assert sampler.result.num_ancestors < 20


@pytest.mark.parametrize(
    "options",
    [
        {"score_model": MIXTURE, "num_particles": 45},
        {"score_model": sp.product(FIRST, SECOND), "num_particles": 45, "num_level_pilots": 12},
    ],
    ids=["shared by choices", "after pilots"],
)
def test_chains_stay_whole_whatever_the_particles_are_shared_by(options):
    sampler = run(moves=sp.correctors.Moves(8, waste_free=True), **options)
    assert len(sampler.result.log_weight) % 9 == 0
    assert np.isnan(sampler.log_evidence_error) and np.isfinite(sampler.log_evidence)


def test_double_precision():
    with jax.enable_x64(True):
        sampler = run(
            score_model=sp.temper(closed(FIRST), 2.0), num_particles=100, num_steps=20,
            resampling=sp.correctors.Resampling(1.1, -jnp.inf),
        )  # fmt: skip
    assert sampler.result.trace.is_resampled.all() and np.isfinite(sampler.log_evidence)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": FIRST}, "pass it as `score_model=`"),
        ({}, "Give a NumPyro model"),
        ({"score_model": FIRST, "log_weight": 1.0}, "`log_weight` of type float"),
        ({"score_model": FIRST, "moves": sp.correctors.Moves}, "`moves=Moves` is a class"),
        (
            {"score_model": FIRST, "resampling": sp.correctors.Resampling},
            "`resampling=Resampling` is a class",
        ),
        (
            {"score_model": FIRST, "resampling": sp.correctors.Resampling(scheme="systematic")},
            "`resampling.scheme='systematic'` must be a function",
        ),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError) as caught:
        sp.ScoreSMC(**options)
    assert message in str(caught.value)
