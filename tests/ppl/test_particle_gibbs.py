"""ParticleGibbs as a NumPyro kernel: posteriors with exact truth, chains, bad input."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import scoreppl as sp
from tests import problems

SINGLE = sp.analytic.GaussianMixture(jnp.array([[-1.0], [1.5]]), scales=0.5, weights=[0.3, 0.7])


def noisy(y):
    x = numpyro.sample("x", sp.ScorePrior(SINGLE))
    shift = numpyro.sample("shift", dist.Normal(0.0, 0.5))
    numpyro.deterministic("total", x[0] + shift)
    numpyro.sample("y", dist.Normal(x[0] + shift, 0.7), obs=y)


def noisy_truth(y):
    """Means of x and of the shift: the mixture with the variance of noise and shift together."""
    means, weights = np.array([-1.0, 1.5]), np.array([0.3, 0.7])
    variance, noise = 0.25, 0.49 + 0.25
    log_marginal = -0.5 * (y - means) ** 2 / (variance + noise)
    share = weights * np.exp(log_marginal)
    share /= share.sum()
    posterior = means + variance / (variance + noise) * (y - means)
    shifts = 0.25 / (variance + noise) * (y - means)
    return share @ posterior, share @ shifts


def run(model, *args, num_samples=1_000, num_chains=2, seed=0, num_warmup=50, **options):
    mcmc = MCMC(
        sp.ParticleGibbs(model, **options), num_warmup=num_warmup, num_samples=num_samples,
        num_chains=num_chains, chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(seed), *args, extra_fields=("accept_prob", "renewed", "ess"))
    return mcmc


def test_the_chain_has_the_posterior():
    mcmc = run(noisy, 0.4, num_steps=12, num_particles=8)
    data = az.from_numpyro(mcmc)
    summary = az.summary(data, var_names=["x", "shift"], round_to="none")
    exact_x, exact_shift = noisy_truth(0.4)
    for name, exact in (("x[0]", exact_x), ("shift", exact_shift)):
        row = summary.loc[name].astype(float)
        # Two means at four Monte Carlo errors: false-alarm rate 1e-4.
        assert abs(row["mean"] - exact) < 4 * row["mcse_mean"]
        assert row["r_hat"] < 1.02
    fields = mcmc.get_extra_fields()
    assert 0.3 < float(fields["accept_prob"].mean()) <= 1.0
    assert 0.3 < float(fields["renewed"].mean()) <= 1.0
    draws = mcmc.get_samples()
    np.testing.assert_allclose(draws["total"], draws["x"][:, 0] + draws["shift"], rtol=1e-5)


@pytest.mark.slow
def test_agreement_with_truth_in_eight_dimensions():
    found, exact = problems.problem("lg8"), problems.truth("lg8")

    def model():
        x = numpyro.sample("x", sp.ScorePrior(found.prior))
        numpyro.factor("weight", found.log_weight(x))

    mcmc = run(model, num_steps=25, num_particles=16, num_samples=500, num_chains=4)
    x = mcmc.get_samples(group_by_chain=True)["x"]
    modes = jax.vmap(jax.vmap(found.prior.mode_probabilities))(x)
    for values, truth in ((x, exact.mean), (modes, exact.mode_masses)):
        for index in range(values.shape[-1]):
            chain = np.asarray(values[..., index], float)
            error = chain.std() / np.sqrt(float(az.ess(chain)))
            # Fourteen means at 4.5 errors and the discretisation's share: false alarms 1e-4.
            assert abs(chain.mean() - truth[index]) < 4.5 * error + 0.01


def two_sites(y):
    x = numpyro.sample("x", sp.ScorePrior(SINGLE))
    z = numpyro.sample("z", sp.ScorePrior(SINGLE))
    shift = numpyro.sample("shift", dist.Normal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(x[0] - 0.5 * z[0] + shift, 0.4), obs=y)


def two_sites_truth(y):
    """Means of x, z and the shift: each pair of components has a Gaussian posterior."""
    means, weights = np.array([-1.0, 1.5]), np.array([0.3, 0.7])
    row, variance = np.array([1.0, -0.5, 1.0]), np.array([0.25, 0.25, 0.25])
    logs, found = [], []
    for i in range(2):
        for j in range(2):
            mean = np.array([means[i], means[j], 0.0])
            total = row @ (variance * row) + 0.16
            apart = y - row @ mean
            logs.append(np.log(weights[i] * weights[j]) - 0.5 * apart**2 / total)
            found.append(mean + variance * row * apart / total)
    share = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    return share @ np.array(found)


@pytest.mark.slow
def test_a_sweep_over_two_score_sites_and_an_ordinary_latent():
    mcmc = run(two_sites, 1.2, num_steps=20, num_particles=16, num_samples=1_500)
    draws = mcmc.get_samples(group_by_chain=True)
    found = [draws["x"][..., 0], draws["z"][..., 0], draws["shift"]]
    for values, exact in zip(found, two_sites_truth(1.2), strict=True):
        chain = np.asarray(values, float)
        error = chain.std() / np.sqrt(float(az.ess(chain)))
        # Three means at four errors and the discretisation's share: false-alarm rate 2e-4.
        assert abs(chain.mean() - exact) < 4 * error + 0.01, (chain.mean(), exact, error)


@pytest.mark.slow
def test_one_chain_and_a_batch_take_the_same_steps():
    kernel = sp.ParticleGibbs(noisy, num_steps=6, num_particles=4, num_pilots=16)
    keys = jax.random.split(jax.random.key(1), 2)
    batch = kernel.init(keys, 0, None, (0.4,), {})
    batch = kernel.sample(batch, (0.4,), {})
    one = kernel.init(keys[0], 0, None, (0.4,), {})
    one = kernel.sample(one, (0.4,), {})
    np.testing.assert_allclose(batch.path[0], one.path, rtol=1e-4, atol=1e-5)
    assert "score evaluations" in kernel.get_diagnostics_str(one)
    # Full covariance in one dimension: 3 evaluations a step and particle.
    assert int(one.num_score_evaluations) == 6 * 4 * 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_particles": 1}, "`num_particles=1`"),
        ({"num_steps": 1}, "`num_steps=1`"),
        ({"num_pilots": 1}, "`num_pilots=1`"),
        ({"num_latent_steps": -1}, "`num_latent_steps=-1`"),
        ({"max_shift": 0}, "`max_shift=0`"),
        ({"guidance": sp.guidance.LAGS}, "add parentheses"),
        ({"guidance": "LAGS"}, "`guidance` of type str"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError) as caught:
        sp.ParticleGibbs(noisy, **options)
    assert message in str(caught.value)


def test_bad_models_are_named():
    def composed():
        numpyro.sample("x", sp.ScorePrior(sp.temper(SINGLE, 2.0)))

    with pytest.raises(ValueError, match="sp.ScoreSMC"):
        sp.ParticleGibbs(composed).init(jax.random.key(0), 0, None, (), {})
    with pytest.raises(ValueError, match="`init_params` has no place"):
        sp.ParticleGibbs(noisy).init(jax.random.key(0), 0, {"x": jnp.zeros(1)}, (0.4,), {})
