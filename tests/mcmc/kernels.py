"""All Markov kernels, for tests that hold for every one of them.

A new kernel gets a row in `KERNELS` and its step sizes in `tests/mcmc/test_oracle.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from blackjax.base import SamplingAlgorithm

from scoreppl import mcmc
from tests.oracle import QUICK

PyTree = Any
Build = Callable[..., SamplingAlgorithm]

quick_jit = partial(jax.jit, compiler_options=QUICK)


KERNELS: dict[str, Build] = {
    "hmc": partial(mcmc.hmc, num_integration_steps=3),
    "nuts": partial(mcmc.nuts, max_num_doublings=4),
    "generalised_hmc": partial(
        mcmc.generalised_hmc, num_integration_steps=2, momentum_persistence=0.7
    ),
    "mala": mcmc.mala,
    "random_walk": mcmc.random_walk,
    "barker": mcmc.barker,
}


def history(algorithm: SamplingAlgorithm, position: PyTree, num_steps: int) -> tuple[Any, Any]:
    """States and infos along one chain."""
    key_init, key_steps = jax.random.split(jax.random.key(0))

    def step(state: Any, key: jax.Array) -> tuple[Any, Any]:
        state, info = algorithm.step(key, state)
        return state, (state, info)

    start = algorithm.init(position, key_init)
    return jax.lax.scan(step, start, jax.random.split(key_steps, num_steps))[1]


def chain(algorithm: SamplingAlgorithm, position: PyTree, num_steps: int) -> tuple[Any, Any]:
    """`history`, compiled."""
    return quick_jit(lambda x: history(algorithm, x, num_steps))(position)
