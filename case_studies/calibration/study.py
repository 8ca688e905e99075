"""Draw every posterior by one kernel, compiled once, and rank the truths."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from tqdm import tqdm

import scoreppl as sp
from case_studies.calibration.kernels import NUM_DRAWS
from case_studies.calibration.plans import Plan
from case_studies.calibration.problems import Problem, Sets
from case_studies.calibration.ranks import correlation, ranks

NUM_PARTS = 2


class Ranked(NamedTuple):
    """What one kernel gave on all data sets.

    Attributes
    ----------
    rank
        Of the truths among `NUM_DRAWS` draws, shape ``(sets, summaries)``.
    correlation
        Largest correlation, over the summaries, of a kept draw with the next.
    evaluations, seconds
        A posterior's, warm-up included; the seconds without compilation.
    """

    rank: np.ndarray
    correlation: float
    evaluations: float
    seconds: float


def rank_truths(plan: Plan, problem: Problem, sets: Sets, key: Array, title: str) -> Ranked:
    """Run the kernel on every data set.

    Parameters
    ----------
    plan
        Kernel and lengths.
    problem
        Model and summaries.
    sets
        The data sets with their truths.
    key
        PRNG key.
    title
        Of the progress bar.
    """

    @jax.jit
    def run(prior: sp.ScoreModel, keys: Array, sets: Sets) -> tuple[Array, Array]:
        def one(inputs: tuple[Array, Sets]) -> tuple[Array, Array]:
            key, of = inputs
            drawn = plan.draw(prior, key, of.y, NUM_DRAWS)
            summarise = partial(problem.summarise, of=of)
            found = jax.vmap(summarise)(drawn.values["x"], drawn.values["scale"])
            return found, drawn.evaluations

        batch = plan.batch if plan.batch > 1 else None
        return jax.lax.map(one, (keys, sets), batch_size=batch)

    count = len(sets.y)
    keys = jax.random.split(key, count)
    size = -(-count // NUM_PARTS)
    parts = [slice(i, i + size) for i in range(0, count, size)]
    compiled: dict[int, Callable] = {}
    draws, costs, seconds = [], [], 0.0
    with tqdm(total=count, desc=title, unit="posterior") as bar:
        for part in parts:
            of = jax.tree.map(lambda v, part=part: v[part], sets)
            arguments = (problem.prior, keys[part], of)
            length = len(of.y)
            if length not in compiled:
                compiled[length] = run.lower(*arguments).compile()
            start = time.perf_counter()
            found, cost = map(np.asarray, compiled[length](*arguments))
            seconds += time.perf_counter() - start
            draws.append(found)
            costs.append(cost)
            bar.update(length)
    values = np.concatenate(draws).astype(np.float64)
    truth = np.asarray(jax.vmap(problem.summarise)(sets.x, sets.scale, sets), np.float64)
    return Ranked(
        ranks(values, truth),
        float(correlation(values).max()),
        float(np.concatenate(costs).mean()),
        seconds / count,
    )


def store(file: Path, ranked: dict[str, Ranked]) -> None:
    """Keep what was found, by the kernels' names."""
    ranks = {name: found.rank.astype(np.uint8) for name, found in ranked.items()}
    rest = np.array([found[1:] for found in ranked.values()])
    np.savez_compressed(file, _names=np.array(list(ranked)), _rest=rest, **ranks)  # type: ignore[arg-type]


def stored(file: Path) -> dict[str, Ranked]:
    """Return what was kept; nothing where there is no such file."""
    if not file.exists():
        return {}
    with np.load(file, allow_pickle=False) as found:
        return {
            str(name): Ranked(found[str(name)].astype(int), *map(float, rest))
            for name, rest in zip(found["_names"], found["_rest"], strict=True)
        }
