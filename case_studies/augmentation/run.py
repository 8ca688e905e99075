"""Rare classes of a training set filled up by weighted draws of a digits prior.

::

    python -m case_studies.augmentation [--out DIR]

Writes tables of the sets' labels and diversity, of accuracies, of the law of the weighted draws
and of equitable sampling, and a figure of drawn digits; several minutes on two cores.
"""

import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from case_studies.augmentation.data import imbalanced, rare_classes
from case_studies.augmentation.law import by_proposal, equitable, mean_error
from case_studies.augmentation.measures import flat, measure
from case_studies.augmentation.study import COPIES, IMAGES, NOTHING, Row, Shared, prepare, run_seed

NUM_SEEDS, POOL_SIZE, NUM_PATHS, NUM_OWN_PATHS = 20, 4_096, 256, 512
SHOWN = 9
Rows = dict[str, list[Row]]


def set_table(rows: Rows, shared: Shared) -> str:
    """Return what the added digits are like, a line a way."""
    lines = [
        "| added to a rare class | label right | by the weights | effective number of 38 "
        "| distance to the prior's training images | distance of held-out digits to the set "
        "| effective draws | least | Pareto k above 0.7 | evaluations |\n" + "|---" * 10 + "|"
    ]
    for name, runs in rows.items():
        if name == NOTHING:
            continue
        means = [np.mean(run.measures, 0) for run in runs]
        each = [mean_error(list(column), 2) for column in zip(*means, strict=True)]
        filled = [filling for run in runs for filling in run.fillings]
        sizes = np.array([filling.ess for filling in filled])
        cost = f"{filled[0].evaluations:,}" if filled[0].evaluations else ""
        believed, weights = "", ["", "", ""]
        if np.all(np.isfinite(sizes)):
            believed = f"{np.mean([filling.expected for filling in filled]):.2f}"
            heavy = sum(filling.pareto_k > 0.7 for filling in filled)
            weights = [f"{sizes.mean():.0f}", f"{sizes.min():.0f}", f"{heavy} of {len(filled)}"]
        cells = [each[0], believed, *each[1:], *weights, cost]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("\n" + ceilings(shared))
    return "\n".join(lines) + "\n"


def ceilings(shared: Shared) -> str:
    """Say what the judge and the distances give for real held-out digits."""
    held_out = shared.held_out
    nobody = held_out.images[:0]
    found = [
        measure(
            label, held_out.images[held_out.labels == label], nobody, shared.judge,
            shared.seen.images, held_out,
        )
        for label in np.unique(held_out.labels)
    ]  # fmt: skip
    right, _, distance, _ = np.mean(found, 0)
    return (
        f"Held-out digits: the judge takes {right:.3f} of them for what they are, and the nearest "
        f"of the prior's training images is {distance:.2f} away. {len(shared.pool.images):,} plain "
        "draws, whose evaluations count once for all classes and seeds."
    )


def accuracy_table(rows: Rows) -> str:
    """Return accuracies of classifiers trained on the sets, and differences within seeds."""
    lines = [
        "| added to a rare class | accuracy | on the rare classes | less that of copies "
        "| less that of the prior's training images |\n|---|---|---|---|---|"
    ]
    for name, runs in rows.items():
        rare = np.array([run.rare_accuracy for run in runs])
        every = mean_error([run.accuracy for run in runs])
        cells = [every, mean_error(list(rare))]
        for other in (COPIES, IMAGES):
            less = rare - np.array([run.rare_accuracy for run in rows[other]])
            cells.append("" if name == other else mean_error(list(less)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"\n{len(rows[COPIES])} training sets: mean ± standard error.")
    return "\n".join(lines) + "\n"


def draw_digits(rows: Rows, shared: Shared, path: Path, seed: int = 0) -> None:
    """Draw what was added to the training set of one seed, framed where the judge disagrees."""
    few, rare = imbalanced(shared.seen, seed), rare_classes(seed)
    shown = {"the two digits": [few.images[few.labels == label] for label in rare]}
    shown |= {
        name: [filling.images for filling in runs[seed].fillings]
        for name, runs in rows.items()
        if name != NOTHING
    }
    figure, axes = plt.subplots(
        len(shown), 2 * SHOWN + 1, figsize=(0.42 * (2 * SHOWN + 8), 0.46 * len(shown))
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (name, by_class) in zip(axes, shown.items(), strict=True):
        line[0].text(-0.3, 0.5, name, ha="right", va="center", transform=line[0].transAxes)
        for half, (label, images) in enumerate(zip(rare, by_class, strict=True)):
            taken = shared.judge.predict(flat(images[:SHOWN]))
            for place, image in enumerate(images[:SHOWN]):
                axis = line[half * (SHOWN + 1) + place]
                axis.imshow(image, cmap="gray_r", vmin=-1, vmax=1)
                axis.set_axis_on()
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_color("black" if taken[place] == label else "red")
                axis.spines[:].set_linewidth(0.6 if taken[place] == label else 2.5)
    figure.subplots_adjust(left=0.34, right=0.995, top=0.99, bottom=0.01, wspace=0.1, hspace=0.12)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(
    out: Path,
    num_seeds: int = NUM_SEEDS,
    pool_size: int = POOL_SIZE,
    num_paths: int = NUM_PATHS,
    num_own_paths: int = NUM_OWN_PATHS,
) -> None:
    """Run everything and write it; several minutes on two cores."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    shared = prepare(jax.random.key(0), pool_size)
    table, drawn = by_proposal(jax.random.key(2), shared, num_paths)
    (out / "law.md").write_text(table)
    balance = equitable(shared, num_seeds)
    (out / "equitable.md").write_text(balance)
    print(table + balance, flush=True)
    rows: Rows = {}
    guided = next(iter(drawn.values()))
    for seed in range(num_seeds):
        for name, row in run_seed(seed, shared, guided, num_own_paths).items():
            rows.setdefault(name, []).append(row)
        print(f"seed {seed} after {time.perf_counter() - start:.0f} seconds", flush=True)
    for name, content in {
        "sets": set_table(rows, shared),
        "accuracy": accuracy_table(rows),
    }.items():
        (out / f"{name}.md").write_text(content)
        print(content, flush=True)
    draw_digits(rows, shared, out / "digits.png")
    print(f"wrote {out} after {(time.perf_counter() - start) / 60:.1f} minutes")
