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

    `ess`, `pareto_k` (NaN: no weights) are of the weighted draws that they were picked from, and
    `evaluations` those of the network for them.
    """

    images: np.ndarray
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


def _weighted(key: Array, images: np.ndarray, log_weight: np.ndarray, evaluations: int) -> Filling:
    return Filling(
        picked(key, images, log_weight), effective(log_weight), psis(log_weight)[1], evaluations
    )


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
    pool, rare, law = shared.pool, shared.pool_rarity, shared.law
    log_own, log_even, log_all = (
        class_log_weight(params, pool.images)[:, label] for params in (own, even, shared.all_labels)
    )
    cost, rare_cost = pool.evaluations, pool.evaluations + RARITY_EVALUATIONS * len(rare)
    paths = guided_draws(keys[1], law, even, label, GUIDANCE, num_paths)
    unlabelled = class_log_weight(even, shared.seen.images)[:, label]
    others = np.flatnonzero(shared.seen.labels == label)
    return {
        COPIES: Filling(copies(rng, known)),
        "blends of the two digits": Filling(blends(rng, known)),
        "own labels, plain draws": _weighted(keys[2], pool.images, log_own, cost),
        "own labels evened, plain draws": _weighted(keys[3], pool.images, log_even, cost),
        "own labels evened, guided draws": _weighted(
            keys[4], paths.images, paths.log_weight, paths.evaluations
        ),
        "own labels evened, low density": _weighted(
            keys[5], pool.images, log_even + rare, rare_cost
        ),
        "own labels evened, the prior's training images": _weighted(
            keys[6], shared.seen.images, unlabelled, 0
        ),
        "all labels, plain draws": _weighted(keys[7], pool.images, log_all, cost),
        "all labels, guided draws": _weighted(
            keys[8], guided.images, guided.log_weight, guided.evaluations
        ),
        "all labels, low density": _weighted(keys[7], pool.images, log_all + rare, rare_cost),
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
