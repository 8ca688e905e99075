"""What the seeds share, and the ways to fill up a rare class, one row of the tables each."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn.svm import SVC

from case_studies.augmentation import classifier
from case_studies.augmentation.data import Labelled, imbalanced, rare_classes, split
from case_studies.augmentation.draws import Draws, Law, fit_law, guided_draws, plain_draws
from case_studies.augmentation.measures import Measures, measure, train_judge
from case_studies.augmentation.model import rarity, undo_frequencies
from case_studies.augmentation.sets import NUM_ADDED, blends, copies, filled_up, picked
from case_studies.augmentation.train import train
from scoreppl.estimators import psis
from scoreppl.guidance import MPGD

GUIDANCE = MPGD(0.5)
# Evaluations of `rarity`, an image.
RARITY_EVALUATIONS = 8
NOTHING, COPIES, REAL = "nothing", "copies with noise", "digits with their true labels"
IMAGES = "own labels evened, the prior's training images"


class Shared(NamedTuple):
    """What does not depend on the seed of a training set.

    Attributes
    ----------
    seen, held_out
        The prior's training images and the others, with labels.
    law, pool, pool_seconds
        The discretised prior, draws of it, and how long they took, compilation included.
    pool_rarity
        Log weight of low density of the draws.
    all_labels
        The classifier of all labels of the prior's training images.
    judge
        Another classifier, of the same labels.
    """

    seen: Labelled
    held_out: Labelled
    law: Law
    pool: Draws
    pool_seconds: float
    pool_rarity: np.ndarray
    all_labels: dict[str, Array]
    judge: SVC


class Filling(NamedTuple):
    """Images for one class and where they come from.

    `expected`, `ess` and `pareto_k` (NaN: no weights) are of the weighted draws that they were
    picked from, and `evaluations` those of the network for them; `expected` is the share of right
    labels by the classifier that weighs.
    """

    images: np.ndarray
    expected: float = np.nan
    ess: float = np.nan
    pareto_k: float = np.nan
    evaluations: int = 0


class Row(NamedTuple):
    """What one seed says of one way: measures and fillings of both rare classes, accuracies."""

    measures: list[Measures]
    fillings: list[Filling]
    accuracy: float
    rare_accuracy: float


def prepare(key: Array, pool_size: int) -> Shared:
    """Draw the pool and train the judge."""
    key_law, key_pool = jax.random.split(key)
    seen, held_out = split()
    law, all_labels = fit_law(key_law), classifier.load()
    start = time.perf_counter()
    pool = plain_draws(key_pool, law, all_labels, pool_size)
    seconds = time.perf_counter() - start
    rare = np.asarray(rarity(law.prior, jnp.asarray(pool.images)), np.float64)
    return Shared(seen, held_out, law, pool, seconds, rare, all_labels, train_judge(seen))


def class_log_weight(params: dict[str, Array], images: np.ndarray) -> np.ndarray:
    """Return a classifier's log probabilities in double precision, shape ``(n, classes)``."""
    found = classifier.log_probabilities(params, jnp.asarray(images))
    return np.asarray(found, np.float64)


def effective(log_weight: np.ndarray) -> float:
    """Return the effective number of weighted draws."""
    share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    return float(1 / np.sum(share**2))


def expected_right(log_weight: np.ndarray, log_probability: np.ndarray) -> float:
    """Return the weighted mean of the probabilities of a class."""
    share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    return float(share @ np.exp(log_probability))


def _weighted(
    key: Array, draws: Draws, log_probability: np.ndarray, log_factor: np.ndarray | float = 0.0
) -> Filling:
    """Pick images by the weight of the draws, times another factor of it."""
    log_weight = draws.log_weight + log_factor
    return Filling(
        picked(key, draws.images, log_weight), expected_right(log_weight, log_probability),
        effective(log_weight), psis(log_weight)[1], draws.evaluations,
    )  # fmt: skip


def fillings(
    key: Array,
    shared: Shared,
    few: Labelled,
    own: dict[str, Array],
    label: int,
    guided: Draws,
    num_paths: int,
) -> dict[str, Filling]:
    """Return images for a rare class, by every way.

    Parameters
    ----------
    key
        PRNG key.
    shared
        From `prepare`.
    few
        The imbalanced training set.
    own
        The classifier trained on it.
    label
        The class.
    guided
        Draws guided to the class by the classifier of all labels.
    num_paths
        Paths guided by the set's own labels.
    """
    keys = jax.random.split(key, 9)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(keys[0])))
    known = few.images[few.labels == label]
    even = undo_frequencies(own, few.labels)
    pool, rare = shared.pool, shared.pool_rarity

    def of_class(params: dict[str, Array], images: np.ndarray) -> np.ndarray:
        return class_log_weight(params, images)[:, label]

    log_own, log_even, log_all = (
        of_class(params, pool.images) for params in (own, even, shared.all_labels)
    )
    rated = pool._replace(evaluations=pool.evaluations + RARITY_EVALUATIONS * len(rare))
    paths = guided_draws(keys[1], shared.law, even, label, GUIDANCE, num_paths)
    log_paths = of_class(even, paths.images)
    images = Draws(shared.seen.images, np.zeros(len(shared.seen.images)), 0)
    log_images = of_class(even, images.images)
    log_guided = of_class(shared.all_labels, guided.images)
    others = np.flatnonzero(shared.seen.labels == label)
    return {
        COPIES: Filling(copies(rng, known)),
        "blends of the two digits": Filling(blends(rng, known)),
        "own labels, plain draws": _weighted(keys[2], pool, log_own, log_own),
        "own labels evened, plain draws": _weighted(keys[3], pool, log_even, log_even),
        "own labels evened, guided draws": _weighted(keys[4], paths, log_paths),
        "own labels evened, low density": _weighted(keys[5], rated, log_even, log_even + rare),
        IMAGES: _weighted(keys[6], images, log_images, log_images),
        "all labels, plain draws": _weighted(keys[7], pool, log_all, log_all),
        "all labels, guided draws": _weighted(keys[8], guided, log_guided),
        "all labels, low density": _weighted(keys[7], rated, log_all, log_all + rare),
        REAL: Filling(shared.seen.images[rng.choice(others, NUM_ADDED, replace=False)]),
    }


def run_seed(seed: int, shared: Shared, guided: dict[int, Draws], num_paths: int) -> dict[str, Row]:
    """Fill up the rare classes of one training set by every way, and train on each."""
    few, rare = imbalanced(shared.seen, seed), rare_classes(seed)
    key = jax.random.fold_in(jax.random.key(1), seed)
    own = train(key, jnp.asarray(few.images), jnp.asarray(few.labels))
    found: dict[str, dict[int, Filling]] = {NOTHING: {}}
    for label in rare:
        key_label = jax.random.fold_in(key, label)
        each = fillings(key_label, shared, few, own, label, guided[label], num_paths)
        for name, filling in each.items():
            found.setdefault(name, {})[int(label)] = filling
    rows = {}
    for name, by_class in found.items():
        images = {label: filling.images for label, filling in by_class.items()}
        every = filled_up(few, images)
        accuracy, rare_accuracy = downstream(key, every, shared.held_out, rare)
        judged = [
            measure(
                label, added, few.images[few.labels == label], shared.judge, shared.seen.images,
                shared.held_out,
            )
            for label, added in images.items()
        ]  # fmt: skip
        rows[name] = Row(judged, list(by_class.values()), accuracy, rare_accuracy)
    return rows


def downstream(
    key: Array, labelled: Labelled, held_out: Labelled, rare: np.ndarray
) -> tuple[float, float]:
    """Train on a set; return the held-out accuracy, and that on the two rare classes' digits."""
    params = train(key, jnp.asarray(labelled.images), jnp.asarray(labelled.labels))
    right = class_log_weight(params, held_out.images).argmax(1) == held_out.labels
    return float(right.mean()), float(right[np.isin(held_out.labels, rare)].mean())
