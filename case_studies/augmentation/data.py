"""Scikit-learn's 8 x 8 digits, split as the shipped prior's, and imbalanced training sets of them."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

NUM_CLASSES = 10
NUM_COMMON, NUM_RARE = 40, 2
# The split of training/digits8.py: the prior has seen the first images and not the others.
NUM_SEEN = 1500


class Labelled(NamedTuple):
    """Images with pixels in [-1, 1], shape ``(n, 8, 8)``, and their classes, shape ``(n,)``."""

    images: np.ndarray
    labels: np.ndarray

    def __add__(self, other: "Labelled") -> "Labelled":  # type: ignore[override]
        """Put two sets together."""
        return Labelled(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def take(self, chosen: np.ndarray) -> "Labelled":
        """Return the chosen images, by number or by mask."""
        return Labelled(self.images[chosen], self.labels[chosen])


def split() -> tuple[Labelled, Labelled]:
    """Return the digits that the prior was trained on and those held out from it."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = (found.images / 8.0 - 1.0).astype(np.float32)[order]
    every = Labelled(images, found.target[order])
    seen = np.arange(len(order)) < NUM_SEEN
    return every.take(seen), every.take(~seen)


def rare_classes(seed: int) -> np.ndarray:
    """Return the two rare classes of a seed: five seeds see all ten."""
    return (2 * seed + np.arange(2)) % NUM_CLASSES


def imbalanced(every: Labelled, seed: int) -> Labelled:
    """Draw a training set: 40 digits of each class, and 2 of the rare ones."""
    rng, chosen = np.random.default_rng(seed), []
    for label in range(NUM_CLASSES):
        size = NUM_RARE if label in rare_classes(seed) else NUM_COMMON
        chosen.append(rng.choice(np.flatnonzero(every.labels == label), size, replace=False))
    return every.take(np.concatenate(chosen))
