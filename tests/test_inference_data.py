"""Runs for ArviZ, by both of its major versions."""

from importlib.metadata import version

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from scoreppl.analytic import GaussianMixture
from scoreppl.inference_data import to_inference_data
from scoreppl.ppl.annealed import AnnealedScoreMCMC
from scoreppl.ppl.local_kernels import ScoreHMC, ScoreMALA, ScoreNUTS
from scoreppl.ppl.prior import ScorePrior

PRIOR = GaussianMixture(jnp.array([[-1.5, 0.0], [1.5, 0.5]]), scales=0.6)
Y = np.array([0.6, 1.1, 0.3], np.float32)
CHAINS, DRAWS = 2, 8


def model(y):
    x = numpyro.sample("x", ScorePrior(PRIOR, noise_level=0.1))
    numpyro.deterministic("total", x.sum())
    with numpyro.plate("time", 3):
        numpyro.sample("y", dist.Normal(x[0], 1.0), obs=y)


def run(kernel, extra_fields=(), **settings):
    mcmc = MCMC(
        kernel,
        num_warmup=8,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
        **settings,
    )
    mcmc.run(jax.random.key(0), Y, extra_fields=extra_fields)
    return mcmc


LEVELS = (4.0, 0.9, 0.2)


@pytest.fixture(scope="module")
def annealed():
    kernel = AnnealedScoreMCMC(
        model,
        inner="split",
        levels=LEVELS,
        steps_per_level=1,
        num_reverse_steps=2,
        num_weight_steps=2,
        block_size=8,
    )
    return run(kernel)


@pytest.fixture(scope="module")
def mala():
    return run(ScoreMALA(model), ("num_steps", "num_score_evaluations", "log_ratio"))


def test_annealed_levels_are_named(annealed):
    data = to_inference_data(annealed)
    rates = data["sample_stats"]["acceptance_rate_level"]
    assert rates.dims == ("chain", "draw", "noise_level")
    np.testing.assert_allclose(rates["noise_level"], LEVELS, rtol=1e-5)
    fields = annealed.get_extra_fields(group_by_chain=True)
    np.testing.assert_array_equal(rates, fields["acceptance_rate_level"])
    nearest = rates.sel(noise_level=1.0, method="nearest")
    np.testing.assert_array_equal(nearest, fields["acceptance_rate_level"][..., 1])
    np.testing.assert_array_equal(data["sample_stats"]["acceptance_rate"], fields["accept_prob"])


def test_all_groups_are_there(annealed):
    data = to_inference_data(annealed)
    assert set(data["posterior"].data_vars) == {"x", "total"}
    samples = annealed.get_samples(group_by_chain=True)
    np.testing.assert_array_equal(data["posterior"]["x"], samples["x"])
    np.testing.assert_array_equal(data["observed_data"]["y"], Y)
    expected = -0.5 * ((Y - samples["x"][..., :1]) ** 2 + np.log(2 * np.pi))
    likelihood = data["log_likelihood"]["y"]
    np.testing.assert_allclose(likelihood, expected, rtol=1e-4, atol=1e-5)
    assert likelihood.dims == ("chain", "draw", "time")
    assert {"mean", "sd", "r_hat", "ess_bulk", "ess_tail"} <= set(az.summary(data).columns)


def test_attributes(annealed, mala):
    attributes = to_inference_data(annealed, log_likelihood=False).attrs
    assert attributes["kernel"] == "AnnealedScoreMCMC"
    assert attributes["scoreppl_version"] == version("scoreppl")
    # Two network calls at each of three levels.
    assert attributes["num_score_evaluations"] == CHAINS * DRAWS * 2 * 3
    # The mixture's density is exact: one score a move, for the proposal.
    assert to_inference_data(mala).attrs["num_score_evaluations"] == CHAINS * DRAWS


def test_no_log_likelihood_unless_asked(mala):
    assert "log_likelihood" in to_inference_data(mala)
    assert "log_likelihood" not in to_inference_data(mala, log_likelihood=False)


def test_nothing_is_made_up(mala):
    """No density, no energy, and no tree where none was built."""
    stats = to_inference_data(mala, log_likelihood=False)["sample_stats"]
    names = set(stats.data_vars)
    assert not {"lp", "energy", "tree_depth", "reached_max_tree_depth"} & names
    assert {"acceptance_rate", "diverging", "is_nan", "log_ratio", "n_steps"} <= names


@pytest.mark.parametrize("kernel, trees", [(ScoreNUTS, True), (ScoreHMC, False)])
def test_trees(kernel, trees):
    settings = {"max_tree_depth": 2} if trees else {"num_steps": 2}
    mcmc = run(kernel(model, **settings), ("num_steps",))
    assert "acceptance_rate" in az.from_numpyro(mcmc)["sample_stats"]
    data = to_inference_data(mcmc, log_likelihood=False)
    assert ("tree_depth" in data["sample_stats"]) == trees
    # The last tree's cost is not the run's.
    assert ("num_score_evaluations" in data.attrs) != trees


def test_arviz_itself_takes_the_run(annealed, mala):
    for mcmc in (annealed, mala):
        data = az.from_numpyro(mcmc, log_likelihood=True)
        assert data["posterior"]["x"].shape == (CHAINS, DRAWS, 2)
        assert data["log_likelihood"]["y"].shape == (CHAINS, DRAWS, 3)


def test_thinned_draws_count(annealed):
    mcmc = run(ScoreMALA(model), thinning=2)
    data = to_inference_data(mcmc, log_likelihood=False)
    assert data["posterior"]["x"].shape == (CHAINS, DRAWS // 2, 2)
    assert data.attrs["num_score_evaluations"] == CHAINS * DRAWS


def test_what_is_no_run():
    with pytest.raises(ValueError, match="numpyro.infer.MCMC"):
        to_inference_data({"x": 1.0})
    unfinished = MCMC(ScoreMALA(model), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="has not been run"):
        to_inference_data(unfinished)
