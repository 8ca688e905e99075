"""Draws of each posterior by the package's default kernel, warmed up once and compiled once."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer import MCMC

import scoreppl as sp
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
    mcmc = MCMC(
        kernel, num_warmup=num_draws, num_samples=num_draws, progress_bar=False,
        jit_model_args=True,
    )  # fmt: skip

    def draw(y: np.ndarray) -> Drawn:
        start = time.perf_counter()
        fields = ("num_score_evaluations",)
        mcmc.run(key, prior, jnp.asarray(transform), jnp.asarray(y), extra_fields=fields)
        # A resumed chain goes on with keys of its own.
        mcmc.post_warmup_state = mcmc.last_state
        found = mcmc.get_samples()
        images, noise_scale = np.asarray(ink(found["x"])), np.asarray(found["noise_scale"])
        seconds = time.perf_counter() - start
        evaluations = float(np.mean(mcmc.get_extra_fields()["num_score_evaluations"]))
        return Drawn(images, noise_scale, evaluations, seconds)

    draw(pilot)
    # Without the warm-up it is another program, which is compiled here.
    draw(pilot)
    return draw
