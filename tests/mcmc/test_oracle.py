"""Every kernel leaves two exact targets invariant, and every mutant is caught.

False alarms. Each check bounds max|z| over its test functions at a family-wise rate. The default
suite runs the 12 correct cases once at 0.1 %: at most 1.2 % for all of them. The slow suite runs
them on five seeds at 1 % and allows one alarm a case, which a correct kernel passes with
probability above 99.9 %: at most 1.2 % again. The seeds are fixed.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm

from scoreppl import mcmc
from tests import mutants
from tests.oracle import family_threshold, one_step_oracle, paired_z_scores
from tests.targets import (
    ExactTarget,
    gaussian_weight,
    logistic_weight,
    moments,
    moments_and_momentum,
)

Build = Callable[[ExactTarget], SamplingAlgorithm]
TARGETS = {"gaussian": cache(gaussian_weight), "logistic": cache(logistic_weight)}
SEEDS = range(5)


def hmc(target: ExactTarget, step_size: float, **options: Any) -> SamplingAlgorithm:
    return mcmc.hmc(
        target.score_fn,
        target.log_weight_fn,
        step_size=step_size,
        num_integration_steps=3,
        **{"inverse_mass_matrix": jnp.ones(size(target)), **options},
    )


def nuts(target: ExactTarget, step_size: float, **options: Any) -> SamplingAlgorithm:
    return mcmc.nuts(
        target.score_fn,
        target.log_weight_fn,
        step_size=step_size,
        inverse_mass_matrix=jnp.ones(size(target)),
        max_num_doublings=4,
        **options,
    )


def generalised_hmc(target: ExactTarget, step_size: float, **options: Any) -> SamplingAlgorithm:
    return mcmc.generalised_hmc(
        target.score_fn,
        target.log_weight_fn,
        step_size=step_size,
        inverse_mass_matrix=jnp.ones(size(target)),
        num_integration_steps=2,
        momentum_persistence=0.7,
        **options,
    )


def mala(target: ExactTarget, step_size: float, **options: Any) -> SamplingAlgorithm:
    return mcmc.mala(target.score_fn, target.log_weight_fn, step_size=step_size, **options)


def random_walk(target: ExactTarget, step_size: float, **options: Any) -> SamplingAlgorithm:
    return mcmc.random_walk(target.score_fn, target.log_weight_fn, step_size=step_size, **options)


def barker(target: ExactTarget, step_size: float, **options: Any) -> SamplingAlgorithm:
    return mcmc.barker(target.score_fn, target.log_weight_fn, step_size=step_size, **options)


def size(target: ExactTarget) -> int:
    return sum(leaf[0].size for leaf in jax.tree.leaves(target.draw(jax.random.key(0), 1)))


# Working step sizes: acceptance between 0.4 and 0.9.
STEP_SIZES = {
    "gaussian": {hmc: 0.55, nuts: 0.6, generalised_hmc: 0.55, mala: 0.25, random_walk: 0.8, barker: 0.9},
    "logistic": {hmc: 0.5, nuts: 0.5, generalised_hmc: 0.5, mala: 0.15, random_walk: 0.4, barker: 0.5},
}
KERNELS = [(name, kernel) for name, sizes in STEP_SIZES.items() for kernel in sizes]


def run(kernel: SamplingAlgorithm, target: ExactTarget, seeds: Any, num_draws: int, **options: Any):
    functions = moments_and_momentum if hasattr(state_of(kernel, target), "momentum") else moments
    check = one_step_oracle(kernel, functions, block_size=5_000, **options)
    for seed in seeds:
        key_draws, key_check = jax.random.split(jax.random.key(seed))
        yield check(key_check, target.draw(key_draws, num_draws))


def state_of(kernel: SamplingAlgorithm, target: ExactTarget) -> Any:
    key = jax.random.key(0)
    position = jax.tree.map(lambda leaf: leaf[0], target.draw(key, 1))
    return jax.eval_shape(kernel.init, position, key)
