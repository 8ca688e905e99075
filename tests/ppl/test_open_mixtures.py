"""ScoreSMC on mixtures of models without densities, and correctors that follow densities."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import scoreppl as sp
from scoreppl.ppl import smc
from scoreppl.samplers import correctors
from tests.compose.laws import FIRST, LAWS, SECOND, TILT, Law, P, Q, mixture, on_grid, reward

NUM_RUNS = 12
LOG_WEIGHTS = np.log([0.3, 0.7])
M = np.logaddexp(P + LOG_WEIGHTS[0], Q + LOG_WEIGHTS[1])


def closed(model):
    """Return the model as a network: a denoiser without a density."""
    return sp.ScoreNetwork(
        lambda params, x, t, _: params.denoise(x, t), model, noise=model.noise, prediction="x0",
        event_shape=(1,), min_time=model.min_time,
    )  # fmt: skip


THIRD = mixture([0.2], [0.8], [1.0])
MIXTURE = sp.mixture([closed(FIRST), closed(SECOND)], LOG_WEIGHTS)
LAPLACIAN = {"corrector": sp.correctors.LaplacianOnly()}
CASES = {
    "tilted": (Law(MIXTURE, reward, M + TILT), {}),
    "tilted, corrector": (Law(MIXTURE, reward, M + TILT), LAPLACIAN),
    "in a product": (Law(sp.product(MIXTURE, THIRD), None, M + on_grid(THIRD)), {}),
    "sharpened": (Law(sp.temper(MIXTURE, 2.5), None, 2.5 * M), {}),
    "negated": (Law(sp.negate(closed(THIRD), MIXTURE, 0.5), None, on_grid(THIRD) - 0.5 * M), {}),
}
QUICK = ("in a product", "sharpened")


def run(law, num_steps=100, seed=0, **options):
    sampler = sp.ScoreSMC(
        score_model=law.model, log_weight=law.log_weight, num_particles=500, num_steps=num_steps,
        num_runs=NUM_RUNS, num_pilots=64, **options,
    )  # fmt: skip
    sampler.run(jax.random.key(seed))
    return sampler


def errors(law, sampler):
    """Give z-scores of evidence and mean over runs, and the bias of the log evidence."""
    weight = np.exp(sampler.result.log_weight - sampler.result.log_weight.max()).reshape(
        NUM_RUNS, -1
    )
    x = np.asarray(sampler.result.samples["x"])[:, 0].reshape(NUM_RUNS, -1)
    bias = sampler.log_evidence - law.log_evidence()
    means = (weight * x).sum(1) / weight.sum(1) - law.mean()
    return (
        bias / sampler.result.log_evidence_error_of_runs,
        means.mean() / (means.std(ddof=1) / np.sqrt(NUM_RUNS)),
        bias,
    )


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_mixtures_of_networks_have_the_right_evidence_and_mean(name):
    law, options = CASES[name]
    evidence, mean, _ = errors(law, run(law, **options))
    # Student's t with 11 degrees of freedom at 4: false-alarm rate 2e-3 each.
    assert abs(evidence) < 4 and abs(mean) < 4, (evidence, mean)


def test_a_mutant_that_forgets_the_ratio_is_caught(monkeypatch):
    """Members' probabilities as at noise, in place of those that are followed."""
    follow = correctors.followed

    def forgetful(known, *rest):
        return follow(known, *rest)._replace(value=known.value)

    monkeypatch.setattr(correctors, "followed", forgetful)
    law, options = CASES["sharpened"]
    evidence, mean, _ = errors(law, run(law, **options))
    assert max(abs(evidence), abs(mean)) > 8, (evidence, mean)


def test_a_mutant_that_mixes_up_the_probabilities_of_choices_is_caught(monkeypatch):
    pooled = smc.pooled
    monkeypatch.setattr(smc, "pooled", lambda *args: pooled(*args[:-1], args[-1][::-1]))
    law, _ = CASES["in a product"]
    evidence, mean, _ = errors(law, run(law))
    assert max(abs(evidence), abs(mean)) > 6, (evidence, mean)


@pytest.mark.parametrize(
    "name",
    ["product", pytest.param("tilted and sharpened", marks=pytest.mark.slow)],
)
def test_energy_control_has_the_right_evidence_and_mean(name):
    law = LAWS[name]
    sampler = run(law, num_steps=150, corrector=sp.correctors.EnergyControl())
    evidence, mean, bias = errors(law, sampler)
    # Its drift is fitted to the particles that it moves: a bias of the order of one in 500.
    assert (abs(evidence) < 4 or abs(bias) < 0.015) and abs(mean) < 4, (evidence, mean, bias)


@pytest.mark.slow
def test_energy_control_varies_weights_less_than_no_control():
    """Never resampled, its particles stay more effective than with c = 1 / Gamma alone."""
    law, never = LAWS["sharpened"], sp.correctors.Resampling(0.0)
    effective = [
        run(law, corrector=corrector, resampling=never).result.ess
        for corrector in (sp.correctors.LaplacianOnly(), sp.correctors.EnergyControl())
    ]
    assert effective[1] > 1.1 * effective[0], effective


CLOSED = sp.product(closed(FIRST), closed(SECOND))
PRODUCT_AND_THIRD = np.logaddexp(P + Q + np.log(0.8), on_grid(THIRD) + np.log(0.2))


@pytest.mark.parametrize(
    "members",
    [
        (sp.product(FIRST, SECOND), THIRD),
        pytest.param((THIRD, CLOSED), marks=pytest.mark.slow),
    ],
    ids=["analytic", "networks"],
)
def test_mixtures_of_compositions_weigh_them_by_their_integrals(members):
    """Noise does not keep them mixtures, so they are taken apart even with densities."""
    shares = [0.8, 0.2] if members[1] is THIRD else [0.2, 0.8]
    law = Law(sp.mixture(members, np.log(shares)), None, PRODUCT_AND_THIRD)
    sampler = run(law)
    evidence, mean, _ = errors(law, sampler)
    # Student's t with 11 degrees of freedom at 4: false-alarm rate 2e-3 each.
    assert abs(evidence) < 4 and abs(mean) < 4, (evidence, mean)
    # 250 particles a choice, two evaluations a Jacobian-vector product, three models in all.
    assert sampler.result.num_score_evaluations == NUM_RUNS * 250 * 100 * 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True])
def test_schedules_of_different_reach_give_one_evidence(turned):
    """Levels noisier than a schedule reaches were once taken for its noisiest."""
    short = mixture([-0.5, 1.5], [0.6, 0.9], [0.4, 0.6], sp.noise.VE(0.002, 20.0))
    models = (short, FIRST) if turned else (FIRST, short)
    law = Law(sp.product(*models), None, P + Q)
    evidence, mean, bias = errors(law, run(law, num_steps=150))
    assert (abs(evidence) < 4 or abs(bias) < 0.01) and abs(mean) < 4, (evidence, mean, bias)


def two_sites(y):
    x = numpyro.sample("x", sp.ScorePrior(MIXTURE))
    z = numpyro.sample("z", sp.ScorePrior(MIXTURE))
    numpyro.sample("y", dist.Normal(x[0] + z[0], 0.5), obs=y)


@pytest.mark.slow
def test_two_sites_are_taken_apart_into_four_runs():
    sampler = sp.ScoreSMC(two_sites, num_particles=400, num_steps=40, num_runs=4, num_pilots=32)
    sampler.run(jax.random.key(1), 1.0)
    samples, log_weight = sampler.get_weighted_samples()
    assert samples["x"].shape == (1_600, 1) and sampler.result.trace.ess.shape == (16, 40)
    grid = np.linspace(-14, 14, 2_001)
    density = np.exp(np.interp(grid, np.linspace(-14, 14, 20_001), M))
    cell = grid[1] - grid[0]
    likelihood = np.exp(-0.5 * ((1.0 - grid[:, None] - grid) / 0.5) ** 2) / (
        0.5 * np.sqrt(2 * np.pi)
    )
    exact = np.log(density @ likelihood @ density * cell**2)
    # Student's t with three degrees of freedom: false-alarm rate 1 %.
    error = sampler.result.log_evidence_error_of_runs
    assert abs(sampler.log_evidence - exact) < 5.9 * error + 0.01, (
        sampler.log_evidence,
        exact,
        error,
    )
    assert np.isfinite(np.logaddexp.reduce(log_weight))


def in_a_plate():
    with numpyro.plate("n", 3):
        numpyro.sample("x", sp.ScorePrior(MIXTURE))


def sharpened_mixture(y):
    x = numpyro.sample("x", sp.ScorePrior(sp.temper(MIXTURE, 2.0)))
    numpyro.sample("y", dist.Normal(x[0], 0.5), obs=y)


def test_what_cannot_be_done_is_named():
    with pytest.raises(ValueError, match="in a plate"):
        sp.ScoreSMC(in_a_plate).run(jax.random.key(0))
    with pytest.raises(ValueError, match="exponent other than one"):
        sp.ScoreSMC(sharpened_mixture).run(jax.random.key(0), 1.0)
    with pytest.raises(ValueError, match="mixture of compositions under an exponent"):
        law = sp.temper(sp.mixture([CLOSED, THIRD]), 2.0)
        sp.ScoreSMC(score_model=law).run(jax.random.key(0))
    with pytest.raises(ValueError, match="use sp.ScoreSMC"):
        MIXTURE.score(jnp.zeros(1), 0.5)


@pytest.mark.slow
def test_a_composed_mixture_in_a_model_s_arguments_is_taken_apart():
    """Its exponents are known outside of what is compiled, and constants inside."""

    def model(y, composed):
        x = numpyro.sample("x", sp.ScorePrior(composed))
        numpyro.sample("y", dist.Normal(x[0], 0.5), obs=y)

    sampler = sp.ScoreSMC(model, num_particles=40, num_steps=5, num_pilots=8)
    sampler.run(jax.random.key(0), 1.0, sp.product(MIXTURE, THIRD))
    assert sampler.result.trace.ess.shape == (2, 5) and np.isfinite(sampler.log_evidence)
