"""Draws of each posterior by the package's default kernel, warmed up once and compiled once."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.galaxies.draws import collector
from case_studies.tomography.metrics import NUM_DRAWS
from case_studies.tomography.model import ink, tomography_model


class Drawn(NamedTuple):
    """Draws of one posterior.

    Attributes
    ----------
    images
        Ink, shape ``(draws, size, size)``.
    noise_scale
        Shape ``(draws,)``, or None where it is given.
    evaluations
        Of the network, a draw.
    seconds
        Of wall time, for all draws.
    """

    images: np.ndarray
    noise_scale: np.ndarray | None
    evaluations: float
    seconds: float


def warmed_up(
    prior: sp.ScoreNetwork, transform: np.ndarray, pilot: np.ndarray, key: Array,
    num_draws: int = NUM_DRAWS, num_levels: int = 128,
) -> Callable[[np.ndarray], Drawn]:  # fmt: skip
    """Return a function that draws from the posterior given line integrals, shape ``(rays,)``.

    Parameters
    ----------
    prior
        Score model of the digit.
    transform
        Matrix of the Radon transform.
    pilot
        The line integrals that the warm-up sees; step sizes are then kept.
    key
        PRNG key.
    num_draws
        Of each posterior.
    num_levels
        As in `scoreppl.AnnealedScoreMCMC`, whose default it is.
    """
    # Blocks as long as a run: a resumed chain then begins with a block of its own.
    kernel = sp.AnnealedScoreMCMC(tomography_model, num_levels=num_levels, block_size=num_draws)
    collect = collector(kernel, num_draws, ("x", "noise_scale"), "num_score_evaluations")
    matrix = jnp.asarray(transform)
    state = kernel.init(key, num_draws, None, (prior, matrix, jnp.asarray(pilot)), {})

    def draw(y: np.ndarray) -> Drawn:
        # A chain goes on with keys of its own.
        nonlocal state
        start = time.perf_counter()
        state, (found, cost) = collect(state, (prior, matrix, jnp.asarray(y)))
        images, noise_scale = np.asarray(ink(found["x"])), np.asarray(found["noise_scale"])
        seconds = time.perf_counter() - start
        return Drawn(images, noise_scale, float(np.mean(cost)), seconds)

    draw(pilot)
    return draw
