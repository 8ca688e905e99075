"""Markov kernels whose acceptance takes the prior's log-ratio from a line integral of its score.

Each function returns a ``blackjax.SamplingAlgorithm``, which
``blackjax.util.run_inference_algorithm`` runs.
"""

from scoreppl.mcmc.chord import barker, random_walk
from scoreppl.mcmc.hmc import GeneralisedState, generalised_hmc, hmc, mala
from scoreppl.mcmc.nuts import nuts
from scoreppl.mcmc.trajectory import ScoreInfo, ScoreState

__all__ = [
    "GeneralisedState",
    "ScoreInfo",
    "ScoreState",
    "barker",
    "generalised_hmc",
    "hmc",
    "mala",
    "nuts",
    "random_walk",
]
