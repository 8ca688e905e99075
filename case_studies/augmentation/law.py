"""The law of weighted draws: one target by several proposals, and classes made equal."""

import time
import warnings
from typing import NamedTuple

import jax
import numpy as np

from case_studies.augmentation.data import NUM_CLASSES, imbalanced
from case_studies.augmentation.draws import Draws, guided_draws
from case_studies.augmentation.measures import flat, imbalance
from case_studies.augmentation.model import equitable_log_weight, undo_frequencies
from case_studies.augmentation.study import (
    GUIDANCE,
    Shared,
    class_log_weight,
    effective,
    expected_right,
)
from case_studies.augmentation.train import train
from scoreppl.estimators import expectation, psis, weighted_draws
from scoreppl.guidance import LineSearch, Minority

MIN_EFFECTIVE = 10.0
PROPOSALS = {
    "`MPGD(0.5)`": GUIDANCE,
    "`LineSearch()`": LineSearch(),
    "`Minority(0.3, guidance=MPGD(0.5))`": Minority(0.3, guidance=GUIDANCE),
}
LAW_HEAD = (
    "| proposal | draws of a class | label right, as they come | label right, weighted "
    "| by the classifier | root mean square z of log P(c) | effective draws | classes below 10 "
    "| largest Pareto k | evaluations | effective draws of 1,000 evaluations | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


class Found(NamedTuple):
    """Of one class: log weights and log probabilities, and which draws the judge takes for it."""

    log_weight: np.ndarray
    log_probability: np.ndarray
    right: np.ndarray


def by_proposal(
    key: jax.Array, shared: Shared, num_paths: int
) -> tuple[str, dict[str, dict[int, Draws]]]:
    """Draw every class by every guidance, weighed by all labels; return the table and the draws."""
    log_weight = class_log_weight(shared.all_labels, shared.pool.images)
    taken = shared.judge.predict(flat(shared.pool.images))
    plain = [Found(log_weight[:, c], log_weight[:, c], taken == c) for c in range(NUM_CLASSES)]
    name, cost = "plain draws, shared by all classes", shared.pool.evaluations
    lines = [LAW_HEAD, law_row(name, plain, plain, len(taken), cost, shared.pool_seconds)]
    drawn: dict[str, dict[int, Draws]] = {}
    for name, guidance in PROPOSALS.items():
        start = time.perf_counter()
        keys = jax.random.split(key, NUM_CLASSES)
        drawn[name] = {
            c: guided_draws(keys[c], shared.law, shared.all_labels, c, guidance, num_paths)
            for c in range(NUM_CLASSES)
        }
        seconds = time.perf_counter() - start
        found = [
            Found(
                draws.log_weight,
                class_log_weight(shared.all_labels, draws.images)[:, c],
                shared.judge.predict(flat(draws.images)) == c,
            )
            for c, draws in drawn[name].items()
        ]
        cost = sum(draws.evaluations for draws in drawn[name].values())
        lines.append(law_row(name, found, plain, num_paths, cost, seconds))
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n", drawn


def law_row(
    name: str,
    found: list[Found],
    plain: list[Found],
    num_draws: int,
    evaluations: int,
    seconds: float,
) -> str:
    """Return the line of one proposal; classes with few effective draws give no estimate."""
    sizes = np.array([effective(each.log_weight) for each in found])
    num_few = int(np.sum(sizes < MIN_EFFECTIVE))
    come = np.mean([each.right.mean() for each in found])
    believed = np.mean([expected_right(each.log_weight, each.log_probability) for each in found])
    label, agreement = "", ""
    if num_few == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the largest Pareto k is reported
            shares = [
                expectation(each.right, weighted_draws({"right": each.right}, each.log_weight))
                for each in found
            ]
        error = np.sqrt(np.sum([each.standard_error**2 for each in shares])) / NUM_CLASSES
        label = f"{np.mean([each.value for each in shares]):.3f} ± {error:.3f}"
    if found is not plain:
        scores = [
            log_mean_score(each.log_weight, other.log_weight)
            for each, other in zip(found, plain, strict=True)
        ]
        agreement = f"{np.sqrt(np.mean(np.square(scores))):.1f}"
    shape = max(psis(each.log_weight)[1] for each in found)
    per_cost = 1_000 * sizes.sum() / evaluations
    return (
        f"| {name} | {num_draws:,} | {come:.3f} | {label} | {believed:.3f} | {agreement} "
        f"| {sizes.mean():.0f} ({sizes.min():.0f} to {sizes.max():.0f}) | {num_few} | {shape:.2f} "
        f"| {evaluations:,} | {per_cost:.1f} | {seconds:.0f} |"
    )


def log_mean_score(first: np.ndarray, second: np.ndarray) -> float:
    """Return the difference of two log mean weights in its standard errors."""

    def of(log_weight: np.ndarray) -> tuple[float, float]:
        weights = np.exp(log_weight - log_weight.max())
        value = log_weight.max() + np.log(weights.mean())
        return value, weights.var(ddof=1) / weights.mean() ** 2 / len(weights)

    (value, variance), (other, other_variance) = of(first), of(second)
    return float((value - other) / np.sqrt(variance + other_variance))


def equitable(shared: Shared, num_seeds: int) -> str:
    """Return the table of the balance of classes before and after equitable weights."""
    images, taken = shared.pool.images, shared.judge.predict(flat(shared.pool.images))
    starts = {"the prior": np.zeros(len(images)), "the prior × low density": shared.pool_rarity}
    given: dict[str, list[np.ndarray]] = {"own labels": [], "own labels evened": []}
    for seed in range(num_seeds):
        few = imbalanced(shared.seen, seed)
        own = train(jax.random.key(seed), few.images, few.labels)
        even = undo_frequencies(own, few.labels)
        for name, params in zip(given, (own, even), strict=True):
            given[name].append(class_log_weight(params, images))
    given["all labels"] = [class_log_weight(shared.all_labels, images)]
    lines = [
        "| draws of | classes made equal by | distance from equal shares | effective share "
        "| largest weight over the mean |\n|---|---|---|---|---|"
    ]
    for start, base in starts.items():
        share = effective(base) / len(base)
        far, most = imbalance(taken, base), largest(base)
        lines.append(f"| {start} | nothing | {far:.3f} | {share:.2f} | {most:.1f} |")
        for name, each in given.items():
            found = [equitable_log_weight(log_probability, base) for log_probability in each]
            far = [imbalance(taken, log_weight) for log_weight in found]
            share = np.mean([effective(log_weight) for log_weight in found]) / len(base)
            most = max(largest(log_weight) for log_weight in found)
            lines.append(f"| {start} | {name} | {mean_error(far)} | {share:.2f} | {most:.1f} |")
    floor = floor_of_imbalance(len(images))
    lines.append(
        f"\n{len(images):,} draws; as many independent labels of equal shares are {floor:.3f} away."
    )
    return "\n".join(lines) + "\n"


def largest(log_weight: np.ndarray) -> float:
    """Return the largest weight over the mean weight."""
    return float(np.exp(log_weight.max() - np.logaddexp.reduce(log_weight)) * len(log_weight))


def floor_of_imbalance(num_draws: int) -> float:
    """Return the mean distance from equal shares of independent labels with equal shares."""
    rng = np.random.default_rng(0)
    shares = rng.multinomial(num_draws, np.full(NUM_CLASSES, 1 / NUM_CLASSES), 4_000) / num_draws
    return float(0.5 * np.abs(shares - 1 / NUM_CLASSES).sum(1).mean())


def mean_error(values: list[float], digits: int = 3) -> str:
    """Say a mean over seeds with its standard error, or the one value there is."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}"
