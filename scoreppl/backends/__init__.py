"""Networks of other frameworks as score models; each needs its own extra, none is imported here."""

from scoreppl.backends.fit import DenoisingErrors, denoising_errors
from scoreppl.backends.latent import Autoencoder, LatentDiffusion
from scoreppl.backends.plain import from_callable
from scoreppl.backends.pytorch import from_torch
from scoreppl.backends.sdxl import read_autoencoder, sdxl
from scoreppl.backends.unconditional import from_diffusers

__all__ = [
    "Autoencoder",
    "DenoisingErrors",
    "LatentDiffusion",
    "denoising_errors",
    "from_callable",
    "from_diffusers",
    "from_torch",
    "read_autoencoder",
    "sdxl",
]
