"""What a telescope sees: galaxies convolved with a point spread function, in several bands.

A point spread function is a sum of products of profiles along rows and columns, exactly one for a
Gaussian and a few for a measured one. Convolution and shift by part of a pixel are then two small
matrices, which cost less than a Fourier transform in two dimensions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

import scoreppl as sp
from case_studies.galaxies.network import to_flux
from scoreppl.noise import time_grid
from scoreppl.solvers import ancestral

# Of a simulated scene of one galaxy: a Gaussian, in pixels.
PSF_SD = 1.5
NUM_STEPS = 300
# The network's galaxies lie around this pixel of their box, in rows and columns.
CENTRE = 15.0
# Width of the weight in `size`: wide enough for most galaxies, narrow enough for noise far out.
WINDOW_SD = 5.0


class Psf(NamedTuple):
    """Point spread functions by band: sums over terms of products of profiles.

    Attributes
    ----------
    rows, columns
        Shape ``(bands, terms, width)``, of odd width and centred.
    """

    rows: Array
    columns: Array


def gaussian_psf(sds: Sequence[float], width: int = 25) -> Psf:
    """Return Gaussians of standard deviations `sds` in pixels, one a band, each with sum one."""
    pixels = jnp.arange(width) - width // 2
    profile = jnp.exp(-0.5 * (pixels / jnp.asarray(sds, float)[:, None]) ** 2)
    profile = (profile / profile.sum(-1, keepdims=True))[:, None]
    return Psf(profile, profile)


def measured_psf(images: np.ndarray, num_terms: int = 4) -> Psf:
    """Return measured images, shape ``(bands, width, width)``, by their first singular vectors."""
    left, values, right = np.linalg.svd(np.asarray(images, float))
    root = np.sqrt(values[:, :num_terms, None])
    rows = left[:, :, :num_terms].transpose(0, 2, 1) * root
    return Psf(
        jnp.asarray(rows, jnp.float32), jnp.asarray(right[:, :num_terms] * root, jnp.float32)
    )


def smear(profiles: Array, shift: ArrayLike, start: int, num_pixels: int, size: int) -> Array:
    """Return matrices that convolve along one axis of a box and put it into a scene.

    Parameters
    ----------
    profiles
        Shape ``(..., width)``.
    shift
        By how many pixels the box is moved; its whole part is better put into `start`.
    start
        Pixel of the scene where the box begins; it may lie outside.
    num_pixels, size
        Pixels of scene and box.

    Returns
    -------
    Array
        Shape ``(..., num_pixels, size)``.
    """
    width = profiles.shape[-1]
    # A Fourier shift wraps around: some empty pixels on both sides.
    margin = 4
    padded = jnp.pad(profiles, [(0, 0)] * (profiles.ndim - 1) + [(margin, margin)])
    length = width + 2 * margin
    phase = jnp.exp(-2j * jnp.pi * jnp.fft.rfftfreq(length) * jnp.asarray(shift))
    moved = jnp.fft.irfft(jnp.fft.rfft(padded) * phase, length)
    place = np.arange(num_pixels)[:, None] - np.arange(size) - start + length // 2
    is_inside = (place >= 0) & (place < length)
    return jnp.where(is_inside, moved[..., np.clip(place, 0, length - 1)], 0.0)


def see(x: Array, rows: Array, columns: Array) -> Array:
    """Return what each band shows of one image, shape ``(bands, height, width)``.

    Parameters
    ----------
    x
        The image, shape ``(size, size)``.
    rows, columns
        Of `smear`, shape ``(bands, terms, height or width, size)``.
    """
    return jnp.sum(rows @ x @ jnp.swapaxes(columns, -1, -2), 1)


def flux(x: ArrayLike) -> Array:
    """Return the sum over the box, shape ``(...)`` from ``(..., size, size)``."""
    return jnp.sum(jnp.asarray(x), (-1, -2))


def size(x: Array) -> Array:
    """Return the root of the second moment, in pixels along an axis, under a Gaussian window.

    The window stands at `CENTRE` whatever the galaxy, so that size is a plain ratio of sums.
    """
    pixels = jnp.arange(x.shape[-1]) - CENTRE
    square = pixels[:, None] ** 2 + pixels**2
    seen = x * jnp.exp(-0.5 * square / WINDOW_SD**2)
    moment = jnp.sum(seen * square, (-1, -2)) / jnp.sum(seen, (-1, -2))
    return jnp.sqrt(jnp.maximum(0.5 * moment, 0.0))


def psnr(x: Array, truth: Array) -> Array:
    """Return the peak signal-to-noise ratio in decibels, the truth's own peak being the peak."""
    error = jnp.mean((x - truth) ** 2, (-1, -2))
    return 10.0 * jnp.log10(jnp.max(truth, (-1, -2)) ** 2 / error)


def draw_galaxy(prior: sp.ScoreModel, key: Array) -> Array:
    """Draw one galaxy by ancestral steps down to the noise level at which inference ends too."""
    noise, level = prior.noise, prior.min_time
    times = time_grid(noise, NUM_STEPS, t_min=level)
    key_start, key_steps = jax.random.split(key)
    start = noise(times[0])[1] * jax.random.normal(key_start, prior.event_shape)
    u = ancestral(key_steps, start, times, prior.denoise, noise) / noise(level)[0]
    return jnp.asarray(to_flux()(u))


class Scene(NamedTuple):
    """Simulated galaxies and what is seen of them; the leading axis counts galaxies.

    Attributes
    ----------
    x
        The galaxies, shape ``(count, size, size)``.
    y
        Observations of one band, shape ``(count, 1, size, size)``.
    """

    x: Array
    y: Array


def single_matrices(size: int) -> tuple[Array, Array]:
    """Return rows and columns of `see` for one centred galaxy in a scene as large as its box."""
    psf = gaussian_psf([PSF_SD])
    return smear(psf.rows, 0.0, 0, size, size), smear(psf.columns, 0.0, 0, size, size)


def draw_galaxies(prior: sp.ScoreModel, key: Array, count: int, block: int = 20) -> Array:
    """Draw galaxies, shape ``(count, size, size)``, `block` at a time."""
    keys = jax.random.split(key, count)
    blocks = [keys[i : i + block] for i in range(0, count, block)]
    draw = jax.jit(jax.vmap(draw_galaxy, (None, 0)))
    return jnp.concatenate([draw(prior, part) for part in blocks])


def observe(x: Array, noise: float, key: Array) -> Scene:
    """Look at galaxies through the point spread function, with independent noise."""
    clean = jax.vmap(see, (0, None, None))(x, *single_matrices(x.shape[-1]))
    return Scene(x, clean + noise * jax.random.normal(key, clean.shape))
