"""Annealing a mixture of forty modes to the inverse temperature 3, and thirty dimensions.

The benchmark of Feynman-Kac correctors (arXiv:2503.02819): 40 equal components in the plane, in
units of 50, under noise from 0.01 to 10. The third power has the product of any three components
as its parts: all of them are kept here. As measured with 1,000 steps the published correctors have
W1 of 5.7 to 8.1, distances of mode masses of 0.13 and errors of log Z of 0.2.
"""

from functools import cache

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import scoreppl as sp

pytestmark = pytest.mark.slow

UNIT, SD, BETA, NUM_RUNS = 50.0, 2.1269280, 3.0, 10


def means() -> np.ndarray:
    """Return 80 (u - 1/2) for the uniforms of the published seed 0, in units of 50."""
    bits = np.random.MT19937()
    bits._legacy_seeding(0)
    uniforms = (bits.random_raw(80).astype("u8") & (2**24 - 1)) / 2**24
    return 80 * (uniforms.reshape(40, 2) - 0.5) / UNIT


@cache
def truth() -> tuple[np.ndarray, np.ndarray, float]:
    """Means and weights of the third power's components, and its log integral."""
    centres, variance = means(), (SD / UNIT) ** 2
    first, second, third = np.meshgrid(*[np.arange(40)] * 3, indexing="ij")
    points = centres[np.stack([first.ravel(), second.ravel(), third.ravel()])]
    middle = points.mean(0)
    logs = -((points - middle) ** 2).sum((0, 2)) / (2 * variance)
    total = np.logaddexp.reduce(logs)
    kept = logs > total - 30
    log_integral = total - 3 * np.log(40) - 2 * np.log(2 * np.pi * variance) - np.log(3)
    return middle[kept], np.exp(logs[kept] - total), float(log_integral)


def exact_draws(rng: np.random.Generator, count: int) -> np.ndarray:
    centres, weights, _ = truth()
    chosen = rng.choice(len(weights), count, p=weights / weights.sum())
    return centres[chosen] + rng.normal(size=(count, 2)) * SD / UNIT / np.sqrt(BETA)


def mode_masses(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    nearest = ((x[:, None] - means()) ** 2).sum(-1).argmin(1)
    return np.bincount(nearest, weights=weights, minlength=40)


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """W1 of two samples of one size, in the published units."""
    costs = np.sqrt(((x[:, None] - y) ** 2).sum(-1))
    rows, columns = linear_sum_assignment(costs)
    return float(UNIT * costs[rows, columns].mean())


def exact_row(rng: np.random.Generator, masses: np.ndarray) -> tuple[float, float]:
    """W1 and distance of mode masses that 10,000 exact draws have."""
    draws = exact_draws(rng, 10_000)
    found = mode_masses(draws, np.full(10_000, 1e-4))
    return distance(draws[:2_000], exact_draws(rng, 2_000)), 0.5 * np.abs(found - masses).sum()


def exact_masses(rng: np.random.Generator) -> np.ndarray:
    return mode_masses(exact_draws(rng, 1_000_000), np.full(1_000_000, 1e-6))


def measure(
    num_steps: int, num_probes: int | None, num_runs: int = NUM_RUNS, **options
) -> np.ndarray:
    """W1 on 2,000 draws, distance of mode masses and error of log Z, one row a run."""
    prior = sp.analytic.GaussianMixture(means(), scales=SD / UNIT, noise=sp.noise.VE(0.01, 10.0))
    rng = np.random.default_rng(0)
    masses = exact_masses(rng)
    rows = []
    for seed in range(num_runs):
        smc = sp.ScoreSMC(
            score_model=sp.temper(prior, BETA), num_particles=10_000, num_steps=num_steps,
            num_probes=num_probes, **options,
        )  # fmt: skip
        smc.run(jax.random.key(seed))
        samples, log_weight = smc.get_weighted_samples()
        share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
        x = np.asarray(samples["x"], float)
        draws = np.asarray(smc.get_samples(jax.random.key(seed), 2_000)["x"], float)
        rows.append((
            distance(draws, exact_draws(rng, 2_000)),
            0.5 * np.abs(mode_masses(x, share) - masses).sum(),
            smc.log_evidence - truth()[2],
        ))  # fmt: skip
    return np.array(rows)


@pytest.mark.parametrize(
    "num_steps, num_probes", [(100, None), (50, 1)], ids=["exact Laplacian", "one probe"]
)
def test_forty_modes(num_steps, num_probes):
    """At 100 evaluations of the score: a step with a probe costs two.

    Aimed at is a mean W1 of 1.6, which the table in docs/smc.md shows. Ten runs know it with a
    standard error of 0.14, so the bound is three of these above; 1,000 steps of the published
    correctors have 5.7 and more.
    """
    found = measure(num_steps, num_probes).mean(0)
    assert found[0] <= 2.0 and found[1] <= 0.045 and abs(found[2]) <= 0.10, found
