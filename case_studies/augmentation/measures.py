"""What a set of drawn digits is judged by: labels, balance of classes, diversity, distances."""

from typing import NamedTuple

import numpy as np
from sklearn.svm import SVC

from case_studies.augmentation.data import NUM_CLASSES, Labelled

# About the distance of a held-out digit to the nearest training image.
BANDWIDTH = 2.0


class Measures(NamedTuple):
    """Of images taken for one class.

    Attributes
    ----------
    right
        Share that the judge takes for the class.
    effective
        Effective number of different images.
    to_training
        Mean distance to the nearest image that the prior was trained on, whatever its class.
    from_held_out
        Mean distance of the class's held-out digits to the nearest of these images, or of those
        labelled so before.
    """

    right: float
    effective: float
    to_training: float
    from_held_out: float


def train_judge(labelled: Labelled) -> SVC:
    """Fit a support vector machine to labelled digits."""
    return SVC(C=10.0).fit(flat(labelled.images), labelled.labels)


def flat(images: np.ndarray) -> np.ndarray:
    """Return images as rows."""
    return np.asarray(images, np.float64).reshape(len(images), -1)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Euclidean distances of images, shape ``(n, m)``; a pixel's range is 2."""
    a, b = flat(first), flat(second)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0.0))


def nearest(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean distance of images to the nearest of others."""
    return float(distances(first, second).min(1).mean())


def effective_number(images: np.ndarray) -> float:
    """Return the Vendi score (arXiv:2210.02410): exp of the entropy of a kernel's eigenvalues.

    One for copies of one image, and the number of images if all are far from each other.
    """
    kernel = np.exp(-0.5 * (distances(images, images) / BANDWIDTH) ** 2)
    values = np.linalg.eigvalsh(kernel / len(images))
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def imbalance(labels: np.ndarray, log_weight: np.ndarray) -> float:
    """Return the total variation of weighted labels from equal shares."""
    weights = np.exp(log_weight - np.max(log_weight))
    share = np.bincount(labels, weights, NUM_CLASSES) / weights.sum()
    return float(0.5 * np.abs(share - 1 / NUM_CLASSES).sum())


def measure(
    label: int,
    added: np.ndarray,
    known: np.ndarray,
    judge: SVC,
    training: np.ndarray,
    held_out: Labelled,
) -> Measures:
    """Judge images that were added to those known of a class."""
    unseen = held_out.images[held_out.labels == label]
    return Measures(
        float(np.mean(judge.predict(flat(added)) == label)),
        effective_number(added),
        nearest(added, training),
        nearest(unseen, np.concatenate([known, added])),
    )
