"""NumPyro's MCMC contract: chains, keys, resuming, pickling, fields, ArviZ, options of a run.

What depends on the kernel runs on every one of them; what they share through `ScoreKernel` runs
on ScoreMALA alone.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.infer import Predictive, log_likelihood
from scipy import stats

from scoreppl.ppl.local_kernels import ScoreMALA
from scoreppl.ppl.prior import ScorePrior
from tests.ppl.chains import (
    CHAINS,
    DRAWS,
    KERNELS,
    WARMUP,
    Y,
    assert_same_chains,
    assert_same_draws,
    chain_keys,
    draws_of,
    four_chains,
    model,
    network_model,
    sampler,
)

every_kernel = pytest.mark.parametrize("name", KERNELS)
mala_and_slowly_the_rest = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "ScoreMALA" else pytest.mark.slow) for n in KERNELS],
)


# What a run leaves behind.


@every_kernel
def test_samples_and_fields(name, capsys):
    four, extra_fields = four_chains(name), KERNELS[name].extra_fields
    draws = draws_of(four)
    assert {name: value.shape for name, value in draws.items()} == {
        "x": (CHAINS, DRAWS, 2),
        "s": (CHAINS, DRAWS),
        "total": (CHAINS, DRAWS),
    }
    np.testing.assert_allclose(draws["total"], draws["x"].sum(-1), rtol=1e-5, atol=1e-6)
    assert (draws["s"] > 0).all()
    assert len(np.unique(draws["s"])) > CHAINS * DRAWS / 4
    flat = draws_of(four, group_by_chain=False)
    np.testing.assert_array_equal(flat["x"], draws["x"].reshape(-1, 2))
    fields = jax.tree.map(np.asarray, four.get_extra_fields(group_by_chain=True))
    assert set(fields) == {"diverging", "accept_prob", "is_nan", *extra_fields}
    assert all(value.shape[:2] == (CHAINS, DRAWS) for value in fields.values())
    # An average over the tree exceeds 1 by rounding.
    assert (fields["accept_prob"] >= 0).all() and (fields["accept_prob"] < 1 + 1e-5).all()
    np.testing.assert_allclose(np.exp(fields["z.s"]), draws["s"], rtol=1e-5)
    four.print_summary()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("x[0]", "s ", "n_eff", "r_hat", "divergences"))


@every_kernel
def test_tuning_is_frozen_after_the_warm_up(name):
    fields = jax.tree.map(np.asarray, four_chains(name).get_extra_fields(group_by_chain=True))
    step, mass = fields["adapt_state.step_size"], fields["adapt_state.inverse_mass_matrix"]
    assert (step == step[:, :1]).all() and (mass == mass[:, :1]).all()
    assert (step > 0).all() and (step != np.float32(0.1)).all()
    assert len(np.unique(step)) == CHAINS and len(np.unique(mass)) > 1
    means = np.cumsum(fields["accept_prob"], 1) / np.arange(1, DRAWS + 1)
    np.testing.assert_allclose(fields["mean_accept_prob"], means, rtol=1e-4, atol=1e-6)


@every_kernel
def test_arviz(name, monkeypatch):
    def refuse(*args):
        raise AssertionError("ArviZ made the model draw by reverse diffusion")

    monkeypatch.setattr(ScorePrior, "sample", refuse)
    data = az.from_numpyro(four_chains(name), log_likelihood=True)
    assert set(data["posterior"].data_vars) == {"x", "s", "total"}
    assert data["posterior"]["x"].shape == (CHAINS, DRAWS, 2)
    names = set(data["sample_stats"].data_vars)
    assert {"diverging", "acceptance_rate", "is_nan", "log_ratio_error"} <= names
    # There is no density to report, and none is made up.
    assert not {"lp", "energy", "potential_energy"} & names
    np.testing.assert_array_equal(data["observed_data"]["y"], Y)
    assert data["log_likelihood"]["y"].shape == (CHAINS, DRAWS, 4)
    assert {"mean", "sd", "ess_bulk", "r_hat"} <= set(az.summary(data).columns)


def test_predictive_and_log_likelihood():
    draws = draws_of(four_chains("ScoreMALA"), group_by_chain=False)
    x, s = draws["x"][:, :1].astype(float), draws["s"][:, None].astype(float)
    found = log_likelihood(model, draws, Y)["y"]
    np.testing.assert_allclose(found, stats.norm.logpdf(Y, x, s), rtol=1e-3, atol=1e-3)
    y = np.asarray(Predictive(model, posterior_samples=draws)(random.key(1))["y"], float)
    # 320 standard normal numbers; false alarm 1e-4.
    assert stats.kstest(((y - x) / s).ravel(), "norm").pvalue > 1e-4


# Chains and keys.


def first_chains(name, count):
    return {site: value[:count] for site, value in draws_of(four_chains(name)).items()}


def run_python(source, *arguments, **environment):
    """Run a program in a fresh process, where JAX has not started yet."""
    subprocess.run(
        [sys.executable, "-c", source, *arguments],
        check=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | environment,
        timeout=900,
    )


# In double precision, where rounding turns no acceptance around.
ALONE = """
import sys
import numpyro
numpyro.enable_x64()
from tests.ppl.chains import KERNELS, Y, assert_same_draws, chain_keys, draws_of, model, sampler
make = KERNELS[sys.argv[1]].make
four, alone = sampler(make(model)), sampler(make(model), num_chains=1)
four.run(chain_keys(), Y)
alone.run(chain_keys()[0], Y)
first = {name: value[:1] for name, value in draws_of(four).items()}
assert_same_draws(draws_of(alone), first, atol=2e-3)
"""


@mala_and_slowly_the_rest
def test_a_chain_alone_is_the_chain_among_four(name):
    run_python(ALONE, name)


def test_sequential_chains_with_raw_keys():
    mcmc = sampler(ScoreMALA(model), num_chains=2, chain_method="sequential")
    mcmc.run(random.key_data(chain_keys())[:2], Y)
    assert_same_chains(draws_of(mcmc), first_chains("ScoreMALA", 2))


# In double precision, where rounding turns no acceptance around.
PARALLEL = """
import sys
import numpyro
numpyro.enable_x64()
numpyro.set_host_device_count(2)
import jax, numpy as np
from tests.ppl.chains import KERNELS, Y, assert_same_draws, chain_keys, draws_of, model, sampler
assert jax.local_device_count() == 2
found = {}
for method in ("parallel", "vectorized"):
    mcmc = sampler(KERNELS[sys.argv[1]].make(model), num_chains=2, chain_method=method)
    mcmc.run(chain_keys()[:2], Y)
    found[method] = draws_of(mcmc)
assert_same_draws(found["parallel"], found["vectorized"], atol=2e-3)
"""


@mala_and_slowly_the_rest
def test_parallel_chains(name):
    run_python(PARALLEL, name)


# In double precision, where rounding turns no acceptance around.
MAPPED = """
import sys
import numpyro
numpyro.enable_x64()
import jax
from tests.ppl.chains import KERNELS, Y, assert_same_draws, chain_keys, draws_of, model, sampler
found = {}
for method in (jax.vmap, "vectorized"):
    mcmc = sampler(KERNELS[sys.argv[1]].make(model), chain_method=method)
    mcmc.run(chain_keys(), Y)
    found[method] = draws_of(mcmc)
assert_same_draws(found[jax.vmap], found["vectorized"], atol=2e-3)
"""


@pytest.mark.slow
def test_a_callable_chain_method():
    run_python(MAPPED, "ScoreNUTS")


def test_a_progress_bar(monkeypatch, capfd):
    for variable in ("CI", "PYTEST_XDIST_WORKER"):  # with these NumPyro shows none
        monkeypatch.delenv(variable, raising=False)
    mcmc = sampler(ScoreMALA(model), num_chains=1, progress_bar=True)
    mcmc.run(chain_keys()[0], Y)
    assert_same_chains(draws_of(mcmc), first_chains("ScoreMALA", 1))
    shown = capfd.readouterr().err
    assert "1 steps of size" in shown and "acc. prob=" in shown


# Resuming.


def joined(first, second):
    return {name: np.concatenate([first[name], second[name]], 1) for name in first}


@mala_and_slowly_the_rest
def test_resuming_in_another_process_equals_an_uninterrupted_run(name):
    half = sampler(KERNELS[name].make(model), DRAWS // 2)
    half.run(chain_keys(), Y)
    # As a new process would: everything from bytes, an MCMC without history, and a kernel that
    # never ran. Its longer warm-up is not for a chain that is past its own.
    kernel, state = pickle.loads(pickle.dumps((half.sampler, half.last_state)))
    fresh = sampler(kernel, DRAWS // 2, num_warmup=500)
    fresh.post_warmup_state = state
    fresh.run(state.rng_key, Y)
    assert_same_draws(joined(draws_of(half), draws_of(fresh)), draws_of(four_chains(name)))
    before, after = half.last_state.adapt_state, fresh.last_state.adapt_state
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_resuming_in_place_and_from_a_pickled_mcmc():
    mcmc = sampler(ScoreMALA(model), DRAWS // 2)
    mcmc.run(chain_keys(), Y)
    copy, first = pickle.loads(pickle.dumps(mcmc)), draws_of(mcmc)
    for resumed in (mcmc, copy):
        resumed.post_warmup_state = resumed.last_state
        resumed.run(resumed.last_state.rng_key, Y)
        assert_same_draws(joined(first, draws_of(resumed)), draws_of(four_chains("ScoreMALA")))


def test_warm_up_then_two_runs():
    mcmc = sampler(ScoreMALA(model), num_chains=2)
    mcmc.warmup(random.key(5), Y, collect_warmup=True)
    assert draws_of(mcmc)["s"].shape == (2, WARMUP)
    assert int(mcmc.post_warmup_state.i[0]) == WARMUP
    runs = []
    for seed in (6, 7, 6):
        mcmc.run(random.key(seed), Y, extra_fields=("adapt_state.step_size",))
        runs.append(draws_of(mcmc))
        steps = mcmc.get_extra_fields(group_by_chain=True)["adapt_state.step_size"]
        np.testing.assert_array_equal(steps[:, -1], mcmc.post_warmup_state.adapt_state.step_size)
    assert_same_draws(runs[2], runs[0])
    assert (runs[0]["s"] != runs[1]["s"]).mean() > 0.9


# Options of a run.


def test_thinning_and_leaving_out_a_site():
    mcmc = sampler(ScoreMALA(model), thinning=2)
    mcmc.run(chain_keys(), Y, extra_fields=("~z.x",))
    draws, every = draws_of(mcmc), draws_of(four_chains("ScoreMALA"))
    assert set(draws) == {"s", "total"} and draws["s"].shape == (CHAINS, DRAWS // 2)
    assert_same_chains(draws, {name: every[name][:, 1::2] for name in draws})


def test_init_params():
    keys, kernel = random.split(random.key(8), 2), ScoreMALA(model)
    start = {"x": jnp.array([[0.5, -0.5], [1.0, 2.0]]), "s": jnp.array([-0.3, 0.2])}
    state = kernel.init(keys, 0, start, (Y,), {})
    jax.tree.map(np.testing.assert_array_equal, state.z, start)
    # Some of the sites: the others start as they would.
    part = kernel.init(keys[0], 0, {"s": jnp.array(0.7)}, (Y,), {})
    assert float(part.z["s"]) == np.float32(0.7)
    assert 0 < np.abs(np.asarray(part.z["x"])).max() < 10
    with pytest.raises(ValueError, match="init_params.*'w'"):
        kernel.init(keys[0], 0, {"w": jnp.array(0.7)}, (Y,), {})
    with pytest.raises(ValueError, match=r"init_params\['x'\].*\(3,\).*\(2,\)"):
        kernel.init(keys[0], 0, {"x": jnp.zeros(3)}, (Y,), {})


def test_network_parameters_as_model_arguments():
    first = {"precision": jnp.array(1.0), "mean": jnp.array([5.0, -5.0])}
    second = {"precision": jnp.array(4.0), "mean": jnp.array([-5.0, 5.0])}
    mcmc = sampler(ScoreMALA(network_model), num_chains=2, jit_model_args=True)
    # One compiled run serves both: parameters baked in would keep the signs of the first.
    for params, sign in ((first, 1), (second, -1)):
        mcmc.run(random.key(9), params, jnp.array(0.5))
        assert (sign * draws_of(mcmc)["x"] * np.array([1, -1]) > 0).all()
    step = jax.jit(lambda state, *args: mcmc.sampler.sample(state, args, {}))
    for params in (first, second):
        step(mcmc.last_state, params, jnp.array(0.5))
    assert step._cache_size() == 1
