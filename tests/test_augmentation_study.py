"""The study of augmentation: its weights and measures against exact values, and a small run."""

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn")

from case_studies.augmentation import classifier
from case_studies.augmentation.data import NUM_CLASSES, imbalanced, rare_classes, split
from case_studies.augmentation.law import Found, law_row
from case_studies.augmentation.measures import (
    distances,
    effective_number,
    flat,
    imbalance,
    measure,
    train_judge,
)
from case_studies.augmentation.model import equitable_log_weight, undo_frequencies
from case_studies.augmentation.run import main
from case_studies.augmentation.sets import NUM_ADDED, blends, copies, filled_up, picked
from case_studies.augmentation.study import class_log_weight
from case_studies.augmentation.train import judge as accuracy

# Slow all of them, because scikit-learn is there when the slow tests are run.
pytestmark = pytest.mark.slow
SEEN, HELD_OUT = split()


def test_training_sets_are_imbalanced_and_filled_up():
    seeds = range(5)
    assert {label for seed in seeds for label in rare_classes(seed)} == set(range(NUM_CLASSES))
    few = imbalanced(SEEN, 3)
    counts = np.bincount(few.labels)
    assert np.all(counts[[6, 7]] == 2) and np.all(np.delete(counts, [6, 7]) == 40)
    full = filled_up(few, {6: SEEN.images[:38], 7: SEEN.images[:38]})
    assert np.all(np.bincount(full.labels) == 40)


def test_the_shipped_classifier_and_the_judge_know_digits_they_have_not_seen():
    """Of 297, 292 and 295 right when they were trained; fewer would be others."""
    assert accuracy(classifier.load(), HELD_OUT)["accuracy"] > 0.975
    judge = train_judge(SEEN)
    right = judge.predict(flat(HELD_OUT.images)) == HELD_OUT.labels
    assert right.mean() > 0.985
    of_three = HELD_OUT.take(HELD_OUT.labels == 3)
    found = measure(3, of_three.images, of_three.images[:0], judge, SEEN.images, HELD_OUT)
    assert found.right > 0.9 and found.from_held_out == pytest.approx(0, abs=1e-6)
    assert found.to_training == pytest.approx(2.1, abs=0.4)


def test_frequencies_of_labels_are_undone():
    params, labels = classifier.load(), np.repeat(np.arange(NUM_CLASSES), np.arange(1, 11))
    images = HELD_OUT.images[:20]
    expected = np.exp(class_log_weight(params, images)) / np.arange(1, 11)
    expected /= expected.sum(1, keepdims=True)
    found = np.exp(class_log_weight(undo_frequencies(params, labels), images))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_equitable_weights_make_classes_equal_and_keep_a_weight_as_factor():
    rng = np.random.default_rng(0)
    labels = rng.choice(NUM_CLASSES, 4_000, p=np.arange(1, 11) / 55)
    base = rng.normal(size=len(labels))
    certain = np.where(labels[:, None] == np.arange(NUM_CLASSES), 0.0, -np.inf)
    assert imbalance(labels, base) > 0.15
    found = equitable_log_weight(certain, base)
    assert imbalance(labels, found) < 1e-10
    within = labels == 4
    assert np.ptp((found - base)[within]) < 1e-9

    soft = np.log(rng.dirichlet(np.ones(NUM_CLASSES), 500))
    found, mean = equitable_log_weight(soft, np.zeros(500)), np.exp(soft).mean(0)
    # The probability of class c under the new weights, of p(c | x) / P(c) over the sum of them.
    share = np.exp(soft) / mean
    share *= (np.exp(found) / share.sum(1) / np.exp(found).sum())[:, None]
    np.testing.assert_allclose(share.sum(0), 1 / NUM_CLASSES, rtol=1e-6)


def test_the_effective_number_counts_different_images():
    one = SEEN.images[:1]
    far = 100.0 * np.eye(6, 64).reshape(6, 8, 8)
    assert effective_number(np.repeat(one, 6, 0)) == pytest.approx(1.0, abs=1e-6)
    assert effective_number(far) == pytest.approx(6.0, abs=1e-6)
    assert effective_number(np.repeat(far[:3], 2, 0)) == pytest.approx(3.0, abs=1e-6)
    assert distances(far[:1], far)[0] == pytest.approx([0, *[100 * np.sqrt(2)] * 5])


def test_copies_and_blends_stay_near_what_they_are_of():
    rng, two = np.random.default_rng(0), SEEN.images[:2]
    apart = distances(two, two)[0, 1]
    copied, blended = copies(rng, two), blends(rng, two)
    assert len(copied) == len(blended) == NUM_ADDED
    # 64 pixels of noise 0.1: a norm of 0.8, and never 1.2 (rate below 1e-9).
    assert 0.4 < distances(copied, two).min(1).max() < 1.2
    # On the segment between both: the two distances add up.
    np.testing.assert_allclose(distances(blended, two).sum(1), apart, rtol=1e-4)


def test_images_are_picked_by_weight():
    log_weight = np.where(np.arange(60) < 20, np.log(3.0), np.where(np.arange(60) < 40, 0, -np.inf))
    images = np.arange(60, dtype=np.float32)[:, None, None] * np.ones((1, 8, 8), np.float32)
    found = picked(jax.random.key(0), images, log_weight)[:, 0, 0]
    # Systematic resampling: three quarters of the first kind, to within one.
    assert abs(np.sum(found < 20) - 0.75 * NUM_ADDED) <= 1 and np.all(found < 40)


def test_a_row_of_the_law_refuses_few_effective_draws_and_sees_another_law():
    rng = np.random.default_rng(0)

    def found(mean: float, spread: float, size: int = 400) -> list[Found]:
        return [
            Found(
                rng.normal(mean, spread, size), np.full(size, np.log(0.6)), rng.random(size) < 0.8
            )
            for _ in range(NUM_CLASSES)
        ]

    plain = found(0.0, 0.5)
    cells = law_row("same", found(0.0, 0.5), plain, 400, 1_000, 1.0).split("|")
    # Ten z-scores: their root mean square is above 1.8 once in 2,000 times.
    assert float(cells[5]) == 0.6 and float(cells[6]) < 1.8 and int(cells[8]) == 0
    assert float(cells[4].split("±")[0]) == pytest.approx(0.8, abs=0.04)
    assert float(law_row("other", found(0.5, 0.5), plain, 400, 1_000, 1.0).split("|")[6]) > 5
    cells = law_row("few", found(0.0, 6.0), plain, 400, 1_000, 1.0).split("|")
    assert cells[4].strip() == "" and int(cells[8]) >= 5


@pytest.mark.slow
def test_a_small_run_writes_everything(tmp_path):
    main(tmp_path, num_seeds=1, pool_size=1_024, num_paths=128, num_own_paths=256)
    names = {"law.md", "equitable.md", "sets.md", "accuracy.md", "digits.png"}
    assert names == {file.name for file in tmp_path.iterdir()}
    tables = {name: (tmp_path / name).read_text() for name in names if name.endswith(".md")}
    assert not any("nan" in table for table in tables.values())
    assert tables["accuracy.md"].count("labels") == tables["sets.md"].count("labels") == 9
    rows = [line.split("|") for line in tables["law.md"].splitlines()[2:]]
    # Guided and plain draws have one law: ten z-scores, above 1.8 once in 2,000 times.
    assert float(rows[1][6]) < 1.8 and {len(row) for row in rows} == {14}
    shares = [cell.split("±") for cell in (rows[0][4], rows[1][4])]
    (plain, plain_error), (guided, guided_error) = (map(float, share) for share in shares)
    assert abs(plain - guided) < 4 * np.hypot(plain_error, guided_error)
    balance = [line.split("|") for line in tables["equitable.md"].splitlines()[2:] if "|" in line]
    away = [float(line[3].split("±")[0]) for line in balance]
    assert len(away) == 8 and away[3] < away[0] and away[7] < away[4]
