"""GuidedDiffusion under NumPyro's MCMC, against a posterior known by quadrature."""

import pickle
from functools import cache

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.gibbs import Gibbs
from scipy import stats

import scoreppl as sp
from scoreppl.guidance import Guided
from scoreppl.noise import VPCosine
from tests.ppl.two_modes import MEANS, PRIOR, SCALES, WEIGHTS, Y, model, truth, z_scores


@cache
def run(accept="independence", chains=2, guidance=None, seed=0, samples=1_500, unguided_share=0.0):
    kernel = sp.GuidedDiffusion(
        model, guidance=guidance, num_steps=24, accept=accept, block_size=100,
        unguided_share=unguided_share,
    )  # fmt: skip
    mcmc = MCMC(
        kernel, num_warmup=200, num_samples=samples, num_chains=chains,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(seed), Y, extra_fields=("num_score_evaluations",))
    return mcmc


def test_the_chain_has_the_posterior():
    # Four standard errors in two means: false-alarm rate 1.3e-4; the reference's discretisation at
    # 24 steps is below one of them.
    assert np.all(z_scores(run().get_samples()) < 4.0)
    assert az.summary(az.from_numpyro(run()))["r_hat"].max() < 1.02


@pytest.mark.slow
def test_weighted_and_resampled_paths_have_the_posterior():
    mcmc = run(accept=None)
    log_weight = np.asarray(mcmc.get_extra_fields()["log_weight"], float)
    share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    assert np.all(z_scores(mcmc.get_samples(), share) < 4.0)
    drawn = sp.estimators.resample(jax.random.key(1), mcmc.get_samples(), log_weight, 3_000)
    assert drawn["double"].shape == (3_000, 1)
    assert np.all(z_scores(drawn, np.full(3_000, 1 / 3_000)) < 6.0)


def off_course(u, view):
    denoised = view.denoise(u)
    return Guided(denoised, denoised + 0.3 * jnp.tanh(view.scale) * jnp.sin(4.0 * u), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("accept", ["independence", None])
def test_a_share_of_unguided_paths_keeps_the_posterior(accept):
    mcmc = run(accept, guidance=off_course, unguided_share=0.3)
    log_weight = np.asarray(mcmc.get_extra_fields()["log_weight"], float)
    share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    assert np.all(z_scores(mcmc.get_samples(), share if accept is None else None) < 4.0)
    found = sp.estimators.log_evidence(log_weight)
    assert abs(found.log_evidence - truth()[0]) < 4 * found.standard_error + 0.01


@pytest.mark.slow
def test_a_wrong_guidance_costs_acceptance_alone():
    assert np.all(z_scores(run(guidance=off_course, samples=3_000).get_samples()) < 4.0)
    # As they come, the paths follow the guidance: the acceptance is what corrects them.
    assert np.max(z_scores(run(None, guidance=off_course).get_samples())) > 6.0


@pytest.mark.slow
@pytest.mark.parametrize("accept", ["independence", None])
def test_the_evidence_counts_every_path(accept):
    found = sp.estimators.log_evidence(run(accept).get_extra_fields()["log_weight"])
    assert abs(found.log_evidence - truth()[0]) < 4 * found.standard_error + 0.01
    assert found.standard_error < 0.05 and found.ess > 0.3 * 3_000 and found.pareto_k < 0.7


@pytest.mark.slow
def test_warm_up_fits_the_latents_proposal():
    state = run().last_state
    np.testing.assert_allclose(state.latent_proposal.share, 0.8)
    mean, sd = truth()[1]["s"]
    # Two fits of 100 draws each: a few tenths of a standard deviation.
    assert np.all(np.abs(state.latent_proposal.mean[:, 0] - mean) < 0.6 * sd)
    without = MCMC(
        sp.GuidedDiffusion(model, num_steps=8), num_warmup=0, num_samples=70, progress_bar=False
    )
    without.run(jax.random.key(0), Y)
    assert float(without.last_state.latent_proposal.share) == 0.0


@pytest.mark.slow
def test_the_latents_proposal_is_frozen_after_the_warm_up():
    shorter, longer = run().last_state, run(samples=3_000).last_state
    # A refit moves it by parts in ten; two compilations by their rounding.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        longer.latent_proposal, shorter.latent_proposal,
    )  # fmt: skip


def small(keys, num_samples):
    chains = 1 if keys.ndim == 0 else len(keys)
    mcmc = MCMC(
        sp.GuidedDiffusion(model, num_steps=8, block_size=30, num_pilots=64),
        num_warmup=30, num_samples=num_samples, num_chains=chains,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(keys, Y)
    return mcmc


@pytest.mark.slow
def test_a_chain_does_not_depend_on_the_others_and_a_resumed_run_goes_on():
    keys = jax.random.split(jax.random.key(1), 3)
    together = small(keys, 60).get_samples(group_by_chain=True)["x"][0]
    alone = small(keys[0], 60).get_samples()["x"]
    # Rounding turns an acceptance around now and then, and with it a few draws.
    assert np.mean(np.isclose(alone, together, atol=1e-3)) > 0.9
    parts = small(keys[0], 25)
    first = parts.get_samples()["x"]
    parts.post_warmup_state = parts.last_state
    parts.num_samples = 35
    parts.run(parts.last_state.rng_key, Y)
    both = np.concatenate([first, parts.get_samples()["x"]])
    np.testing.assert_allclose(both, alone, rtol=1e-4, atol=1e-5)


def test_inference_data_has_the_weights_and_no_density():
    stats_ = az.from_numpyro(run()).sample_stats
    assert {"log_weight", "accept_prob", "is_nan"} <= {str(name) for name in stats_.data_vars} | (
        {"accept_prob"} if "acceptance_rate" in stats_ else set()
    )
    assert not {"lp", "energy"} & {str(name) for name in stats_.data_vars}
    cost = run().get_extra_fields()["num_score_evaluations"]
    # One dimension: the full covariance costs three evaluations a step.
    np.testing.assert_array_equal(cost, np.full(3_000, 24 * 3))


def test_the_report_says_what_is_exact():
    assert "Exact for the discretised prior" in str(sp.diagnostics.report(run()))


@pytest.mark.slow
def test_the_report_says_what_is_heuristic():
    assert "Heuristic" in str(sp.diagnostics.report(run(None)))


def test_the_kernel_pickles():
    kernel = pickle.loads(pickle.dumps(sp.GuidedDiffusion(model)))
    assert isinstance(kernel, sp.GuidedDiffusion)


@pytest.mark.slow
def test_several_sites_in_plates_and_no_ordinary_latent():
    other = sp.analytic.GaussianMixture(jnp.zeros((1, 2)), scales=1.0, noise=VPCosine())

    def pictures():
        with numpyro.plate("n", 3):
            v = numpyro.sample("v", sp.ScorePrior(other))
        x = numpyro.sample("x", sp.ScorePrior(PRIOR))
        numpyro.factor("fit", -0.5 * jnp.sum(v**2) - 0.5 * jnp.sum(x**2))

    mcmc = MCMC(
        sp.GuidedDiffusion(pictures, guidance=sp.guidance.LineSearch()),
        num_warmup=0, num_samples=500, progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0))
    assert mcmc.get_samples()["v"].shape == (500, 3, 2)
    found = sp.estimators.log_evidence(mcmc.get_extra_fields()["log_weight"])
    variances = 1 + SCALES**2
    exact = -3 * np.log(2) + np.log(
        WEIGHTS @ (np.exp(-0.5 * MEANS**2 / variances) / variances**0.5)
    )
    assert abs(found.log_evidence - exact) < 4 * found.standard_error + 0.05


@pytest.mark.parametrize("has_latent", [False, True])
def test_the_first_draw_after_the_warm_up_has_the_posterior(has_latent):
    """The chain goes on from the warm-up's last state, not from a path that nobody weighed."""

    def plain():
        x = numpyro.sample("x", sp.ScorePrior(PRIOR))
        numpyro.factor("fit", -2.0 * (x[0] - 1.5) ** 2)

    kernel = sp.GuidedDiffusion(
        model if has_latent else plain, guidance=sp.guidance.Unguided(), num_steps=24,
        num_pilots=128, block_size=50,
    )  # fmt: skip
    mcmc = MCMC(
        kernel, num_warmup=150, num_samples=1, num_chains=300,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), *((Y,) if has_latent else ()), extra_fields=("accept_prob",))
    x = np.asarray(mcmc.get_samples()["x"], float)[:, 0]
    assert np.mean(np.asarray(mcmc.get_extra_fields()["accept_prob"]) == 1.0) < 0.9
    if has_latent:
        mean, sd = truth()[1]["x"]
        log_s = np.log(np.asarray(mcmc.get_samples()["s"], float))
        s_mean, s_sd = truth()[1]["s"]
        assert abs(log_s.mean() - s_mean) < 4.5 * s_sd / np.sqrt(300)
    else:
        grid = np.linspace(-5, 6, 4001)
        density = (WEIGHTS * stats.norm.pdf(grid[:, None], MEANS, SCALES)).sum(1)
        density = density * np.exp(-2.0 * (grid - 1.5) ** 2)
        mean = np.sum(grid * density) / density.sum()
        sd = np.sqrt(np.sum((grid - mean) ** 2 * density) / density.sum())
    # Four and a half standard errors of 300 independent chains, in three means: 2e-5. Paths as
    # they come have the prior's mean, 0.43.
    assert abs(x.mean() - mean) < 4.5 * sd / np.sqrt(300)


def half(u, view):
    denoised = view.denoise(u)
    return Guided(denoised, jnp.where(u > 0.3, jnp.nan, denoised + 0.1), jnp.nan)


# About half of all paths rightly have no weight, which the Pareto k takes for a tail.
@pytest.mark.filterwarnings("ignore:The weights' Pareto k")
@pytest.mark.parametrize("guidance", [sp.guidance.LAGS(), sp.guidance.MPGD(0.3), half])
def test_a_guidance_without_numbers_somewhere_keeps_the_evidence(guidance):
    """What lies where the gradient is not a number on the way is a third of the whole and more."""

    def rooted():
        x = numpyro.sample("x", sp.ScorePrior(PRIOR))
        numpyro.factor("fit", -0.5 * (jnp.sqrt(x[0]) - 1.0) ** 2)

    kernel = sp.GuidedDiffusion(rooted, guidance=guidance, num_steps=24, block_size=500)
    mcmc = MCMC(kernel, num_warmup=0, num_samples=4_000, progress_bar=False)
    mcmc.run(jax.random.key(0))
    grid = np.linspace(1e-6, 6, 20_001)
    density = (WEIGHTS * stats.norm.pdf(grid[:, None], MEANS, SCALES)).sum(1)
    density = density * np.exp(-0.5 * (np.sqrt(grid) - 1.0) ** 2)
    exact = np.log(density.sum() * (grid[1] - grid[0]))
    found = sp.estimators.log_evidence(mcmc.get_extra_fields()["log_weight"])
    # Four and a half standard errors, and the discretisation of 24 steps.
    assert abs(found.log_evidence - exact) < 4.5 * found.standard_error + 0.02
    assert found.standard_error < 0.02


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda d: d, "returned a"),
        (lambda d: Guided(d, jnp.zeros(3), 0.0), r"`guided` has shape \(3,\).*must be \(1,\)"),
        (lambda d: Guided(d, d, jnp.zeros(2)), r"`log_twist` has shape \(2,\).*must be \(\)"),
        (lambda d: Guided(d, d, 0.0, None, jnp.eye(1)), r"`covariance` has shape None"),
    ],
)
def test_a_wrong_answer_of_a_guidance_is_named(answer, message):
    kernel = sp.GuidedDiffusion(
        model, guidance=lambda u, view: answer(view.denoise(u)), num_steps=4
    )
    with pytest.raises(ValueError, match=message):
        MCMC(kernel, num_warmup=0, num_samples=2, progress_bar=False).run(jax.random.key(0), Y)


def test_paths_without_weight_are_rejected_and_counted():
    def hard():
        x = numpyro.sample("x", sp.ScorePrior(PRIOR))
        numpyro.factor("fit", jnp.where(x[0] > 0.5, 0.0, jnp.nan))

    mcmc = MCMC(
        sp.GuidedDiffusion(hard, guidance=sp.guidance.Unguided()),
        num_warmup=0, num_samples=400, progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), extra_fields=("is_nan",))
    counted = mcmc.get_extra_fields()["is_nan"]
    exact = 1 - WEIGHTS @ stats.norm.cdf((0.5 - MEANS) / SCALES)
    # Five standard errors of 400 draws.
    assert abs(1 - counted.mean() - exact) < 5 * np.sqrt(0.25 / 400)
    started = np.argmin(counted)
    assert np.all(mcmc.get_samples()["x"][started:, 0] > 0.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_steps": 1}, "`num_steps=1`"),
        ({"block_size": 0}, "`block_size=0`"),
        ({"num_pilots": 0}, "`num_pilots=0`"),
        ({"num_latent_steps": -1}, "`num_latent_steps=-1`"),
        ({"max_shift": 0.0}, "`max_shift=0.0`"),
        ({"max_shift": "0.2"}, "`max_shift='0.2'`"),
        ({"unguided_share": 1.0}, "`unguided_share=1.0`"),
        ({"unguided_share": "half"}, "`unguided_share='half'`"),
        ({"accept": "always"}, "`accept='always'`"),
        ({"guidance": "LAGS"}, "`guidance` of type str"),
        ({"guidance": sp.guidance.LAGS}, "`guidance=LAGS` is a class"),
        ({"num_steps": 4.5}, "`num_steps=4.5` must be an integer"),
        ({"block_size": "8"}, "`block_size='8'` must be an integer"),
        ({"num_pilots": True}, "`num_pilots=True` must be an integer"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as error:
        sp.GuidedDiffusion(model, **arguments)
    assert message in str(error.value)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_models_without_score_sites_starts_and_gibbs_are_refused():
    def plain():
        numpyro.sample("s", dist.Normal())

    with pytest.raises(ValueError, match="no ScorePrior site"):
        MCMC(sp.GuidedDiffusion(plain), num_warmup=1, num_samples=1).run(jax.random.key(0))

    def improper():
        x = numpyro.sample("x", sp.ScorePrior(PRIOR))
        s = numpyro.sample("s", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(x[0], jnp.exp(s)), obs=0.3)

    with pytest.raises(ValueError, match="improper prior"):
        MCMC(sp.GuidedDiffusion(improper), num_warmup=1, num_samples=1).run(jax.random.key(0))
    mcmc = MCMC(sp.GuidedDiffusion(model), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="hold NaN or infinite"):
        mcmc.run(jax.random.key(0), np.array([0.1, np.nan, 0.2]))
    too_many = MCMC(
        sp.GuidedDiffusion(model, pilot_rank=2), num_warmup=1, num_samples=1, progress_bar=False
    )
    with pytest.raises(ValueError, match="`pilot_rank=2` must be at most 1, the dim"):
        too_many.run(jax.random.key(0), Y)
    with pytest.raises(ValueError, match="`init_params` has no place here"):
        mcmc.run(jax.random.key(0), Y, init_params={"s": jnp.zeros(())})
    with pytest.raises(ValueError, match="does not implement `refresh`"):
        Gibbs([(sp.GuidedDiffusion(model), ["x"]), (NUTS(model), None)])


def test_a_weight_without_gradient_needs_another_guidance():
    def model():
        x = numpyro.sample("x", sp.ScorePrior(PRIOR))
        numpyro.factor("inside", jnp.where(x[0] > 0.5, 0.0, -jnp.inf))

    with pytest.raises(ValueError, match="FullCovariance.*RandomNumbers.*LimitState.*Unguided"):
        MCMC(
            sp.GuidedDiffusion(model, num_steps=8), num_warmup=1, num_samples=1, progress_bar=False
        ).run(jax.random.key(0))
