"""AnnealedScoreMCMC under NumPyro's MCMC contract, on a model with every kind of site.

Chains of different compiled programs are compared in double precision: in single precision
rounding now and then turns an acceptance around, and with it a draw. (The step sizes are tuned in
single precision all the same, so the chains agree to some 1e-6, and an acceptance is turned
around by a uniform number within about 1e-6 of its threshold: once in a thousand runs.)
"""

import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, Predictive, log_likelihood
from numpyro.infer.gibbs import Gibbs
from scipy import stats

from scoreppl.noise import VPLinear
from scoreppl.ppl.annealed import AnnealedScoreMCMC
from scoreppl.ppl.prior import ScorePrior
from scoreppl.score import ScoreNetwork
from tests.ppl.chains import assert_same_draws, draws_of

NOISE = VPLinear()
# Mean and variance of the prior, and data.
PARAMS = np.array([1.0, -1.0]), np.array(0.5)
Y = np.array([0.6, 1.1, 0.3, 0.9])
ARGS = *PARAMS, Y
TRACES = []
SITES = {"x": (2,), "p": (3, 2), "s": (), "w": (3,), "centre": ()}
# Neither the warm-up nor half the draws are whole blocks.
CHAINS, WARMUP, DRAWS, BLOCK = 2, 12, 20, 8
FIELDS = ("z.s", "num_score_evaluations", "tuning.averaging.log_step_size_avg", "i")


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    """As said above."""
    jax.config.update("jax_enable_x64", True)
    jax.clear_caches()  # what one precision has traced does not run in the other
    yield
    jax.config.update("jax_enable_x64", False)
    jax.clear_caches()


def epsilon(params, x, t, condition):
    """The exact network of a normal law."""
    TRACES.append(1)
    alpha, sigma = NOISE(t)
    return sigma * (x - alpha * params["mean"]) / (alpha**2 * params["variance"] + sigma**2)


def prior(mean, variance):
    params = {"mean": mean, "variance": variance}
    network = ScoreNetwork(epsilon, params, noise=NOISE, prediction="epsilon", event_shape=(2,))
    return ScorePrior(network, num_steps=5)


def small_model(mean, variance, y):
    """What suffices where the kind of the sites does not matter; it compiles in half the time."""
    x = numpyro.sample("x", prior(mean, variance))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(x[0], s).expand([4]), obs=y)


def model(mean, variance, y=None):
    """Two score sites, one of them in a plate, a positive latent and one on a simplex."""
    x = numpyro.sample("x", prior(mean, variance))
    with numpyro.plate("images", 3):
        p = numpyro.sample("p", prior(mean, variance))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    centre = numpyro.deterministic("centre", x[0] + w @ p[:, 0])
    with numpyro.plate("n", 4):
        numpyro.sample("y", dist.Normal(centre, s), obs=y)


def sampler(model, num_samples=DRAWS, *, block_size=BLOCK, kernel=None, **options):
    kernel = kernel or AnnealedScoreMCMC(
        model,
        inner="split",
        num_levels=3,
        num_reverse_steps=3,
        weight_move="random_walk",  # compiles fastest
        num_weight_steps=3,
        block_size=block_size,
    )
    settings = {
        "num_warmup": WARMUP,
        "num_chains": CHAINS,
        "chain_method": "vectorized",
        "progress_bar": False,
    }
    return MCMC(kernel, num_samples=num_samples, **(settings | options))


def assert_same_chains(found, expected):
    assert_same_draws(found, expected, atol=1e-4)


def chain_keys():
    return random.split(random.key(0), CHAINS)


@cache
def two_chains():
    """Two vectorized chains with all fields. Shared: do not run it again."""
    mcmc = sampler(model)
    mcmc.run(chain_keys(), *ARGS, extra_fields=FIELDS)
    return mcmc


@cache
def small_run(num_samples):
    """As `two_chains`, of the small model."""
    mcmc = sampler(small_model, num_samples)
    mcmc.run(chain_keys(), *ARGS)
    return mcmc


# What a run leaves behind.


def test_samples():
    draws = draws_of(two_chains())
    assert {name: value.shape[2:] for name, value in draws.items()} == SITES
    for name, value in draws.items():
        assert value.shape[:2] == (CHAINS, DRAWS) and value.dtype == np.float64
        assert np.isfinite(value).all()
        # Every draw starts from noise of its own; nothing is ever repeated.
        assert len(np.unique(value)) == value.size, f"{name} repeats"
    assert (draws["s"] > 0).all() and (draws["w"] > 0).all()
    np.testing.assert_allclose(draws["w"].sum(-1), 1.0, rtol=1e-6)
    mixed = (draws["w"] * draws["p"][..., 0]).sum(-1)
    np.testing.assert_allclose(draws["centre"], draws["x"][..., 0] + mixed, rtol=1e-6, atol=1e-6)
    flat = draws_of(two_chains(), group_by_chain=False)
    np.testing.assert_array_equal(flat["p"], draws["p"].reshape(-1, 3, 2))


def test_fields_and_summary(capsys):
    fields = jax.tree.map(np.asarray, two_chains().get_extra_fields(group_by_chain=True))
    assert set(fields) == {
        "acceptance_rate_level",
        "accept_prob",
        "is_nan",
        "diverging",
        *FIELDS,
    }
    rates, levels = fields["acceptance_rate_level"], two_chains().sampler.noise_levels(*ARGS)
    assert rates.shape == (CHAINS, DRAWS, len(levels))
    assert (rates >= 0).all() and (rates < 1 + 1e-5).all() and len(np.unique(rates)) > DRAWS
    np.testing.assert_allclose(fields["accept_prob"], rates.mean(-1), rtol=1e-6)
    assert not fields["is_nan"].any() and not fields["diverging"].any()
    np.testing.assert_allclose(np.exp(fields["z.s"]), draws_of(two_chains())["s"], rtol=1e-6)
    np.testing.assert_array_equal(fields["i"], WARMUP + 1 + np.tile(np.arange(DRAWS), (2, 1)))
    two_chains().print_summary()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("p[2,1]", "w[0]", "s ", "n_eff", "r_hat"))
    assert "Number of divergences: 0" in printed
    shown = two_chains().sampler.get_diagnostics_str(
        jax.tree.map(lambda v: v[0], two_chains().last_state)
    )
    cost, rate = fields["num_score_evaluations"][0, 0], fields["accept_prob"][0, -1]
    assert shown == f"{cost} score evaluations a draw. acc. prob={rate:.2f}"


def test_the_last_draw_is_the_block_s_with_its_own_statistics():
    state = two_chains().last_state
    last = np.asarray(state.index) - 1
    assert (last >= 0).all() and len(np.unique(state.block_acceptance)) > 2
    for chain, index in enumerate(last):
        rates = state.block_acceptance[chain, index]
        np.testing.assert_array_equal(state.acceptance_rate_level[chain], rates)
        assert state.is_nan[chain] == state.block_is_nan[chain, index]
        for name, value in state.z.items():
            np.testing.assert_array_equal(value[chain], state.block_z[name][chain, index])


def test_tuning_is_learnt_by_chain_and_frozen_after_the_warm_up():
    fields = two_chains().get_extra_fields(group_by_chain=True)
    step = fields["tuning.averaging.log_step_size_avg"]
    assert (step == step[:, :1]).all() and (step[0] != step[1]).all()


def test_arviz(monkeypatch):
    def refuse(*args):
        raise AssertionError("ArviZ made the model draw by reverse diffusion")

    monkeypatch.setattr(ScorePrior, "sample", refuse)
    data = az.from_numpyro(two_chains(), log_likelihood=True)
    assert set(data["posterior"].data_vars) == set(SITES)
    assert data["posterior"]["p"].shape == (CHAINS, DRAWS, 3, 2)
    assert data["posterior"]["p"].dims[2] == "images"
    names = set(data["sample_stats"].data_vars)
    assert {"acceptance_rate", "acceptance_rate_level", "is_nan", "diverging"} <= names
    # There is no density to report, and none is made up.
    assert not {"lp", "energy", "potential_energy"} & names
    np.testing.assert_array_equal(data["observed_data"]["y"], Y)
    assert data["log_likelihood"]["y"].shape == (CHAINS, DRAWS, 4)
    assert {"mean", "sd", "ess_bulk", "r_hat"} <= set(az.summary(data).columns)


def test_predictive_and_log_likelihood():
    draws = draws_of(two_chains(), group_by_chain=False)
    centre, s = draws["centre"][:, None], draws["s"][:, None]
    found = log_likelihood(model, draws, *ARGS)["y"]
    np.testing.assert_allclose(found, stats.norm.logpdf(Y, centre, s), rtol=1e-6)
    y = np.asarray(Predictive(model, posterior_samples=draws)(random.key(1), *PARAMS)["y"])
    # 160 standard normal numbers; false alarm 1e-4.
    assert stats.kstest(((y - centre) / s).ravel(), "norm").pvalue > 1e-4


def test_numpyro_gibbs_refuses_the_kernel():
    with pytest.raises(ValueError, match="AnnealedScoreMCMC does not implement `refresh`"):
        Gibbs([(two_chains().sampler, ["x", "p"]), (NUTS(model), None)])


# Chains and keys.


# NumPyro cannot reuse its buffers inside a mapped function, and JAX says so.
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@pytest.mark.parametrize(
    "method", ["sequential", pytest.param(jax.vmap, marks=pytest.mark.slow, id="callable")]
)
def test_other_chain_methods_with_raw_keys(method):
    mcmc = sampler(small_model, chain_method=method)
    mcmc.run(random.key_data(chain_keys()), *ARGS)
    assert_same_chains(draws_of(mcmc), draws_of(small_run(DRAWS)))


PARALLEL = """
import sys
import numpyro
numpyro.enable_x64()
numpyro.set_host_device_count(2)
import jax, numpy as np
from tests.ppl import test_annealed_contract as t
assert jax.local_device_count() == 2
mcmc = t.sampler(t.model, chain_method="parallel")
mcmc.run(t.chain_keys(), *t.ARGS)
np.savez(sys.argv[1], **t.draws_of(mcmc))
"""


@pytest.mark.slow
def test_parallel_chains(tmp_path):
    file = tmp_path / "draws.npz"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARALLEL, str(file)],
        check=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=900,
    )
    assert_same_chains(dict(np.load(file)), draws_of(two_chains()))


def test_the_size_of_the_blocks_does_not_matter_without_a_warm_up():
    chains = []
    for block_size in (7, 3):
        mcmc = sampler(small_model, 10, block_size=block_size, num_warmup=0, num_chains=1)
        mcmc.run(random.key(3), *ARGS)
        chains.append(draws_of(mcmc))
    assert_same_chains(*chains)


# Resuming.


def assert_resumed(resumed):
    first, second = draws_of(small_run(DRAWS // 2)), draws_of(resumed)
    joined = {name: np.concatenate([first[name], second[name]], 1) for name in first}
    assert_same_chains(joined, draws_of(small_run(DRAWS)))


def test_resuming_a_pickled_mcmc_equals_an_uninterrupted_run():
    copy = pickle.loads(pickle.dumps(small_run(DRAWS // 2)))
    # It stands in the middle of a block.
    assert 0 < int(copy.last_state.index[0]) < BLOCK
    copy.post_warmup_state = copy.last_state
    copy.run(copy.last_state.rng_key, *ARGS)
    assert_resumed(copy)


def test_resuming_in_another_process_with_a_longer_warm_up_does_not_adapt_again():
    # As a new process would: everything from bytes, an MCMC without history, and a kernel that
    # never ran. The warm-up that counts is the one that the chain has behind it.
    half = small_run(DRAWS // 2)
    kernel, state = pickle.loads(pickle.dumps((half.sampler, half.last_state)))
    fresh = sampler(small_model, DRAWS // 2, kernel=kernel, num_warmup=500)
    fresh.post_warmup_state = state
    fresh.run(state.rng_key, *ARGS)
    jax.tree.map(np.testing.assert_array_equal, fresh.last_state.tuning, state.tuning)
    assert_resumed(fresh)


def test_warm_up_then_runs_with_keys_of_their_own():
    mcmc = sampler(small_model, 10)
    mcmc.warmup(random.key(5), *ARGS, collect_warmup=True)
    assert draws_of(mcmc)["s"].shape == (CHAINS, WARMUP)
    tuning, runs = mcmc.post_warmup_state.tuning, []
    for seed in (6, 7):
        mcmc.run(random.key(seed), *ARGS)
        runs.append(draws_of(mcmc))
        jax.tree.map(np.testing.assert_array_equal, mcmc.last_state.tuning, tuning)
    # The warm-up ended within a block, whose rest belongs to the warm-up's key.
    assert all((runs[0][name] != runs[1][name]).all() for name in runs[0])


# Options of a run.


def test_thinning_leaving_out_a_site_and_keyword_arguments():
    mcmc = sampler(small_model, thinning=2)
    named = dict(zip(("mean", "variance", "y"), ARGS, strict=True))
    mcmc.run(chain_keys(), extra_fields=("~z.s",), **named)
    draws, every = draws_of(mcmc), draws_of(small_run(DRAWS))
    assert set(draws) == {"x"}
    assert_same_chains(draws, {name: every[name][:, 1::2] for name in draws})


def test_network_parameters_as_model_arguments():
    """One compiled run serves both: parameters baked in would keep the signs of the first."""
    mcmc = sampler(small_model, 10, jit_model_args=True)
    for sign in (1, -1):
        TRACES.clear()
        mcmc.run(random.key(9), sign * np.array([6.0, -6.0]), np.array(0.1), Y)
        assert (sign * draws_of(mcmc)["x"][..., 1] < 0).all()
        assert bool(TRACES) == (sign == 1)
