"""Squares of unequal, anisotropic mixtures in 2, 8 and 30 dimensions, whose law is known exactly.

The square of a Gaussian mixture is one: each pair of components has a product in closed form.
"""

from functools import cache

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

import scoreppl as sp
from tests import problems

NUM_RUNS = 10


@cache
def square(dimension: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log weights (not normalised), means and covariances of all pairs."""
    mixture = problems.components(dimension)
    logs, means, covariances = [], [], []
    for i, first in enumerate(mixture.covariances):
        for j, second in enumerate(mixture.covariances):
            apart = mixture.means[i] - mixture.means[j]
            total = first + second
            log_density = -0.5 * (
                apart @ np.linalg.solve(total, apart) + np.linalg.slogdet(2 * np.pi * total)[1]
            )
            gain = np.linalg.solve(total, first).T
            logs.append(np.log(mixture.weights[i] * mixture.weights[j]) + log_density)
            means.append(mixture.means[i] - gain @ apart)
            covariances.append(first - gain @ first)
    return np.array(logs), np.array(means), np.array(covariances)


@pytest.mark.parametrize(
    "dimension, num_probes, num_steps",
    [
        (2, None, 100),
        pytest.param(8, None, 100, marks=pytest.mark.slow),
        pytest.param(8, 1, 100, marks=pytest.mark.slow),
        pytest.param(30, 1, 100, marks=pytest.mark.slow),
    ],
)
def test_the_square_of_a_mixture(dimension, num_probes, num_steps):
    logs, means, _ = square(dimension)
    share = np.exp(logs - logsumexp(logs))
    smc = sp.ScoreSMC(
        score_model=sp.temper(problems.prior(dimension), 2.0), num_particles=1_000,
        num_steps=num_steps, num_probes=num_probes, num_runs=NUM_RUNS, num_pilots=64,
    )  # fmt: skip
    smc.run(jax.random.key(0))
    ratio = np.exp(smc.log_evidence - logsumexp(logs)) - 1.0
    weight = np.exp(smc.result.log_weight - smc.result.log_weight.max()).reshape(NUM_RUNS, -1)
    x = np.asarray(smc.result.samples["x"], float).reshape(NUM_RUNS, 1_000, dimension)
    found = np.einsum("rn,rnd->rd", weight, x) / weight.sum(1)[:, None]
    z = (found.mean(0) - share @ means) / (found.std(0, ddof=1) / np.sqrt(NUM_RUNS))
    # Student's t with nine degrees of freedom: in 30 dimensions one false alarm in a hundred.
    assert np.abs(z).max() < 5.5, z
    assert abs(ratio) < 3.3 * smc.result.log_evidence_error_of_runs + 0.01, ratio


def test_the_plain_reverse_diffusion_of_the_square_is_seen_to_be_wrong():
    """Its modes' masses are not those of the square, so the test above needs the weights."""
    logs, means, _ = square(2)
    share = np.exp(logs - logsumexp(logs))
    draws = np.asarray(
        sp.temper(problems.prior(2), 2.0).sample(jax.random.key(0), (10_000,), num_steps=100), float
    )
    z = (draws.mean(0) - share @ means) / (draws.std(0) / 100.0)
    assert np.abs(z).max() > 10
