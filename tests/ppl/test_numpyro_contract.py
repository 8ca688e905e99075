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
    ROUNDING,
    WARMUP,
    Y,
    assert_same_draws,
    chain_keys,
    draws_of,
    model,
    network_model,
    sampler,
)


@pytest.fixture(scope="module", params=KERNELS)
def case(request):
    return KERNELS[request.param]


@pytest.fixture(scope="module")
def four(case):
    """Four vectorized chains from four keys, with all fields."""
    mcmc = sampler(case.make(model))
    mcmc.run(chain_keys(), Y, extra_fields=case.extra_fields)
    return mcmc


@pytest.fixture(scope="module")
def mala_four():
    mcmc = sampler(ScoreMALA(model))
    mcmc.run(chain_keys(), Y)
    return mcmc


# What a run leaves behind.


def test_samples_and_fields(four, case, capsys):
    draws = draws_of(four)
    assert {name: value.shape for name, value in draws.items()} == {
        "x": (CHAINS, DRAWS, 2),
        "s": (CHAINS, DRAWS),
        "total": (CHAINS, DRAWS),
    }
    np.testing.assert_allclose(draws["total"], draws["x"].sum(-1), rtol=1e-5, atol=1e-6)
    assert (draws["s"] > 0).all()
    assert all(len(np.unique(chain)) > 3 for chain in draws["s"])
    flat = draws_of(four, group_by_chain=False)
    np.testing.assert_array_equal(flat["x"], draws["x"].reshape(-1, 2))
    fields = jax.tree.map(np.asarray, four.get_extra_fields(group_by_chain=True))
    assert set(fields) == {"diverging", "accept_prob", "is_nan", *case.extra_fields}
    assert all(value.shape[:2] == (CHAINS, DRAWS) for value in fields.values())
    assert (fields["accept_prob"] >= 0).all() and (fields["accept_prob"] <= 1).all()
    np.testing.assert_allclose(np.exp(fields["z.s"]), draws["s"], rtol=1e-5)
    four.print_summary()
    printed = capsys.readouterr().out
    assert "x[0]" in printed and "total" in printed and "divergences" in printed


def test_tuning_is_frozen_after_the_warm_up(four):
    fields = jax.tree.map(np.asarray, four.get_extra_fields(group_by_chain=True))
    step, mass = fields["adapt_state.step_size"], fields["adapt_state.inverse_mass_matrix"]
    assert (step == step[:, :1]).all() and (mass == mass[:, :1]).all()
    assert (step > 0).all() and (step != np.float32(0.1)).all()
    assert len(np.unique(step)) == CHAINS and len(np.unique(mass)) > 1
    means = np.cumsum(fields["accept_prob"], 1) / np.arange(1, DRAWS + 1)
    np.testing.assert_allclose(fields["mean_accept_prob"], means, rtol=1e-4)


def test_arviz(four, monkeypatch):
    def refuse(*args):
        raise AssertionError("ArviZ made the model draw by reverse diffusion")

    monkeypatch.setattr(ScorePrior, "sample", refuse)
    data = az.from_numpyro(four, log_likelihood=True)
    assert set(data["posterior"].data_vars) == {"x", "s", "total"}
    assert data["posterior"]["x"].shape == (CHAINS, DRAWS, 2)
    names = set(data["sample_stats"].data_vars)
    assert {"diverging", "acceptance_rate", "is_nan", "num_steps"} <= names
    # There is no density to report, and none is made up.
    assert not {"lp", "energy", "potential_energy"} & names
    np.testing.assert_array_equal(data["observed_data"]["y"], Y)
    assert data["log_likelihood"]["y"].shape == (CHAINS, DRAWS, 4)
    assert {"mean", "sd", "ess_bulk", "r_hat"} <= set(az.summary(data).columns)


def test_predictive_and_log_likelihood(four):
    draws = draws_of(four, group_by_chain=False)
    x, s = draws["x"][:, :1].astype(float), draws["s"][:, None].astype(float)
    found = log_likelihood(model, draws, Y)["y"]
    np.testing.assert_allclose(found, stats.norm.logpdf(Y, x, s), rtol=1e-3, atol=1e-3)
    y = np.asarray(Predictive(model, posterior_samples=draws)(random.key(1))["y"], float)
    # 320 standard normal numbers; false alarm 1e-4.
    assert stats.kstest(((y - x) / s).ravel(), "norm").pvalue > 1e-4


def test_a_kernel_can_be_pickled(four, case):
    copy = pickle.loads(pickle.dumps(four.sampler))
    key = random.key(2)
    expected = case.make(model).init(key, WARMUP, None, (Y,), {})
    jax.tree.map(np.testing.assert_array_equal, copy.init(key, WARMUP, None, (Y,), {}), expected)


# Chains and keys.


def test_a_chain_alone_is_the_chain_among_four(four, case):
    alone = sampler(case.make(model), num_chains=1)
    alone.run(chain_keys()[0], Y)
    expected = {name: value[:1] for name, value in draws_of(four).items()}
    assert_same_draws(draws_of(alone), expected, ROUNDING)


def test_sequential_chains_with_raw_keys(mala_four):
    mcmc = sampler(ScoreMALA(model), num_chains=2, chain_method="sequential")
    mcmc.run(random.key_data(chain_keys())[:2], Y)
    expected = {name: value[:2] for name, value in draws_of(mala_four).items()}
    assert_same_draws(draws_of(mcmc), expected, ROUNDING)


PARALLEL = """
import sys
import numpyro
numpyro.set_host_device_count(2)
import jax, numpy as np
from tests.ppl.chains import KERNELS, Y, chain_keys, draws_of, model, sampler
assert jax.local_device_count() == 2
for name in sys.argv[2:]:
    mcmc = sampler(KERNELS[name].make(model), num_chains=2, chain_method="parallel")
    mcmc.run(chain_keys()[:2], Y)
    np.savez(sys.argv[1] + "/" + name, **draws_of(mcmc))
"""


def run_python(source, *arguments, **environment):
    """Run a program in a fresh process, where JAX has not started yet."""
    subprocess.run(
        [sys.executable, "-c", source, *arguments],
        check=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | environment,
        timeout=900,
    )


def test_parallel_chains(tmp_path, mala_four):
    run_python(PARALLEL, str(tmp_path), "ScoreMALA")
    expected = {name: value[:2] for name, value in draws_of(mala_four).items()}
    assert_same_draws(dict(np.load(tmp_path / "ScoreMALA.npz")), expected, ROUNDING)


@pytest.mark.slow
def test_parallel_chains_of_the_other_kernels(tmp_path, four, case):
    name = next(name for name in KERNELS if KERNELS[name] is case)
    run_python(PARALLEL, str(tmp_path), name)
    expected = {name: value[:2] for name, value in draws_of(four).items()}
    assert_same_draws(dict(np.load(tmp_path / f"{name}.npz")), expected, ROUNDING)


DOUBLE = """
import numpyro
numpyro.enable_x64()
import jax, numpy as np
from tests.ppl.chains import KERNELS, Y, draws_of, model, sampler
for name, case in KERNELS.items():
    mcmc = sampler(case.make(model), num_chains=2)
    mcmc.run(jax.random.key(0), Y)
    draws = draws_of(mcmc)
    assert draws["s"].dtype == draws["x"].dtype == np.float64, name
    assert all(np.isfinite(value).all() for value in draws.values()), name
"""


@pytest.mark.slow
def test_double_precision():
    run_python(DOUBLE)


@pytest.mark.slow
def test_a_callable_chain_method(four, case):
    mcmc = sampler(case.make(model), chain_method=jax.vmap)
    mcmc.run(chain_keys(), Y)
    assert_same_draws(draws_of(mcmc), draws_of(four), ROUNDING)


def test_a_progress_bar(mala_four, monkeypatch, capfd):
    for variable in ("CI", "PYTEST_XDIST_WORKER"):  # with these NumPyro shows none
        monkeypatch.delenv(variable, raising=False)
    mcmc = sampler(ScoreMALA(model), num_chains=1, progress_bar=True)
    mcmc.run(chain_keys()[0], Y)
    expected = {name: value[:1] for name, value in draws_of(mala_four).items()}
    assert_same_draws(draws_of(mcmc), expected, ROUNDING)
    assert "1 steps of size" in (shown := capfd.readouterr().err) and "acc. prob=" in shown


# Resuming.


def test_resuming_in_another_process_equals_an_uninterrupted_run(case):
    key = random.key(3)
    whole = sampler(case.make(model), num_chains=2)
    whole.run(key, Y)
    half = sampler(case.make(model), DRAWS // 2, num_chains=2)
    half.run(key, Y)
    # As a new process would: everything from bytes, and a kernel and an MCMC without history.
    state = pickle.loads(pickle.dumps(half.last_state))
    fresh = sampler(case.make(model), DRAWS // 2, num_chains=2)
    fresh.post_warmup_state = state
    fresh.run(state.rng_key, Y)
    first, second = draws_of(half), draws_of(fresh)
    joined = {name: np.concatenate([first[name], second[name]], 1) for name in first}
    assert_same_draws(joined, draws_of(whole))


def test_resuming_in_place_and_from_a_pickled_mcmc():
    key = random.key(4)
    whole = sampler(ScoreMALA(model), num_chains=2)
    whole.run(key, Y)
    mcmc = sampler(ScoreMALA(model), DRAWS // 2, num_chains=2)
    mcmc.run(key, Y)
    copy, first = pickle.loads(pickle.dumps(mcmc)), draws_of(mcmc)
    for resumed in (mcmc, copy):
        resumed.post_warmup_state = resumed.last_state
        resumed.run(resumed.last_state.rng_key, Y)
        second = draws_of(resumed)
        joined = {name: np.concatenate([first[name], second[name]], 1) for name in first}
        assert_same_draws(joined, draws_of(whole))


def test_a_resumed_chain_adapts_no_more_whatever_its_new_warm_up(mala_four):
    mcmc = sampler(ScoreMALA(model), num_warmup=500)
    mcmc.post_warmup_state = mala_four.last_state
    mcmc.run(mala_four.last_state.rng_key, Y)
    before, after = mala_four.last_state.adapt_state, mcmc.last_state.adapt_state
    jax.tree.map(np.testing.assert_array_equal, after, before)


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
        np.testing.assert_array_equal(
            steps[:, -1], mcmc.post_warmup_state.adapt_state.step_size
        )
    assert_same_draws(runs[2], runs[0])
    assert (runs[0]["s"] != runs[1]["s"]).mean() > 0.9


# Options of a run.


def test_thinning_and_leaving_out_a_site(mala_four):
    mcmc = sampler(ScoreMALA(model), thinning=2)
    mcmc.run(chain_keys(), Y, extra_fields=("~z.x",))
    draws, every = draws_of(mcmc), draws_of(mala_four)
    assert set(draws) == {"s", "total"}
    assert_same_draws(draws, {name: every[name][:, 1::2] for name in draws}, ROUNDING)


def test_init_params():
    start = {"x": jnp.array([[0.5, -0.5], [1.0, 2.0]]), "s": jnp.array([-0.3, 0.2])}
    kernel = ScoreMALA(model, step_size=1e-4, adapt_step_size=False)
    mcmc = sampler(kernel, 1, num_warmup=0, num_chains=2)
    mcmc.run(random.key(8), Y, init_params=start)
    draws = draws_of(mcmc)
    np.testing.assert_allclose(draws["x"][:, 0], start["x"], atol=1e-2)
    np.testing.assert_allclose(draws["s"][:, 0], np.exp(start["s"]), atol=1e-2)
    # Part of the sites: the others start as they would.
    part = kernel.init(random.key(8), 0, {"s": jnp.array(0.7)}, (Y,), {})
    assert float(part.z["s"]) == np.float32(0.7)
    assert np.abs(np.asarray(part.z["x"])).max() < 10
    with pytest.raises(ValueError, match="init_params.*'w'"):
        kernel.init(random.key(8), 0, {"w": jnp.array(0.7)}, (Y,), {})


def test_network_parameters_as_model_arguments():
    first = {"precision": jnp.array(1.0), "mean": jnp.array([5.0, -5.0])}
    second = {"precision": jnp.array(4.0), "mean": jnp.array([-5.0, 5.0])}
    mcmc = sampler(ScoreMALA(network_model), num_chains=2, jit_model_args=True)
    results = []
    for params in (first, second):
        mcmc.run(random.key(9), params, jnp.array(0.5))
        results.append(draws_of(mcmc))
    plain = sampler(ScoreMALA(network_model), num_chains=2)
    plain.run(random.key(9), second, jnp.array(0.5))
    assert_same_draws(results[1], draws_of(plain), ROUNDING)
    assert results[0]["x"][:, 10:, 0].min() > 0 > results[1]["x"][:, 10:, 0].max()
    # The compiled transition serves all parameters: nothing of them is baked in.
    kernel, state = plain.sampler, plain.last_state
    step = jax.jit(lambda state, params: kernel.sample(state, (params, jnp.array(0.5)), {}))
    for params in (first, second):
        step(state, params)
    assert step._cache_size() == 1
