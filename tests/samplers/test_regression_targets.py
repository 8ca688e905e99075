"""Accuracy per step of guided diffusion on problems with known answers, held to its targets.

A row: mean and spread of the log evidence's error over runs of 1,000 paths, the total variation of
the mode masses, and the whitened error of the covariance, |W (C - C*) W^T|_F / sqrt(d) with
W C* W^T = I. 1,000 exact draws have 0.014 and 0.10 on lg8, 0.012 and 0.16 on pois8, 0.011 and 0.07
on heart2, 0.013 and 0.18 on lg30. The covariance's error is a median over runs: in one of about a
hundred a single path far out has a tenth of the weight, and its error is 20 times that of the rest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl.guidance import FullCovariance, Guidance, LimitState, LineSearch, RandomNumbers
from scoreppl.samplers.guided import guide
from scoreppl.samplers.reference import angle_ladder
from scoreppl.samplers.smc import Resampling, effective_sample_size
from scoreppl.target import Target
from tests import problems, rare_problems
from tests.given_ladder import reference_at

pytestmark = pytest.mark.slow

NUM_PATHS, NUM_PILOTS = 1_000, 500
LATE = Resampling()
# The default of GuidedDiffusion.
MAX_SHIFT = 0.2
# Uniform in log-SNR from alpha^2 = 0.001 to 0.99.
UNIFORM = jnp.linspace(jnp.log(1e-3 / (1 - 1e-3)), jnp.log(0.99 / 0.01), 25)


class Row(NamedTuple):
    """What a run found: numbers by run."""

    evidence_error: np.ndarray
    mode_distance: np.ndarray
    covariance_error: np.ndarray
    share: np.ndarray


def measure(
    name: str,
    guidance: Guidance | None,
    ladder: jax.Array,
    num_runs: int,
    resampling: Resampling | None = LATE,
) -> Row:
    """Run with a reference fitted on other draws in each run; None guides by the limit state."""
    source = problems if name in problems.NAMES else rare_problems
    problem, truth = source.problem(name), source.truth(name)
    if guidance is None:
        guidance = LimitState(problem.limit_state)
    size = len(truth.mean)
    target = Target({"x": problem.prior}, {"x": 0.0}, lambda z: problem.log_weight(z["x"]))

    @jax.jit
    def run(key):
        key_fit, key_paths = jax.random.split(key)
        reference = reference_at(
            key_fit, {"x": jnp.zeros(size)}, target, ladder,
            num_pilots=NUM_PILOTS, num_steps=100,
        )  # fmt: skip
        found = guide(
            jax.random.split(key_paths, NUM_PATHS), {"x": jnp.zeros((NUM_PATHS, size))},
            jnp.zeros(NUM_PATHS), target, ladder, reference, guidance, resampling, MAX_SHIFT,
        )  # fmt: skip
        modes = jax.vmap(problem.prior.mode_probabilities)(found.position["x"])
        effective = effective_sample_size(found.log_weight)
        share = jax.nn.softmax(found.log_weight)
        return found.log_evidence, share, found.position["x"], share @ modes, effective

    whiten = np.linalg.inv(np.linalg.cholesky(truth.covariance))
    rows = []
    for key in jax.random.split(jax.random.key(0), num_runs):
        log_evidence, share, x, masses, effective = (np.asarray(v, float) for v in run(key))
        deviation = (x - share @ x) @ whiten.T
        excess = (deviation.T * share) @ deviation - np.eye(size)
        rows.append(
            (
                log_evidence - truth.log_evidence,
                0.5 * np.abs(masses - truth.mode_masses).sum(),
                np.linalg.norm(excess) / np.sqrt(size),
                effective / NUM_PATHS,
            )
        )
    return Row(*np.transpose(rows))


def check(
    row: Row, bias: float, spread: float, modes: float = 1.0, covariance: float = 9.0
) -> None:
    """Compare a row with its bounds."""
    found = {
        "bias": (abs(row.evidence_error.mean()), bias),
        "spread": (row.evidence_error.std(ddof=1), spread),
        "modes": (row.mode_distance.mean(), modes),
        "covariance": (np.median(row.covariance_error), covariance),
    }
    assert all(value <= bound for value, bound in found.values()), found


def widened(name: str) -> LimitState:
    limit_state = rare_problems.problem(name).limit_state
    assert limit_state is not None
    return LimitState(limit_state, widening=1.2)


@pytest.mark.parametrize(
    "name, guidance, ladder, num_runs, bounds",
    [
        # The spreads of the first two are 0.058 and 0.069 over 200 runs; with shifts of any
        # length they are 0.09 and 0.12, for one run in twenty is far out.
        ("lg8", LineSearch(), angle_ladder(25, first_log_snr=-7.0), 80, (0.12, 0.09, 0.040, 0.17)),
        ("pois8", LineSearch(), angle_ladder(58), 120, (0.07, 0.08, 0.035, 0.22)),
        ("lg8", LineSearch(), angle_ladder(58), 16, (0.06, 0.07, 0.035, 0.15)),
        ("lg8", FullCovariance(), angle_ladder(16), 32, (0.05, 0.06, 0.030, 0.15)),
        ("pois8", FullCovariance(), angle_ladder(16), 16, (0.07, 0.07, 0.020, 0.16)),
        ("heart2", RandomNumbers(64), angle_ladder(16), 16, (0.05, 0.07, 0.025, 0.12)),
        ("shell8", None, UNIFORM, 16, (0.12, 0.15, 1.0, 0.27)),
        # One in a million. Without the widening of its limit state a run in ten has one ancestor
        # for most of its paths, the spread is 0.5, and the mean of the logs is off by its square.
        ("half8", widened("half8"), UNIFORM, 24, (0.30, 0.35, 0.06)),
    ],
)
def test_rows(name, guidance, ladder, num_runs, bounds):
    check(measure(name, guidance, ladder, num_runs), *bounds)


def test_thirty_dimensions_without_resampling():
    row = measure("lg30", FullCovariance(), UNIFORM, 8, resampling=None)
    check(row, 0.05, 0.05, 0.025, 0.24)
    assert row.share.mean() >= 0.7
