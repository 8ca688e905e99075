"""Galaxies under the network of galaxygrad: alone, blended, and a real pair.

::

    python -m case_studies.galaxies [--data FILE] [--full] [--parts lead single blend real]

The first part needs no network. The others need ``pip install -e ".[galaxies]"``, and the real pair
``hsc_cosmos_35.npz`` besides. Each part writes its tables and figures as soon as it is done.
"""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import scoreppl as sp
from case_studies.galaxies import blend, coverage, cutout, figures, network, one_dimension
from case_studies.galaxies.methods import (
    ANNEALED,
    INDEPENDENT,
    LOCAL,
    PRACTISED,
    Drawn,
    Lengths,
    Problem,
    annealed,
    independent,
    local,
    practised,
)
from case_studies.galaxies.scenes import Scene, draw_galaxies, observe

PARTS = ("lead", "single", "blend", "real")
SAMPLERS = (*INDEPENDENT, *LOCAL, PRACTISED)
NUM_SHOWN = 16


class Sizes(NamedTuple):
    """How much to do.

    Attributes
    ----------
    lead_draws
        Of each chain in one dimension.
    noises
        Of the scenes with one galaxy; all samplers are compared at `compared_at`.
    galaxies
        For the default kernel, at each noise.
    compared
        Galaxies, the first ones, for every other sampler.
    lengths
        Of the chains.
    blends
        Scenes of two galaxies.
    """

    lead_draws: int = 10_000
    noises: tuple[float, ...] = (0.1, 0.03, 0.3)
    compared_at: float = 0.1
    galaxies: int = 12
    compared: int = 4
    lengths: Lengths = Lengths()
    blends: int = 6


USUAL = Sizes()
FULL = Sizes(galaxies=100, compared=16, blends=40)


def lead(out: Path, sizes: Sizes) -> None:
    """Write the table in one dimension."""
    write(out, "one_dimension", one_dimension.table(jax.random.key(0), sizes.lead_draws))


def single(
    out: Path, sizes: Sizes, prior: sp.ScoreModel, samplers: tuple[str, ...], seed: int
) -> None:
    """Compare the samplers on galaxies that stand alone; the table grows row by row.

    Lines of samplers that were not asked for stay as they are.
    """
    key, table = jax.random.key(seed), out / "single.md"
    rows = coverage.rows_of(table.read_text()) if table.exists() else {}
    for level, noise in enumerate(sizes.noises):
        key_x, key_noise, key_draws = jax.random.split(jax.random.fold_in(key, level), 3)
        x = draw_galaxies(prior, key_x, sizes.galaxies + 1)
        seen = observe(x, noise, key_noise)
        problem = Problem(prior, Scene(x[1:], seen.y[1:]), seen.y[0], noise)
        if level == 0:
            save(out, "prior", figures.draw_galaxies(np.asarray(x[:NUM_SHOWN])))
        starts = np.zeros(0)
        for name in names_at(noise, sizes):
            is_asked = name in samplers
            if not is_asked and not (name == ANNEALED and set(samplers) & {*LOCAL, PRACTISED}):
                continue
            count = sizes.galaxies if name == ANNEALED and is_asked else sizes.compared
            part = problem._replace(scene=Scene(*(v[:count] for v in problem.scene)))
            title = f"noise {noise:g}, {name}"
            found = draw(name, part, key_draws, title, starts, sizes.lengths)
            if name == ANNEALED:
                starts = found.x[: sizes.compared]
            if is_asked:
                truth = np.asarray(part.scene.x)
                rows[f"{noise:g}", name] = coverage.row(noise, name, found, truth)
                write(out, "single", "\n".join([coverage.HEAD, *rows.values(), "", note(sizes)]))
        lines = {name: line for (at, name), line in rows.items() if at == f"{noise:g}"}
        bins = {name: coverage.bins_of(line) for name, line in lines.items()}
        save(out, f"ranks_{noise:g}", figures.draw_ranks(bins, noise))


def names_at(noise: float, sizes: Sizes) -> list[str]:
    """Return the samplers of a noise level: all at one of them, ours and the practice at others."""
    if noise == sizes.compared_at:
        return [*INDEPENDENT, *LOCAL, PRACTISED]
    return [ANNEALED, PRACTISED]


def draw(
    name: str, problem: Problem, key: jax.Array, title: str, starts: np.ndarray,
    lengths: Lengths,
) -> Drawn:  # fmt: skip
    """Draw by the sampler of that name; chains start at draws of the default kernel."""
    if name == ANNEALED:
        make = partial(annealed, num_reverse_steps=lengths.num_reverse_steps)
        return independent(problem, key, title, make=make)
    if name in INDEPENDENT:
        return independent(problem, key, title, make=INDEPENDENT[name])
    if name in LOCAL:
        return local(problem, key, title, starts, make=LOCAL[name], lengths=lengths)
    return practised(problem, key, title, starts, lengths=lengths)


def note(sizes: Sizes) -> str:
    """Return what the shares of an exact sampler would be."""
    said = []
    for count in (sizes.galaxies, sizes.compared):
        ranges = [coverage.allowed(level, count) for level in coverage.LEVELS]
        (a, b), (c, d) = [(100 * low, 100 * high) for low, high in ranges]
        said.append(f"of {count} galaxies {a:.0f} to {b:.0f} and {c:.0f} to {d:.0f}")
    return (
        "Shares in per cent, from the truth's rank among 19 draws. An exact sampler's would lie "
        f"with probability 0.9 between these: {'; '.join(said)}."
    )


def blended(out: Path, sizes: Sizes, prior: sp.ScoreModel) -> None:
    """Write the table of the simulated blends."""
    key_truth, key_draws = jax.random.split(jax.random.key(2))
    truth = blend.simulate(prior, key_truth, sizes.blends + 1)
    pilot, truth = truth.y[0], blend.Truth(truth.place[1:], truth.flux[1:], truth.y[1:])
    draws = blend.sample(prior, key_draws, pilot, truth.y, "blends")
    write(out, "blend", blend.table(draws, truth))


def real(out: Path, data: Path, prior: sp.ScoreModel) -> None:
    """Write table and figure of the real pair."""
    seen = cutout.read(data)
    fitted = cutout.fit(prior, seen, jax.random.key(3), "real pair")
    write(out, "real", cutout.table(seen, fitted))
    save(out, "real", figures.draw_cutout(seen, fitted))


def write(out: Path, name: str, text: str) -> None:
    """Write a table and print it."""
    (out / f"{name}.md").write_text(text + "\n")
    print(f"\n{text}\n", flush=True)


def save(out: Path, name: str, figure: Figure) -> None:
    """Write a figure."""
    figure.savefig(out / f"{name}.png", dpi=120)


def main(
    out: Path, data: Path | None = None, parts: tuple[str, ...] = PARTS, sizes: Sizes = USUAL,
    samplers: tuple[str, ...] = SAMPLERS, seed: int = 1,
) -> None:  # fmt: skip
    """Sample galaxies alone, blended and real, and write tables and figures.

    `seed` is that of the galaxies that stand alone.
    """
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    if "lead" in parts:
        lead(out, sizes)
    if "single" in parts:
        single(out, sizes, network.load(), samplers, seed)
    if "blend" in parts:
        blended(out, sizes, network.load())
    if "real" in parts and data is not None:
        real(out, data, network.load())
    elif "real" in parts:
        print("The real pair is left out: give hsc_cosmos_35.npz with --data.", flush=True)
    print(f"{time.perf_counter() - start:.0f} seconds in all")
