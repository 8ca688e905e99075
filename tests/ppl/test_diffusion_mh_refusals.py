"""What DiffusionMH refuses, and how it says so."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.gibbs import Gibbs

import scoreppl as sp
from tests.ppl import two_modes
from tests.ppl.test_diffusion_mh import OF_BOTH, OF_X, QUICK
from tests.ppl.two_modes import Y, dense_model

BAD = {
    "networks": ({}, "must be a dictionary"),
    "a dictionary": ({"x": np.ones(3)}, "lacks noise"),
    "a number": ({1: OF_X}, "has the key 1; it must be the name"),
    "no site": ({(): OF_X}, "has the key \\(\\); it must be the name"),
    "unknown": ({"q": OF_X}, "names 'q', which is not a latent site"),
    "twice": ({"x": OF_X, ("x", "s"): OF_BOTH}, "names site 'x' twice"),
    "shape": ({"x": OF_BOTH}, "events of shape \\(2,\\), but the values have shape \\(1,\\)"),
    "joint shape": ({("x", "s"): OF_X}, "events of shape \\(1,\\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_networks_that_do_not_fit_are_refused(name):
    networks, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        MCMC(
            sp.DiffusionMH(dense_model, networks, **QUICK), num_warmup=1, num_samples=1,
            progress_bar=False,
        ).run(jax.random.key(0), Y)  # fmt: skip


@pytest.mark.parametrize(
    "options, message",
    [
        ({"local": "hmc"}, "`local='hmc'` is not known"),
        ({"local": NUTS(two_modes.model)}, "another model"),
        ({"coordinates": "real"}, "`coordinates='real'` is not known"),
        ({"covariance": "diagonal"}, "`covariance='diagonal'` is not known"),
        ({"num_levels": 1}, "`num_levels=1` must be at least 2"),
        ({"num_levels": 2.5}, "`num_levels=2.5` must be an integer"),
        ({"num_levels": "8"}, "`num_levels='8'` must be an integer"),
        ({"num_proposals": 0}, "`num_proposals=0` must be at least 1"),
        ({"num_pilots": 1}, "`num_pilots=1` must be at least 2"),
        ({"coordinates": np.ones(2)}, "is not known; use one of 'constrained'"),
        ({"standardise": [(0, 1)]}, "of type list must be a dictionary"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sp.DiffusionMH(dense_model, {"x": OF_X}, **options)


def refused(kernel, message, *args):
    with pytest.raises(ValueError, match=message):
        MCMC(kernel, num_warmup=1, num_samples=1, progress_bar=False).run(jax.random.key(0), *args)


def test_score_priors_and_latents_that_nothing_moves_are_refused():
    score = sp.DiffusionMH(two_modes.model, {"x": OF_X}, **QUICK)
    refused(score, "are ScorePriors, which have no density", Y)
    alone = sp.DiffusionMH(dense_model, {"x": OF_X}, local=None, **QUICK)
    refused(alone, r"Nothing moves the latent\(s\) \['s'\]", Y)


@pytest.mark.parametrize(
    "standardise, message",
    [
        ({"q": (0.0, 1.0)}, "has the key 'q'"),
        ({"x": (0.0, 0.0)}, "positive scale"),
        ({"x": (0.0, np.inf)}, "finite positive scale"),
        ({"x": (np.nan, 1.0)}, "finite location"),
        ({"x": (np.zeros(3), 1.0)}, "fit events of shape"),
        ({"x": 2.0}, "must be a pair"),
    ],
)
def test_standardisation_that_does_not_fit_is_refused(standardise, message):
    with pytest.raises(ValueError, match=message):
        sp.DiffusionMH(dense_model, {"x": OF_X}, standardise=standardise)


def test_a_network_without_any_numbers_is_refused():
    network = sp.ScoreNetwork(
        lambda params, x, t, condition: x * jnp.nan, (), noise=sp.noise.VPLinear(),
        prediction="x0", event_shape=(1,),
    )  # fmt: skip
    refused(sp.DiffusionMH(dense_model, {"x": network}, **QUICK), "are not finite numbers", Y)


def test_models_that_are_not_one_law_are_refused():
    def own_key():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        numpyro.factor("noise", x[0] * jax.random.normal(numpyro.prng_key()))

    def own_parameter():
        a = numpyro.param("a", lambda key: jax.random.normal(key))
        numpyro.sample("x", dist.Normal(a, 1.0).expand([1]).to_event(1))

    for model in (own_key, own_parameter):
        refused(sp.DiffusionMH(model, {"x": OF_X}, **QUICK), "draws random numbers of its own")


def test_supports_across_gibbs_blocks_are_refused():
    def model():
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.sample("x", dist.Uniform(s, s + 1.0).expand([1]).to_event(1))

    for names, network in (
        ("x", OF_X),
        ("s", sp.analytic.GaussianMixture(jnp.ones(1), scales=1.0)),
    ):
        other = "s" if names == "x" else "x"
        kernel = Gibbs(
            [
                (sp.DiffusionMH(model, {names: network}, local=None, **QUICK), [names]),
                (NUTS(model), [other]),
            ]
        )
        refused(kernel, "The support of site 'x' depends on a site of another block")
