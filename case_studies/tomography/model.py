"""The model of a digit that is seen as a noisy sinogram, and what is asked of the digit."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

import scoreppl as sp

# Of the noise, in the unit of the line integrals: pixels of ink. Those of a digit reach about 15.
MEDIAN_NOISE = 0.5
NOISE_SD = 0.5
BLOCK = 7

Images = Array | np.ndarray


def ink(x: Images) -> Array:
    """Return the network's pixels, -1 to 1, as ink, 0 to 1."""
    return (jnp.asarray(x) + 1) / 2


def tomography_model(prior: sp.ScoreModel, transform: Array, y: Array | None = None) -> None:
    """State that `y`, shape ``(rays,)``, are line integrals of a digit in noise of unknown scale.

    Parameters
    ----------
    prior
        Score model of the digit.
    transform
        Matrix of the Radon transform, shape ``(rays, pixels)``.
    y
        Line integrals of the ink, in pixels.
    """
    x = jnp.asarray(numpyro.sample("x", sp.ScorePrior(prior)))
    law = dist.LogNormal(jnp.log(MEDIAN_NOISE), NOISE_SD)
    noise_scale = numpyro.sample("noise_scale", law)
    clean = transform @ ink(x).ravel()
    numpyro.sample("y", dist.Normal(clean, noise_scale).to_event(1), obs=y)


def total(image: Images) -> Array:
    """Sum the ink of images, shape ``(..., size, size)``."""
    return jnp.asarray(image).sum((-2, -1))


def blocks(image: Images) -> Array:
    """Sum the ink by blocks of 7 x 7 pixels, shape ``(..., 16)`` for 28 x 28 pixels."""
    size = image.shape[-1] // BLOCK
    split = image.shape[:-2] + (size, BLOCK, size, BLOCK)
    parts = jnp.asarray(image).reshape(split).sum((-3, -1))
    return parts.reshape(image.shape[:-2] + (size * size,))


def slant(image: Images) -> Array:
    """Return the covariance of rows and columns over the ink, in square pixels."""
    place = jnp.arange(image.shape[-1])
    weight = jnp.asarray(image) / total(image)[..., None, None]
    row = (weight.sum(-1) * place).sum(-1)
    column = (weight.sum(-2) * place).sum(-1)
    both = (weight * place[:, None] * place).sum((-2, -1))
    return both - row * column
