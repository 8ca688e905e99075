"""No guidance: the prior's own reverse process."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from scoreppl.guidance.view import Guided, View


@dataclass(frozen=True)
class Unguided:
    """Propose from the prior. One evaluation a step; any weight."""

    def __call__(self, u: Array, view: View) -> Guided:
        """Return the denoiser as it is."""
        denoised = view.denoise(u)
        return Guided(denoised, denoised, jnp.zeros((), denoised.dtype))

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1
