"""DiffusionMH under NumPyro's MCMC: exact for wrong networks, and the contract."""

import pickle
from functools import cache

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import HMC, MCMC, NUTS
from numpyro.infer.gibbs import Gibbs

import scoreppl as sp
from scoreppl.ppl.block import Block
from tests.ppl.two_modes import Y, dense_model, z_scores

# Networks that are wrong: a mixture of equal modes of x, and one normal law of (x, s).
OF_X = sp.analytic.GaussianMixture(jnp.array([[-0.8], [1.0]]), scales=0.6)
OF_BOTH = sp.analytic.GaussianMixture(jnp.array([[0.3, 0.9]]), scales=jnp.array([[0.9, 0.6]]))
OF_REALS = sp.analytic.GaussianMixture(jnp.array([[0.3, -0.3]]), scales=jnp.array([[0.9, 0.7]]))
QUICK = {"num_levels": 8, "num_pilots": 64}
KERNELS = {
    "x, with nuts": lambda: sp.DiffusionMH(dense_model, {"x": OF_X}, **QUICK),
    "x, with hmc, scalar": lambda: sp.DiffusionMH(
        dense_model, {"x": OF_X}, local=HMC(dense_model, trajectory_length=1.0),
        covariance="scalar", num_proposals=1, **QUICK,
    ),
    "x and s as they are": lambda: sp.DiffusionMH(
        dense_model, {("x", "s"): OF_BOTH}, local=None, **QUICK
    ),
    "x and s on the reals": lambda: sp.DiffusionMH(
        dense_model, {("x", "s"): OF_REALS}, local=None, coordinates="unconstrained", **QUICK
    ),
    "gibbs": lambda: Gibbs(
        [
            (sp.DiffusionMH(dense_model, {"x": OF_X}, local=None, **QUICK), ["x"]),
            (NUTS(dense_model), ["s"]),
        ]
    ),
}  # fmt: skip


@cache
def run(name, samples=1_500, seed=0):
    is_gibbs = name == "gibbs"
    mcmc = MCMC(
        KERNELS[name](), num_warmup=300, num_samples=samples * (1 + is_gibbs), num_chains=2,
        chain_method="sequential" if is_gibbs else "vectorized", progress_bar=False,
    )  # fmt: skip
    fields = () if is_gibbs else ("num_score_evaluations", "num_density_evaluations", "mode_change")
    mcmc.run(jax.random.key(seed), Y, extra_fields=fields)
    return mcmc


def two_chains(kernel, num_warmup, num_samples, fields=(), seed=0):
    """Run two chains on a model without arguments."""
    mcmc = MCMC(
        kernel, num_warmup=num_warmup, num_samples=num_samples, num_chains=2,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(seed), extra_fields=fields)
    return mcmc


SLOW = ("x, with hmc, scalar", "x and s on the reals", "gibbs")


def each_kernel():
    marks = {name: [pytest.mark.slow] if name in SLOW else [] for name in KERNELS}
    return [pytest.param(name, marks=marks[name]) for name in KERNELS]


@pytest.mark.parametrize("name", each_kernel())
def test_the_chain_has_the_posterior(name):
    mcmc = run(name)
    # Four and a half standard errors in two means for five kernels: false-alarm rate 7e-5.
    assert np.all(z_scores(mcmc.get_samples()) < 4.5)
    assert az.summary(az.from_numpyro(mcmc), var_names=["x", "s"])["r_hat"].max() < 1.02
    np.testing.assert_allclose(mcmc.get_samples()["double"], 2 * mcmc.get_samples()["x"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x and s as they are", "x and s on the reals"])
def test_a_dropped_jacobian_is_seen(monkeypatch, name):
    """The mutant takes the density of the other coordinates."""
    evaluate = Block.evaluate

    def mutant(self, *arguments):
        found = evaluate(self, *arguments)
        log_s = found.z["s"]
        sign = 1.0 if self.coordinates == "constrained" else -1.0
        return found._replace(log_density=found.log_density + sign * log_s)

    monkeypatch.setattr(Block, "evaluate", mutant)
    jax.clear_caches()
    try:
        assert np.max(z_scores(run.__wrapped__(name).get_samples())) > 7.0
    finally:
        jax.clear_caches()


@pytest.mark.slow
def test_a_value_outside_the_support_is_never_taken():
    """A sigmoid's inverse answers there, too, so the support itself is asked."""
    wide = sp.analytic.GaussianMixture(jnp.array([[0.5]]), scales=1.0)

    def model():
        numpyro.sample("p", dist.Beta(2.0, 5.0).expand([1]).to_event(1))

    kernel = sp.DiffusionMH(model, {"p": wide}, local=None, **QUICK)
    mcmc = two_chains(kernel, 100, 2_000)
    p = np.asarray(mcmc.get_samples()["p"], float)
    assert p.min() > 0 and p.max() < 1
    ess = float(az.ess(p.reshape(2, -1)))
    sd = np.sqrt(10 / (49 * 8))
    assert abs(p.mean() - 2 / 7) < 4.5 * sd / np.sqrt(ess)


def far_modes(scale=1.0):
    centres = jnp.array([[-10.0, 0.0], [10.0, 3.0]])
    modes = dist.Normal(centres, scale).to_event(1)
    numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), modes))


@cache
def far_run():
    network = sp.analytic.GaussianMixture(jnp.array([[-9.7, 0.2], [10.1, 2.7]]), scales=1.2)
    kernel = sp.DiffusionMH(far_modes, {"x": network}, local=None, num_levels=16, num_proposals=2)
    fields = ("mode_change", "noise_level", "squared_jump", "level_probabilities")
    return two_chains(kernel, 400, 2_000, fields, seed=1)


def test_modes_are_changed_and_counted():
    mcmc = far_run()
    x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"])[..., 0]
    fields = mcmc.get_extra_fields(group_by_chain=True)
    share = np.mean(x > 0)
    ess = float(az.ess((x > 0).astype(float)))
    assert abs(share - 0.7) < 4.5 * np.sqrt(0.21 / ess) and ess > 500
    changed = np.sign(x[:, 1:]) != np.sign(x[:, :-1])
    np.testing.assert_array_equal(changed, np.asarray(fields["mode_change"])[:, 1:])
    jumps = np.asarray(fields["squared_jump"])[:, 1:]
    steps = np.diff(np.asarray(mcmc.get_samples(group_by_chain=True)["x"]), axis=1)
    np.testing.assert_allclose(jumps, np.sum(steps**2, -1), rtol=1e-3, atol=1e-3)


def test_levels_are_tuned_in_warm_up_and_frozen():
    fields = far_run().get_extra_fields(group_by_chain=True)
    probabilities = np.asarray(fields["level_probabilities"])
    np.testing.assert_array_equal(
        probabilities, np.broadcast_to(probabilities[:, :1], probabilities.shape)
    )
    # Levels below the modes' distance change no mode; eight even ones would have 0.125 each.
    assert np.all(probabilities[:, 0, -3:].sum(-1) > 0.5)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-5)
    levels, counts = np.unique(np.asarray(fields["noise_level"])[0], return_counts=True)
    assert len(levels) == 8
    # Five standard errors of a share at 2,000 draws.
    np.testing.assert_allclose(counts / 2_000, probabilities[0, 0], atol=0.056)


def test_the_cost_is_counted():
    fields = run("x, with nuts").get_extra_fields()
    # Four proposals and the way back, 1 + 2 d evaluations a level, eight levels.
    evaluations = np.asarray(fields["num_score_evaluations"])
    assert set(evaluations) <= {5 * 3 * level for level in range(1, 9)}
    # The network's move, then a gradient for NUTS to start from and one for each of its steps.
    assert np.all(np.asarray(fields["num_density_evaluations"]) >= 7 + 2)
    density = np.asarray(run("x and s as they are").get_extra_fields()["num_density_evaluations"])
    assert set(density) == {7}


@pytest.mark.slow
def test_chains_resume_pickle_and_thin():
    first = MCMC(KERNELS["x, with nuts"](), num_warmup=50, num_samples=40, progress_bar=False)
    first.run(jax.random.key(3), Y)
    first.post_warmup_state = first.last_state
    first.run(first.post_warmup_state.rng_key, Y)
    again = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(again.get_samples()["x"], first.get_samples()["x"])
    thinned = MCMC(
        KERNELS["x, with nuts"](), num_warmup=50, num_samples=40, thinning=4, progress_bar=False
    )
    thinned.run(jax.random.key(3), Y)
    assert thinned.get_samples()["x"].shape == (10, 1)


def test_the_report_says_exact():
    found = sp.diagnostics.report(run("x, with nuts"))
    assert "exact" in found.exactness[0].lower() and "any network" in found.exactness[0]
    data = sp.to_inference_data(run("x, with nuts"))
    assert data.attrs["kernel"] == "DiffusionMH" and data.attrs["num_score_evaluations"] > 0


@pytest.mark.slow
def test_plates_and_batches_of_events():
    network = sp.analytic.GaussianMixture(jnp.array([[0.0, 0.5]]), scales=1.1)

    def model():
        with numpyro.plate("n", 3):
            numpyro.sample("x", dist.Normal(jnp.array([0.0, 0.5]), 1.0).to_event(1))

    kernel = sp.DiffusionMH(model, {"x": network}, local=None, **QUICK)
    mcmc = two_chains(kernel, 100, 1_000)
    x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"], float)
    assert x.shape == (2, 1_000, 3, 2)
    for index in np.ndindex(3, 2):
        values = x[(..., *index)]
        ess = float(az.ess(values))
        # Five standard errors in six means: false-alarm rate 3e-6.
        assert abs(values.mean() - (0.0, 0.5)[index[1]]) < 5 / np.sqrt(ess)


@pytest.mark.slow
def test_a_simplex_needs_unconstrained_coordinates():
    def model():
        numpyro.sample("p", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))

    three = sp.analytic.GaussianMixture(jnp.ones((1, 3)) / 3, scales=0.2)
    two = sp.analytic.GaussianMixture(jnp.zeros((1, 2)), scales=0.8)
    constrained = sp.DiffusionMH(model, {"p": three}, local=None, **QUICK)
    with pytest.raises(ValueError, match="pass coordinates='unconstrained'"):
        MCMC(constrained, num_warmup=1, num_samples=1, progress_bar=False).run(jax.random.key(0))
    kernel = sp.DiffusionMH(model, {"p": two}, local=None, coordinates="unconstrained", **QUICK)
    mcmc = two_chains(kernel, 100, 2_000)
    p = np.asarray(mcmc.get_samples(group_by_chain=True)["p"], float)
    for index, count in enumerate((2.0, 3.0, 4.0)):
        mean, values = count / 9, p[..., index]
        sd = np.sqrt(mean * (1 - mean) / 10)
        assert abs(values.mean() - mean) < 4.5 * sd / np.sqrt(float(az.ess(values)))


@pytest.mark.slow
def test_standardised_networks_propose_in_the_models_units():
    network = sp.analytic.GaussianMixture(jnp.zeros((1, 2)), scales=1.1)
    location, scale = np.array([300.0, -2.0]), np.array([20.0, 0.05])

    def model():
        numpyro.sample("x", dist.Normal(jnp.asarray(location), jnp.asarray(scale)).to_event(1))

    kernel = sp.DiffusionMH(
        model, {"x": network}, local=None, standardise={"x": (location, scale)}, **QUICK
    )
    mcmc = two_chains(kernel, 100, 1_000)
    x = (np.asarray(mcmc.get_samples(group_by_chain=True)["x"], float) - location) / scale
    for values in np.moveaxis(x, -1, 0):
        # Five standard errors in two means and two second moments: false-alarm rate 2e-6.
        for moment, exact, sd in ((values, 0.0, 1.0), (values**2, 1.0, np.sqrt(2.0))):
            assert abs(moment.mean() - exact) < 5 * sd / np.sqrt(float(az.ess(moment)))


def test_masks_and_scales_mean_the_same_to_both_moves():
    """NumPyro scales the Jacobian with the site; both moves must follow it."""

    def model():
        with numpyro.handlers.scale(scale=0.2):
            numpyro.sample("x", dist.LogNormal(0.0, 0.3).expand([1]).to_event(1))

    network = sp.analytic.GaussianMixture(jnp.array([[1.2]]), scales=0.9)
    kernel = sp.DiffusionMH(model, {"x": network}, local=None, **QUICK)
    mcmc = two_chains(kernel, 200, 3_000)
    log_x = np.log(np.asarray(mcmc.get_samples(group_by_chain=True)["x"], float))[..., 0]
    # In log x the law is that of the site to the power 0.2, Jacobian included: N(0, 0.3^2 / 0.2).
    error = 0.3 / np.sqrt(0.2) / np.sqrt(float(az.ess(log_x)))
    assert abs(log_x.mean()) < 4.5 * error and error < 0.06


def test_a_network_without_numbers_somewhere_keeps_the_law():
    """It can neither come down from there nor leave from there."""

    def denoise(params, x, t, condition):
        gain = 0.4**2 / (0.4**2 + jnp.exp(-sp.noise.VPLinear().log_snr(t)))
        alpha = sp.noise.VPLinear()(t)[0]
        found = -1.0 + gain * (x / alpha + 1.0)
        return jnp.where((x / alpha > 1.0) & (t < 0.05), jnp.nan, found)

    network = sp.ScoreNetwork(
        denoise, (), noise=sp.noise.VPLinear(), prediction="x0", event_shape=(1,)
    )

    def model():
        numpyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    mcmc = two_chains(sp.DiffusionMH(model, {"x": network}, **QUICK), 300, 4_000)
    above = np.float64(np.asarray(mcmc.get_samples(group_by_chain=True)["x"])[..., 0] > 1.0)
    share = 0.158655
    error = np.sqrt(share * (1 - share) / float(az.ess(above)))
    assert abs(above.mean() - share) < 4.5 * error and error < 0.02
    assert 0 < np.mean(mcmc.get_extra_fields()["is_nan"]) < 1


def test_starts_may_be_given_as_integers():
    kernel = sp.DiffusionMH(dense_model, {"x": OF_X}, **QUICK)
    mcmc = MCMC(kernel, num_warmup=2, num_samples=2, progress_bar=False)
    mcmc.run(jax.random.key(0), Y, init_params={"x": np.array([1])})
    assert np.all(np.isfinite(mcmc.get_samples()["x"]))
