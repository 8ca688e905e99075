"""What `sp.ScoreSMC` weighs and resamples by: correctors and resampling schemes.

A corrector says how the drift of a composed score is traded against the weight that makes it
right; the formulas are in `scoreppl.samplers.correctors`.
"""

from scoreppl.samplers.control import (
    Control,
    Corrector,
    EnergyControl,
    FeynmanKac,
    Fields,
    LaplacianOnly,
    VarianceControl,
)
from scoreppl.samplers.smc import Moves, Resampling
from scoreppl.samplers.ssp import ssp

__all__ = [
    "Control",
    "Corrector",
    "EnergyControl",
    "FeynmanKac",
    "Fields",
    "LaplacianOnly",
    "Moves",
    "Resampling",
    "VarianceControl",
    "ssp",
]
