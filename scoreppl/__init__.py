"""Probabilistic programming with pretrained score networks as priors.

A site ``x ~ ScorePrior(network)`` has a score but no density; the rest of the NumPyro model is
its weight. Import as ``import scoreppl as sp``.
"""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from scoreppl import (
    analytic,
    compose,
    correctors,
    diagnostics,
    estimators,
    guidance,
    line_integral,
    mcmc,
    noise,
    plots,
    pretrained,
    solvers,
)
from scoreppl.compose import (
    classifier_free,
    geometric_average,
    mixture,
    negate,
    product,
    temper,
)
from scoreppl.inference_data import to_inference_data
from scoreppl.network_file import load_score_network, read_card, save_score_network
from scoreppl.ppl.annealed import AnnealedScoreMCMC
from scoreppl.ppl.deterministic import SiteMoments, deterministic_sites
from scoreppl.ppl.diffusion_mh import DiffusionMH
from scoreppl.ppl.guided import GuidedDiffusion
from scoreppl.ppl.local_kernels import ScoreHMC, ScoreMALA, ScoreNUTS
from scoreppl.ppl.particle_gibbs import ParticleGibbs
from scoreppl.ppl.potential import log_weight
from scoreppl.ppl.prior import ScorePrior
from scoreppl.ppl.smc import ScoreSMC
from scoreppl.score import LocalScore, ScoreModel, ScoreNetwork
from scoreppl.target import Target

__version__ = version("scoreppl")

__all__ = [
    "AnnealedScoreMCMC",
    "DiffusionMH",
    "GuidedDiffusion",
    "LocalScore",
    "ParticleGibbs",
    "ScoreHMC",
    "ScoreMALA",
    "ScoreModel",
    "ScoreNUTS",
    "ScoreNetwork",
    "ScorePrior",
    "ScoreSMC",
    "SiteMoments",
    "Target",
    "analytic",
    "classifier_free",
    "compose",
    "correctors",
    "deterministic_sites",
    "diagnostics",
    "estimators",
    "geometric_average",
    "guidance",
    "line_integral",
    "load_score_network",
    "log_weight",
    "mcmc",
    "mixture",
    "negate",
    "noise",
    "plots",
    "pretrained",
    "product",
    "read_card",
    "save_score_network",
    "solvers",
    "temper",
    "to_inference_data",
]


def __getattr__(name: str) -> ModuleType:
    """Import `scoreppl.backends` when it is first asked for: the core starts without it."""
    if name == "backends":
        return import_module("scoreppl.backends")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
