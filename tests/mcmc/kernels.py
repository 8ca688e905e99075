"""All Markov kernels under one signature, for tests that hold for every one of them.

A new kernel gets a row in `KERNELS` and its step sizes in `tests/mcmc/test_oracle.py`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm

from scoreppl import mcmc

PyTree = Any
Build = Callable[..., SamplingAlgorithm]


def hmc(score_fn: Any, log_weight_fn: Any, dimension: int, **options: Any) -> SamplingAlgorithm:
    defaults = {"inverse_mass_matrix": jnp.ones(dimension), "num_integration_steps": 3}
    return mcmc.hmc(score_fn, log_weight_fn, **{**defaults, **options})


def nuts(score_fn: Any, log_weight_fn: Any, dimension: int, **options: Any) -> SamplingAlgorithm:
    defaults = {"inverse_mass_matrix": jnp.ones(dimension), "max_num_doublings": 4}
    return mcmc.nuts(score_fn, log_weight_fn, **{**defaults, **options})


def generalised_hmc(
    score_fn: Any, log_weight_fn: Any, dimension: int, **options: Any
) -> SamplingAlgorithm:
    defaults = {
        "inverse_mass_matrix": jnp.ones(dimension),
        "num_integration_steps": 2,
        "momentum_persistence": 0.7,
    }
    return mcmc.generalised_hmc(score_fn, log_weight_fn, **{**defaults, **options})


def mala(score_fn: Any, log_weight_fn: Any, dimension: int, **options: Any) -> SamplingAlgorithm:
    return mcmc.mala(score_fn, log_weight_fn, **options)


def random_walk(
    score_fn: Any, log_weight_fn: Any, dimension: int, **options: Any
) -> SamplingAlgorithm:
    return mcmc.random_walk(score_fn, log_weight_fn, **options)


def barker(score_fn: Any, log_weight_fn: Any, dimension: int, **options: Any) -> SamplingAlgorithm:
    return mcmc.barker(score_fn, log_weight_fn, **options)


KERNELS: dict[str, Build] = {
    "hmc": hmc,
    "nuts": nuts,
    "generalised_hmc": generalised_hmc,
    "mala": mala,
    "random_walk": random_walk,
    "barker": barker,
}
