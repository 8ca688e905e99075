"""Score models: a prior known by its score at every noise level, and networks made into one.

A score model knows nothing of any data; what is conditioned on stays outside, in the weight.
All functions here take one event; batches are made by `jax.vmap`.

Cost, in the unit used throughout the package: a score or a denoiser is 1 evaluation, and its
Jacobian-vector or vector-Jacobian product 2.
"""

from scoreppl.score.flow import flow_map
from scoreppl.score.local import LocalScore
from scoreppl.score.model import ScoreModel, reverse_diffusion
from scoreppl.score.network import ScoreNetwork
from scoreppl.score.prediction import PREDICTIONS, from_denoised, to_denoised, to_epsilon
from scoreppl.score.tweedie import tweedie_covariance, tweedie_covariance_product

__all__ = [
    "PREDICTIONS",
    "LocalScore",
    "ScoreModel",
    "ScoreNetwork",
    "flow_map",
    "from_denoised",
    "reverse_diffusion",
    "to_denoised",
    "to_epsilon",
    "tweedie_covariance",
    "tweedie_covariance_product",
]
