"""Tempering with learned scores: tables and figures.

::

    python -m case_studies.annealing [forty thirty DW4 LJ13 LJ13_400_steps]
        [--data DIR] [--full] [--out DIR]

Writes ``<part>.md`` and a figure of each part but ``thirty``, and for the particles
``<part>_chains.md``, what the chains that are the truth here found. ``--data`` names a folder with
published draws of the particles, which these are then compared with.
"""

from pathlib import Path

import jax
import numpy as np

from case_studies.annealing import figures, mixture_study, particle_study
from case_studies.annealing.methods import Outcome
from case_studies.annealing.mixtures import MIXTURES, Mixture
from case_studies.annealing.particles import LJ13, SYSTEMS, System
from case_studies.annealing.train import load

MORE_STEPS = "LJ13_400_steps"


def _write(path: Path, rows: list[str], num_particles: int, num_runs: int) -> None:
    caption = f"{num_runs} runs of {num_particles:,} particles: mean ± standard deviation of a run."
    path.write_text("\n".join([*rows, "", caption]) + "\n")


def mixture_part(mixture: Mixture, out: Path, num_particles: int, num_runs: int) -> None:
    """Take a mixture to its power, with exact and with learned scores."""
    kept: dict[str, Outcome] = {}
    rows = mixture_study.table(
        mixture, load(mixture.name), num_particles, num_runs, kept.__setitem__
    )
    _write(out / f"{mixture.name}.md", [mixture_study.HEAD, *rows], num_particles, num_runs)
    if mixture.name == "forty":
        figures.forty(out / "forty.png", kept)


def particle_part(
    system: System,
    out: Path,
    num_particles: int,
    num_runs: int,
    num_draws: int,
    data: Path | None,
) -> None:
    """Take a cluster to colder temperatures."""
    exact = particle_study.exact_draws(jax.random.key(1), system, 128, num_draws)
    published = None if data is None else np.load(data / particle_study.FILES[system.name])
    checks = particle_study.check(system, exact, published)
    chains = out / f"{system.name}_chains.md"
    chains.write_text("\n".join([particle_study.CHECK_HEAD, *checks]) + "\n")
    network, compared = load(system.name), particle_study.methods()
    rows, kept = particle_study.table(system, network, exact, compared, num_particles, num_runs)
    _write(out / f"{system.name}.md", [particle_study.HEAD, *rows], num_particles, num_runs)
    figures.energies(out / f"{system.name}.png", system.name, kept)


def more_steps_part(out: Path, num_particles: int, num_runs: int) -> None:
    """Take LJ13 to colder temperatures in four times as many steps."""
    exact = particle_study.exact_draws(jax.random.key(1), LJ13, 128, 100)
    none, target_score, _, laplacian, _ = particle_study.methods(400)
    compared = (none, target_score, laplacian)
    rows, _ = particle_study.table(LJ13, load("LJ13"), exact, compared, num_particles, num_runs)
    _write(out / f"{MORE_STEPS}.md", [particle_study.HEAD, *rows], num_particles, num_runs)


def main(parts: list[str], out: Path, data: Path | None, is_full: bool) -> None:
    """Run the parts named, or all, and write tables and figures."""
    known = [*(part.name for part in (*MIXTURES, *SYSTEMS)), MORE_STEPS]
    if unknown := set(parts) - set(known):
        raise ValueError(f"`parts` has {sorted(unknown)}; name some of {known}, or none for all.")
    out.mkdir(parents=True, exist_ok=True)
    for mixture in MIXTURES:
        if not parts or mixture.name in parts:
            size = 10_000 if is_full or mixture.name == "forty" else 2_000
            mixture_part(mixture, out, size, 10 if is_full else 3)
    for system in SYSTEMS:
        if not parts or system.name in parts:
            size = (5_000, 5, 400) if is_full else (1_000, 3, 100)
            particle_part(system, out, *size, data)
    if not parts or MORE_STEPS in parts:
        more_steps_part(out, 1_000 if is_full else 500, 3)
