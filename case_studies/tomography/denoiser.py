r"""A score model of this package as a denoiser of deepinv: ``D(x, sigma)`` on images in [0, 1].

deepinv asks for E[x | x + sigma n] with images in [0, 1]. With pixels u = 2x - 1 the noise is
s = 2 sigma, the network's time is that of log-SNR -2 log s, and

.. math:: D(x, \sigma) = \{1 + E[u \mid u_t = \alpha_t (2x - 1)]\} / 2.

Both sides are given to and fro as arrays; the gradient is the network's own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array

import scoreppl as sp


class Denoiser(torch.nn.Module):
    """A score model of square images for deepinv, with a count of its evaluations.

    Parameters
    ----------
    prior
        Score model of pixels in [-1, 1]. Noise below that of its least time is taken for it.

    Attributes
    ----------
    evaluations
        Network evaluations of each image so far: 1 forwards, 2 backwards.
    """

    def __init__(self, prior: sp.ScoreNetwork) -> None:
        super().__init__()

        def denoise(prior: sp.ScoreNetwork, images: Array, sigma: Array) -> Array:
            t = prior.noise.time(-2 * jnp.log(2 * sigma))
            t = jnp.clip(t, prior.min_time, 1.0)
            alpha, _ = prior.noise(t)
            clean = jax.vmap(prior.denoise, (0, None))(alpha * (2 * images - 1), t)
            return (1 + clean) / 2

        self.evaluations = 0
        self._prior = prior
        self._denoise = jax.jit(denoise)
        self._linearise = jax.jit(
            lambda prior, images, sigma: jax.vjp(lambda x: denoise(prior, x, sigma), images)
        )
        self._pull_back = jax.jit(lambda vjp, gradient: vjp(gradient)[0])

    def forward(self, x: torch.Tensor, sigma: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Denoise a batch of shape ``(batch, 1, size, size)``.

        Raises
        ------
        ValueError
            If `sigma` is not one number.
        """
        levels = torch.as_tensor(sigma).detach().unique()
        if levels.numel() != 1:
            raise ValueError("`sigma` must be one number for the whole batch.")
        return _Call.apply(x, self, levels.item())


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, denoiser: Denoiser, sigma: float) -> torch.Tensor:
        images = jnp.asarray(x.detach().numpy()[:, 0])
        denoiser.evaluations += 1
        if ctx.needs_input_grad[0]:
            clean, ctx.vjp = denoiser._linearise(denoiser._prior, images, sigma)
            ctx.denoiser = denoiser
        else:
            clean = denoiser._denoise(denoiser._prior, images, sigma)
        return torch.tensor(np.asarray(clean))[:, None]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        ctx.denoiser.evaluations += 2
        found = ctx.denoiser._pull_back(ctx.vjp, jnp.asarray(gradients[0].numpy()[:, 0]))
        return torch.tensor(np.asarray(found))[:, None], None, None
