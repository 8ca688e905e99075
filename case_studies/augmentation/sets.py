"""Ways to fill up a rare class: copies, and draws picked by weight."""

import jax
import numpy as np

import scoreppl as sp
from case_studies.augmentation.data import NUM_COMMON, NUM_RARE, Labelled

NUM_ADDED = NUM_COMMON - NUM_RARE
COPY_NOISE = 0.1


def copies(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Repeat images with a little noise: oversampling."""
    chosen = images[np.arange(NUM_ADDED) % len(images)]
    return chosen + COPY_NOISE * rng.standard_normal(chosen.shape).astype(np.float32)


def blends(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Interpolate between pairs of images, as SMOTE does between neighbours (arXiv:1106.1813)."""
    pairs = np.array([rng.choice(len(images), 2, replace=False) for _ in range(NUM_ADDED)])
    share = rng.random((NUM_ADDED, 1, 1)).astype(np.float32)
    return images[pairs[:, 0]] + share * (images[pairs[:, 1]] - images[pairs[:, 0]])


def picked(key: jax.Array, images: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Resample images by weight."""
    return np.asarray(sp.estimators.resample(key, images, log_weight, NUM_ADDED))


def filled_up(few: Labelled, added: dict[int, np.ndarray]) -> Labelled:
    """Add images to a training set, by the class that they are taken for."""
    for label, images in added.items():
        few = few + Labelled(images, np.full(len(images), label))
    return few
