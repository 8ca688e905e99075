"""MPGD: the denoised event moved along the weight's gradient (He et al., arXiv:2311.16424)."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.guidance.view import Guided, View


@dataclass(frozen=True)
class MPGD:
    r"""Shift D(u) by a gradient step on log w, without back-propagation through the network.

    With g the gradient of log w at D(u) and c the mean squared error of the denoiser at the level,

    .. math::
        \text{shift} = \rho \, c \, g
        \quad \text{or} \quad
        \text{shift} = \rho \, \sqrt{c} \; g / \mathrm{rms}(g) \quad \text{(normalised)},

    so that rho = 1 is a Newton step where x_0 given u is isotropic and log w linear, and with
    normalisation a step of one standard deviation of x_0 given u, whatever the weight's units.
    One evaluation a step. Sharp weights need the normalised form or a small rho.

    Parameters
    ----------
    strength
        The factor rho.
    normalize
        Divide the gradient by its root mean square: the form of the published code, in which the
        step's length is a share of the noise.

    Raises
    ------
    ValueError
        If `strength` is negative or not a number.

    Notes
    -----
    The paper's projection by an autoencoder is a matter of the weight: put the autoencoder into
    it, or take a prior in its latent space, which needs none.
    """

    strength: float = 1.0
    normalize: bool = False

    needs_gradient = True

    def __post_init__(self) -> None:
        """Check the strength."""
        if not 0.0 <= self.strength < math.inf:
            raise ValueError(f"`strength={self.strength}` must be finite and not negative.")

    def __call__(self, u: Array, view: View) -> Guided:
        """Take the gradient step."""
        denoised = view.denoise(u)
        log_weight, gradient = jax.value_and_grad(view.log_weight)(denoised)
        shift = view.denoising_variance * gradient
        if self.normalize:
            size = jnp.sqrt(jnp.mean(gradient**2))
            shift = jnp.sqrt(view.denoising_variance) * gradient / jnp.where(size > 0, size, 1.0)
        return Guided(denoised, denoised + self.strength * shift, self.strength * log_weight)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1
