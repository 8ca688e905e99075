"""The ways to another temperature that are compared, and what a run of each gives."""

import time
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

import scoreppl as sp
from scoreppl.score import ScoreModel


class Method(NamedTuple):
    """A way to the power of a score model.

    Attributes
    ----------
    label
        For tables.
    corrector
        One of `sp.correctors`, or None: the plain reverse diffusion with the score times beta.
    num_steps
        Noise levels.
    num_probes
        Of each Laplacian; None: exact.
    """

    label: str
    corrector: sp.correctors.Corrector | None
    num_steps: int
    num_probes: int | None = 1


class Outcome(NamedTuple):
    """Weighted particles of several runs.

    Attributes
    ----------
    x
        Shape (runs, particles, d).
    share
        Normalised weights, shape (runs, particles).
    log_evidence
        Shape (runs,); not a number without a corrector.
    num_ancestors
        Particles of the start with descendants, all runs together.
    evaluations
        Network evaluations of a run; a Jacobian-vector product counts as two.
    seconds
        Of a run, with its part of the compilation.
    """

    x: np.ndarray
    share: np.ndarray
    log_evidence: np.ndarray
    num_ancestors: int
    evaluations: int
    seconds: float


def anneal(
    key: Array, model: ScoreModel, beta: float, method: Method, num_particles: int, num_runs: int
) -> Outcome:
    """Take `num_runs` populations from noise to the model's power `beta`."""
    tempered, begin = sp.temper(model, beta), time.perf_counter()
    shape = (num_runs, num_particles)
    if method.corrector is None:
        steps = method.num_steps
        draw = jax.jit(lambda model, key: model.sample(key, (num_particles,), num_steps=steps))
        x = np.stack([draw(tempered, each) for each in jax.random.split(key, num_runs)])
        seconds = (time.perf_counter() - begin) / num_runs
        cost = num_particles * steps
        nothing = np.full(num_runs, np.nan)
        return Outcome(x, np.full(shape, 1 / num_particles), nothing, x[..., 0].size, cost, seconds)
    smc = sp.ScoreSMC(
        score_model=tempered, corrector=method.corrector, num_particles=num_particles,
        num_steps=method.num_steps, num_probes=method.num_probes, num_runs=num_runs,
    )  # fmt: skip
    smc.run(key)
    samples, log_weight = smc.get_weighted_samples()
    seconds = (time.perf_counter() - begin) / num_runs
    # A run's weights have its evidence for their mean.
    weights = np.asarray(log_weight, np.float64).reshape(shape)
    totals = np.logaddexp.reduce(weights, axis=1)
    return Outcome(
        np.asarray(samples["x"], np.float64).reshape(*shape, -1),
        np.exp(weights - totals[:, None]),
        totals - np.log(num_particles),
        smc.result.num_ancestors,
        smc.result.num_score_evaluations // num_runs,
        seconds,
    )


def effective(share: np.ndarray) -> np.ndarray:
    """Return the effective particles of each run by its last weights."""
    return 1.0 / np.sum(share**2, -1)


def cell(values: np.ndarray, digits: int) -> str:
    """Return mean ± standard deviation of one run."""
    if np.isnan(values).all():
        return ""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def counted(number: float) -> str:
    """Return a count in thousands or millions."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"
