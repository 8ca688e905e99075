"""Digits with known truth: real ones and ones drawn from the network, and their sinograms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.quickstart.calibration import by_annealing
from case_studies.tomography.model import MEDIAN_NOISE, NOISE_SD, ink

# The first 48 of the shipped test digits can be judged by; the others are for pilot runs.
NUM_REAL = 48
WARMUP_DIGIT = 48
TUNING_DIGITS = (60, 61, 62, 63)


class Scene(NamedTuple):
    """Digits and what is seen of them.

    Attributes
    ----------
    images
        Ink, shape ``(digits, size, size)``, with pixel noise of `pixel_noise`.
    noise_scales
        Standard deviations of the line integrals' noise, in pixels of ink, shape ``(digits,)``.
    y
        Noisy line integrals, shape ``(digits, rays)``.
    """

    images: np.ndarray
    noise_scales: np.ndarray
    y: np.ndarray


def pixel_noise(prior: sp.ScoreNetwork) -> float:
    """Return the noise of the ink at which the network's knowledge ends.

    Draws end there. Truths do as well, so that ranks of pixels that are always empty mean
    something, and so do draws of methods that end without noise.
    """
    alpha, sigma = prior.noise(prior.min_time)
    return float(sigma / alpha) / 2


def look(images: Array, transform: np.ndarray, key: Array, scales: Array | None = None) -> Scene:
    """Return noisy line integrals, with noise scales from their prior unless they are given."""
    key_scale, key_noise = jax.random.split(key)
    if scales is None:
        normal = jax.random.normal(key_scale, (len(images),))
        scales = MEDIAN_NOISE * jnp.exp(NOISE_SD * normal)
    clean = images.reshape(len(images), -1) @ transform.T
    y = clean + scales[:, None] * jax.random.normal(key_noise, clean.shape)
    return Scene(np.asarray(images), np.asarray(scales), np.asarray(y))


def real_digits(prior: sp.ScoreNetwork, key: Array) -> Array:
    """Return all shipped test digits as ink, with the least noise that the network knows."""
    images = ink(sp.pretrained.test_digits().images)
    return images + pixel_noise(prior) * jax.random.normal(key, images.shape)


def drawn_digits(prior: sp.ScoreNetwork, key: Array, count: int) -> Array:
    """Draw digits as ink from the law that the denoisers of the noise levels keep invariant."""
    return ink(by_annealing(prior, key, count))
