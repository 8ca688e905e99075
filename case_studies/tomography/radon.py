r"""The Radon transform of a small image by parallel beams: projection, matrix, back-projection.

.. math:: (Rf)(\theta, s) = \int f(c + s \cos\theta - \tau \sin\theta,
                                   r + s \sin\theta + \tau \cos\theta) \, d\tau

Columns c and rows r are counted from the middle of the image, lengths in pixels. The image is
interpolated linearly between pixel centres and is zero outside; rays are sampled twice a pixel.
The transform is linear and 784 pixels are few, so that everything uses its matrix.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.ndimage import map_coordinates

SIZE = 28
NUM_ANGLES = 8
# The image's diagonal is 39.6 pixels, and a bin one pixel.
NUM_BINS = 40
_STEPS_PER_PIXEL = 2


def angles(num_angles: int = NUM_ANGLES) -> np.ndarray:
    """Return equally spaced angles in [0, pi), in radians."""
    return np.arange(num_angles) * np.pi / num_angles


def bins(num_bins: int = NUM_BINS) -> np.ndarray:
    """Return the bins' distances from the centre, in pixels."""
    return np.arange(num_bins) - (num_bins - 1) / 2


def project(image: Array, theta: Array, num_bins: int = NUM_BINS) -> Array:
    """Return the line integrals of a square image, shape ``(angles, bins)``; differentiable.

    Parameters
    ----------
    image
        Shape ``(size, size)``.
    theta
        Angles in radians, shape ``(angles,)``.
    num_bins
        Of the detector, each one pixel wide.
    """
    s = jnp.asarray(bins(num_bins))[:, None]
    tau = jnp.asarray(bins(_STEPS_PER_PIXEL * num_bins)) / _STEPS_PER_PIXEL
    middle = (image.shape[0] - 1) / 2

    def at(angle: Array) -> Array:
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        points = [middle + s * sin + tau * cos, middle + s * cos - tau * sin]
        return jnp.sum(map_coordinates(image, points, order=1), 1) / _STEPS_PER_PIXEL

    return jax.vmap(at)(jnp.asarray(theta))


def matrix(size: int = SIZE, num_angles: int = NUM_ANGLES, num_bins: int = NUM_BINS) -> np.ndarray:
    """Return the transform as a matrix, shape ``(angles * bins, size**2)``."""
    images = jnp.eye(size**2).reshape(-1, size, size)
    theta = jnp.asarray(angles(num_angles))
    columns = jax.jit(jax.vmap(lambda image: project(image, theta, num_bins)))(images)
    return np.asarray(columns).reshape(size**2, -1).T


def filtered_back_projection(transform: np.ndarray, sinogram: np.ndarray) -> np.ndarray:
    """Return the classical reconstruction, shape ``(size, size)``.

    The ramp filter in its band-limited form (Ramachandran and Lakshminarayanan, 1971), then the
    transposed transform.

    Parameters
    ----------
    transform
        Matrix of the transform.
    sinogram
        Line integrals, shape ``(angles, bins)``.
    """
    num_angles, num_bins = sinogram.shape
    lag = np.abs(np.arange(num_bins)[:, None] - np.arange(num_bins))
    odd = lag % 2 == 1
    ramp = np.where(odd, -1 / (np.pi * np.where(odd, lag, 1)) ** 2, 0.25 * (lag == 0))
    filtered = sinogram @ ramp
    size = round(np.sqrt(transform.shape[1]))
    return np.pi / num_angles * (transform.T @ filtered.ravel()).reshape(size, size)
