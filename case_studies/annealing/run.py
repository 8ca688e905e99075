"""Tempering with learned scores: tables and figures.

::

    python -m case_studies.annealing [mixtures particles] [--data DIR] [--full] [--out DIR]

Writes ``mixtures.md``, ``particles.md`` and ``check.md`` with ``forty.png`` and ``energies.png``.
``--data`` names a folder with published draws of the particles, which are then compared with the
chains that are the truth here. ``--full`` runs more particles.
"""

from pathlib import Path

import jax
import numpy as np

from case_studies.annealing import figures, mixture_study, particle_study
from case_studies.annealing.methods import Outcome
from case_studies.annealing.mixtures import MIXTURES
from case_studies.annealing.particles import SYSTEMS
from case_studies.annealing.train import load


def mixtures(out: Path, num_particles: int, num_runs: int) -> None:
    """Take both mixtures to their powers."""
    rows, outcomes = [mixture_study.HEAD], {}
    for mixture in MIXTURES:
        kept: dict[str, Outcome] = {}
        rows += mixture_study.table(
            mixture, load(mixture.name), num_particles, num_runs, kept.__setitem__
        )
        outcomes[mixture.name] = kept
    rows += ["", f"{num_runs} runs of {num_particles:,} particles: mean ± standard deviation."]
    (out / "mixtures.md").write_text("\n".join(rows) + "\n")
    figures.forty(out / "forty.png", outcomes["forty"])


def particles(
    out: Path, num_particles: int, num_runs: int, num_draws: int, data: Path | None
) -> None:
    """Take both clusters to colder temperatures."""
    rows, checks, studies = [particle_study.HEAD], [particle_study.CHECK_HEAD], {}
    for index, system in enumerate(SYSTEMS):
        exact = particle_study.exact_draws(jax.random.key(index), system, 128, num_draws)
        published = None if data is None else np.load(data / particle_study.FILES[system.name])
        checks += particle_study.check(system, exact, published)
        found, studies[system.name] = particle_study.table(
            system, load(system.name), exact, num_particles, num_runs
        )
        rows += found
    rows += ["", f"{num_runs} runs of {num_particles:,} particles: mean ± standard deviation."]
    (out / "particles.md").write_text("\n".join(rows) + "\n")
    (out / "check.md").write_text("\n".join(checks) + "\n")
    figures.energies(out / "energies.png", studies)


def main(parts: list[str], out: Path, data: Path | None, is_full: bool) -> None:
    """Run the parts named, or all, and write tables and figures."""
    out.mkdir(parents=True, exist_ok=True)
    if not parts or "mixtures" in parts:
        mixtures(out, 10_000, 10)
    if not parts or "particles" in parts:
        size, runs = (5_000, 5) if is_full else (1_000, 4)
        particles(out, size, runs, 400 if is_full else 200, data)
