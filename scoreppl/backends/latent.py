"""Score models of latents with the autoencoder that turns them into images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise import Schedule, as_float, is_concrete, register_part
from scoreppl.score.network import count_parameters


@register_part
@dataclass(frozen=True, eq=False)
class Autoencoder:
    """An image autoencoder, as functions of its parameters.

    Attributes
    ----------
    decode_fn, encode_fn
        ``decode_fn(params, latents)`` from ``(batch, c, h, w)`` to images
        ``(batch, 3, f h, f w)`` in [-1, 1], and the way back (the mean, where the autoencoder
        is variational).
    params
        Parameters.
    scale, shift
        What latents of the network are divided by, and then shifted by, for the decoder.
    """

    decode_fn: Callable[[Any, Array], Array] = field(metadata={"static": True})
    encode_fn: Callable[[Any, Array], Array] = field(metadata={"static": True})
    params: Any
    scale: ArrayLike = 1.0
    shift: ArrayLike = 0.0

    def __repr__(self) -> str:
        """Say what it is, without its parameters."""
        return f"Autoencoder({count_parameters(self.params):,} parameters)"

    def decode(self, latent: Array) -> Array:
        """Return the image of one latent, ``(3, height, width)`` in [0, 1].

        What the decoder computes on the way is computed again for gradients and not kept: an image
        of 1024 x 1024 would take gigabytes.
        """
        decode = jax.checkpoint(self.decode_fn)
        image = decode(self.params, latent[None] / self.scale + self.shift)[0]
        return jnp.clip(0.5 * image.astype(latent.dtype) + 0.5, 0.0, 1.0)

    def encode(self, image: Array) -> Array:
        """Return the latent of one image."""
        latent = self.encode_fn(self.params, 2.0 * image[None] - 1.0)[0]
        return (latent.astype(image.dtype) - self.shift) * self.scale


@register_part
@dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A score model of latents that knows their images, for ``sp.ScorePrior``.

    Its score is that of `network`: with classifier-free guidance the law is that of the guided
    reverse diffusion, which is no power of densities; `sp.ScoreSMC` on `network` corrects for that.

    Attributes
    ----------
    network
        Score model of the latents, a composition where there is guidance.
    autoencoder
        From latents to images and back.
    """

    network: Any
    autoencoder: Autoencoder

    @property
    def noise(self) -> Schedule:
        """The noise schedule."""
        return self.network.noise

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one latent, (4, height / 8, width / 8) for Stable Diffusion XL."""
        return self.network.event_shape

    @property
    def min_time(self) -> ArrayLike:
        """The smallest time of the network."""
        return self.network.min_time

    @property
    def has_log_density(self) -> bool:
        """Whether there is a density: no."""
        return False

    def score(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the network's score."""
        return self.network.score(x, t)

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the network's denoised latent."""
        return self.network.denoise(x, t)

    def log_prob(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Raise, as there is no density.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError("A network of latents has a score and no density: use a line integral.")

    def sample(self, key: Array, sample_shape: tuple[int, ...] = (), **options: Any) -> Array:
        """Draw latents by reverse diffusion, with the options of `sp.ScoreNetwork.sample`."""
        return self.network.sample(key, sample_shape, **options)

    def decode(self, latent: ArrayLike) -> Array:
        """Return the image of one latent, ``(3, height, width)`` in [0, 1], differentiable.

        Raises
        ------
        ValueError
            If `latent` is not one latent.
        """
        latent = as_float(latent)
        if latent.shape != self.event_shape:
            raise ValueError(
                f"`latent` has shape {latent.shape}, and a latent has {self.event_shape}; use "
                "jax.vmap for a batch."
            )
        return self.autoencoder.decode(latent)

    def encode(self, image: ArrayLike) -> Array:
        """Return the latent of one image ``(3, height, width)`` in [0, 1].

        Raises
        ------
        ValueError
            If `image` has not the size that the latents stand for, or is not in [0, 1].
        """
        image = as_float(image)
        if image.ndim != 3 or len(image) != 3:
            raise ValueError(
                f"`image` has shape {image.shape}; it must be (3, height, width), one image."
            )
        if is_concrete(image) and not (jnp.min(image) > -0.01 and jnp.max(image) < 1.01):
            raise ValueError(
                f"`image` goes from {jnp.min(image):.3g} to {jnp.max(image):.3g}; it must be in "
                "[0, 1]."
            )
        latent = self.autoencoder.encode(image)
        if latent.shape != self.event_shape:
            raise ValueError(
                f"`image` has shape {image.shape} and a latent of shape {latent.shape}, where the "
                f"model has {self.event_shape}: give it the height and width of the model."
            )
        return latent
