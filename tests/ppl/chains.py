"""A small model, all kernels at settings that compile fast, and runs of them.

A new kernel gets a row in `KERNELS`.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import MCMC

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VPLinear
from scoreppl.ppl.local_kernels import ScoreHMC, ScoreMALA, ScoreNUTS
from scoreppl.ppl.prior import ScorePrior
from scoreppl.score import ScoreNetwork


class Case(NamedTuple):
    """A kernel that is cheap to compile, and the fields it offers beside the default ones."""

    make: Callable[..., Any]
    extra_fields: tuple[str, ...]


LOCAL_FIELDS = (
    "log_ratio",
    "log_ratio_error",
    "num_steps",
    "num_score_evaluations",
    "mean_accept_prob",
    "adapt_state.step_size",
    "adapt_state.inverse_mass_matrix",
    "z.s",
)
KERNELS = {
    "ScoreMALA": Case(ScoreMALA, LOCAL_FIELDS),
    "ScoreHMC": Case(partial(ScoreHMC, num_steps=3), LOCAL_FIELDS),
    "ScoreNUTS": Case(partial(ScoreNUTS, max_tree_depth=3), LOCAL_FIELDS),
}
WARMUP, DRAWS, CHAINS = 25, 20, 4

PRIOR = GaussianMixture(
    jnp.array([[-1.5, 0.0], [1.5, 0.5]]), weights=jnp.array([0.3, 0.7]), scales=0.6
)
Y = np.array([0.6, 1.1, 0.3, 0.9])


def model(y=None):
    x = numpyro.sample("x", ScorePrior(PRIOR, num_steps=10))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.deterministic("total", x.sum())
    with numpyro.plate("n", 4):
        numpyro.sample("y", dist.Normal(x[0], s), obs=y)


def sampler(kernel, num_samples=DRAWS, *, num_warmup=WARMUP, num_chains=CHAINS, **options):
    settings = {"chain_method": "vectorized", "progress_bar": False, **options}
    return MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        **settings,
    )


def chain_keys():
    return random.split(random.key(0), CHAINS)


def draws_of(mcmc, group_by_chain=True):
    return jax.tree.map(np.asarray, mcmc.get_samples(group_by_chain=group_by_chain))


def assert_same_draws(found, expected, atol=0.0):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=atol, err_msg=name)


def linear_score(params, x, t, condition):
    """Score at every noise level of a normal law with the given mean and precision."""
    alpha, sigma = VPLinear()(t)
    return (alpha * params["mean"] - x) / (alpha**2 / params["precision"] + sigma**2)


def network_of(params):
    return ScoreNetwork(
        linear_score, params, noise=VPLinear(), prediction="score", event_shape=(2,)
    )


def network_model(params, y):
    x = numpyro.sample("x", ScorePrior(network_of(params)))
    numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)


@cache
def four_chains(name):
    """Four vectorized chains from four keys, with all fields. Shared: do not run it again."""
    case = KERNELS[name]
    mcmc = sampler(case.make(model))
    mcmc.run(chain_keys(), Y, extra_fields=case.extra_fields)
    return mcmc


def assert_same_chains(found, expected, num_draws=5):
    """Compare the first draws of chains that different compiled programs made from one key.

    Rounding differs between the programs (alone, vectorised, mapped over devices) and grows along
    a trajectory, to a few thousandths after the warm-up; a chain that took another key is away by
    order one. 5 draws of 3 numbers are all this close by chance less than once in 1e9.
    """
    first = [{k: v[:, :num_draws] for k, v in draws.items()} for draws in (found, expected)]
    assert_same_draws(*first, atol=0.05)
