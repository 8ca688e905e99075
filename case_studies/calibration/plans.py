"""Which kernel is run how: lengths of chains, and what is expected of it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import scoreppl as sp
from case_studies.calibration.kernels import (
    Draw,
    by_block,
    by_chain,
    by_particles,
    exact,
    nuts_on_zero,
    proposing,
)
from case_studies.calibration.problems import Problem

DEAR = "`AnnealedScoreMCMC`, hmc"


class Plan(NamedTuple):
    """One row of the certificate.

    Attributes
    ----------
    name
        In the table.
    draw
        From one data set to draws.
    batch
        Data sets at a time; 1 for kernels that make blocks of draws of their own.
    control
        ``"exact"``, ``"wrong"`` (the test must see it) or None for kernels to be judged.
    """

    name: str
    draw: Draw
    batch: int
    control: str | None = None


def on_mixture(problem: Problem) -> tuple[Plan, ...]:
    """Return all kernels of the library, with the controls; from `DEAR` on they take long."""
    model = problem.model

    def annealed(**options: object) -> Callable[[int], sp.AnnealedScoreMCMC]:
        return lambda size: sp.AnnealedScoreMCMC(model, block_size=size, **options)  # type: ignore[arg-type]

    def unweighted(**options: object) -> Callable[[], sp.GuidedDiffusion]:
        return lambda: sp.GuidedDiffusion(model, accept=None, block_size=19, **options)  # type: ignore[arg-type]

    published = {"guidance": sp.guidance.Tweedie(), "max_shift": np.inf}

    return (
        Plan("exact draws", exact(problem), 10, "exact"),
        Plan("the same, x narrowed by a quarter", exact(problem, 0.75), 10, "wrong"),
        Plan("log density zero, NUTS", by_chain(lambda: nuts_on_zero(problem), 200, 20), 200,
             "wrong"),
        Plan("DPS", by_chain(unweighted(**published), 38, 1), 1, "wrong"),
        Plan("`GuidedDiffusion(accept=None)`, unweighted", by_chain(unweighted(), 38, 1), 1),
        Plan("`ScoreMALA`", by_chain(lambda: sp.ScoreMALA(model), 400, 40), 200),
        Plan("`ScoreHMC`", by_chain(lambda: sp.ScoreHMC(model), 300, 10), 200),
        Plan("`ScoreNUTS`", by_chain(lambda: sp.ScoreNUTS(model), 300, 5), 200),
        Plan("`AnnealedScoreMCMC`, split, one sweep", by_block(annealed(inner="split")), 100),
        Plan("`GuidedDiffusion`",
             by_chain(lambda: sp.GuidedDiffusion(model, block_size=95), 95, 5), 1),
        Plan("`DiffusionMH`", by_chain(lambda: proposing(problem), 200, 5), 200),
        Plan("`AnnealedScoreMCMC`, hmc", by_block(annealed()), 100),
        Plan("`AnnealedScoreMCMC`, split, 12 sweeps",
             by_block(annealed(inner="split", steps_per_level=12)), 100),
        Plan("`ParticleGibbs`", by_chain(lambda: sp.ParticleGibbs(model), 25, 3), 200),
        Plan("`ScoreSMC`", by_particles(model, 500, 50), 1),
        Plan("`AnnealedScoreMCMC`, mala", by_block(annealed(inner="mala")), 100),
    )  # fmt: skip


def on_digits(problem: Problem) -> tuple[Plan, ...]:
    """Return the kernels that an image-sized network leaves affordable, and a control."""
    model = problem.model
    return (
        Plan("log density zero, NUTS", by_chain(lambda: nuts_on_zero(problem), 200, 5), 40,
             "wrong"),
        Plan("`ScoreMALA`", by_chain(lambda: sp.ScoreMALA(model), 400, 40), 40),
        Plan("`ScoreHMC`", by_chain(lambda: sp.ScoreHMC(model), 300, 10), 40),
        Plan("`ScoreNUTS`", by_chain(lambda: sp.ScoreNUTS(model, max_tree_depth=5), 200, 3), 40),
        annealed_by_default(problem),
        Plan("`GuidedDiffusion`",
             by_chain(lambda: sp.GuidedDiffusion(model, num_pilots=64), 64, 10), 1),
        Plan("`ScoreSMC`", by_particles(model, 256, 50), 1),
    )  # fmt: skip


def annealed_by_default(problem: Problem) -> Plan:
    """Return the library's default for images."""

    def make(size: int) -> sp.AnnealedScoreMCMC:
        return sp.AnnealedScoreMCMC(problem.model, block_size=size)

    return Plan("`AnnealedScoreMCMC`", by_block(make), 1)
