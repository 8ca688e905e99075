"""How near least squares on random designs come to the best approximation: docs/least_squares.md.

::

    python -m docs.scripts.least_squares_table

Writes ``docs/tables/least_squares.md``. Polynomials under two skewed mixtures, whose projections
quadrature knows; the draws come from their scores, by reverse diffusion or by `ScoreSMC`. Some
minutes on two cores.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from scipy.stats import t as student

import scoreppl as sp
from tests.problems import Components, components, log_density

OUT = Path(__file__).parents[1] / "tables" / "least_squares.md"
NUM_SEEDS, NUM_CALIBRATION = 20, 200
NUM_DRAWS, NUM_STEPS, NUM_PARTICLES = 4_000, 50, 1_000
FACTORS = (1, 2, 4, 8)


class Problem(NamedTuple):
    """A prior, monomials of some degrees, a function, and its best approximation by quadrature."""

    label: str
    model: sp.analytic.GaussianMixture
    basis: Callable[[Array], Array]
    fn: Callable[[np.ndarray], np.ndarray]
    gram_root: np.ndarray
    coefficients: np.ndarray
    best_error: float

    @property
    def size(self) -> int:
        """Number of functions."""
        return len(self.coefficients)

    def log_ratio(self, coefficients: np.ndarray) -> float:
        """Log of the root mean square error under p over that of the best approximation."""
        distance = self.gram_root.T @ (coefficients - self.coefficients)
        return 0.5 * float(np.log1p(distance @ distance / self.best_error**2))


def monomials(degrees: np.ndarray, x: Array) -> Array:
    """Return the monomials at one event or at several."""
    return (x[..., None, :] ** degrees).prod(-1)


def problem(label: str, law: Components, degree: int, fn: Callable) -> Problem:
    """Return a problem with its truth, on a grid twelve standard deviations wide."""
    dimension = law.means.shape[1]
    degrees = np.array(
        [d for d in product(range(degree + 1), repeat=dimension) if sum(d) <= degree]
    )
    width = 6 * np.sqrt(np.max(np.diagonal(law.covariances, axis1=1, axis2=2)))
    sides = [
        np.linspace(low - width, high + width, {1: 20_001, 2: 801}[dimension])
        for low, high in zip(law.means.min(0), law.means.max(0), strict=True)
    ]
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, dimension)
    masses = np.exp(log_density(law, grid))
    masses /= masses.sum()
    values = monomials(degrees, grid)
    root = np.linalg.cholesky((values.T * masses) @ values)
    right = values.T @ (masses * fn(grid))
    coefficients = np.linalg.solve(root.T, np.linalg.solve(root, right))
    best = np.sqrt(masses @ (fn(grid) - values @ coefficients) ** 2)
    model = sp.analytic.GaussianMixture(law.means, law.covariances, law.weights)
    basis = partial(monomials, degrees)
    return Problem(label, model, basis, fn, root, coefficients, float(best))


def problems() -> list[Problem]:
    """Return the two problems."""
    means, scales = np.array([-1.5, 0.3, 2.2]), np.array([0.3, 0.5, 0.7])
    line = Components(
        np.array([0.55, 0.3, 0.15]), means[:, None], (scales**2)[:, None, None]
    )  # fmt: skip
    return [
        problem(
            "1 dimension, degree 5",
            line,
            5,
            lambda x: np.exp(0.6 * x[..., 0]) + np.sin(2 * x[..., 0]),
        ),
        problem(
            "2 dimensions, degree 3",
            components(2),
            3,
            lambda x: np.exp(0.4 * x[..., 0]) * np.sin(x[..., 1]) + np.tanh(2 * x[..., 0]),
        ),
    ]


def prior_pools(found: Problem) -> list[np.ndarray]:
    """Return draws of p by reverse diffusion, a set for each seed."""
    keys = jax.random.split(jax.random.key(1), NUM_SEEDS)
    return [np.asarray(found.model.sample(key, (NUM_DRAWS,), num_steps=NUM_STEPS)) for key in keys]


def christoffel_pools(found: Problem, pilots: np.ndarray) -> tuple[list[tuple], int]:
    """Return weighted draws by way of the Christoffel law, a run for each seed, and their cost."""
    first = sp.estimators.orthonormalise(found.basis, pilots)
    smc = sp.ScoreSMC(
        score_model=found.model,
        log_weight=first.christoffel_log_weight,
        num_particles=NUM_PARTICLES,
        num_steps=NUM_STEPS,
        num_runs=NUM_SEEDS,
    )
    smc.run(jax.random.key(2))
    values, log_weight = smc.get_weighted_samples()
    back = log_weight - np.asarray(jax.vmap(first.christoffel_log_weight)(values["x"]))
    x = np.asarray(values["x"]).reshape(NUM_SEEDS, NUM_PARTICLES, -1)
    pools = list(zip(x, back.reshape(NUM_SEEDS, NUM_PARTICLES), strict=True))
    return pools, smc.result.num_score_evaluations // NUM_SEEDS


def interval(values: list[float]) -> str:
    """Return a geometric mean with its interval of 95 %."""
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    reach = student.isf(0.025, len(values) - 1) * error
    return f"{np.exp(mean):.2f} [{np.exp(mean - reach):.2f}, {np.exp(mean + reach):.2f}]"


def row(found: Problem, label: str, fits: list[list], cost: int, seconds: list[float]) -> str:
    """Return a line of the table; `fits` are coefficients by factor and seed, None for no fit."""
    cells = []
    for by_seed in fits:
        determined = [found.log_ratio(c) for c in by_seed if c is not None]
        missing = len(by_seed) - len(determined)
        cells.append(
            "–"
            if missing > len(by_seed) // 2
            else interval(determined) + f" ({missing})" * bool(missing)
        )
    line = f"| {found.label} | {label} | {' | '.join(cells)} | {cost:,} | {np.mean(seconds):.2f} |"
    print(line, flush=True)
    return line


def measure(found: Problem) -> list[str]:
    """Return the lines of one problem."""
    begin = time.perf_counter()
    pools = prior_pools(found)
    seconds = (time.perf_counter() - begin) / NUM_SEEDS
    fits: list[list] = [[] for _ in FACTORS]
    for factor, by_seed in zip(FACTORS, fits, strict=True):
        for x in pools:
            chosen = x[: factor * found.size].astype(float)
            by_seed.append(np.linalg.lstsq(found.basis(chosen), found.fn(chosen), rcond=None)[0])
    plain = 8 * found.size * NUM_STEPS
    lines = [
        row(found, "draws of p, no weights", fits, plain, [seconds * plain / NUM_STEPS / NUM_DRAWS])
    ]
    weighted = [(x, None) for x in pools]
    for design in ("independent", "volume", "repeated"):
        lines.append(by_design(found, design, design, weighted, NUM_DRAWS * NUM_STEPS, seconds))
    begin = time.perf_counter()
    pools, cost = christoffel_pools(found, pools[0])
    seconds = (time.perf_counter() - begin) / NUM_SEEDS
    for design in ("volume", "repeated"):
        label = f"{design}, Christoffel draws"
        lines.append(by_design(found, label, design, pools, cost, seconds))
    return lines


def by_design(
    found: Problem, label: str, design: str, pools: list, cost: int, seconds: float
) -> str:
    """Return the line of one design."""
    fits: list[list] = [[] for _ in FACTORS]
    spent = []
    for factor, by_seed in zip(FACTORS, fits, strict=True):
        for seed, (x, log_weight) in enumerate(pools):
            begin = time.perf_counter()
            try:
                by_seed.append(fit(found, seed, design, factor, x, log_weight).coefficients)
            except ValueError as error:
                if "does not determine" not in str(error):
                    raise
                by_seed.append(None)
            spent.append(time.perf_counter() - begin + seconds)
    return row(found, label, fits, cost, spent)


def fit(found: Problem, seed: int, design: str, factor: int, x, log_weight=None):
    """Return the fit of one seed."""
    return sp.estimators.least_squares(
        jax.random.key(seed),
        found.fn,
        found.basis,
        x,
        log_weight,
        num_evaluations=factor * found.size,
        design=design,
    )


def calibration(found: Problem) -> list[str]:
    """Return the table of z-scores, and of stated over actual errors."""
    lines = [
        "| design | " + " | ".join(f"n = {f} m" for f in FACTORS[1:]) + " |",
        "|---|---|---|---|",
    ]
    keys = jax.random.split(jax.random.key(3), NUM_CALIBRATION)
    pools = [np.asarray(found.model.sample_exact(key, (20_000,))) for key in keys]
    for design in ("independent", "volume", "repeated"):
        cells = []
        for factor in FACTORS[1:]:
            fits = [fit(found, seed, design, factor, x) for seed, x in enumerate(pools)]
            z = [(f.coefficients - found.coefficients) / f.standard_error for f in fits]
            actual = [np.exp(found.log_ratio(f.coefficients)) * found.best_error for f in fits]
            ratio = np.sqrt(np.mean([f.error**2 for f in fits]) / np.mean(np.square(actual)))
            score = np.sqrt(np.mean(np.square(z)))
            cells.append(f"{score:.2f}, {ratio:.2f}" if np.isfinite(score * ratio) else "–")
        lines.append(f"| {design} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and write the tables."""
    heads = " | ".join(f"n = {factor} m" for factor in FACTORS)
    lines = [
        f"| problem | design | {heads} | network evaluations | seconds |",
        "|" + "---|" * (len(FACTORS) + 4),
    ]
    both = problems()
    for found in both:
        lines += measure(found)
    lines += [
        "",
        f"Root mean square error under p over that of the best approximation: geometric mean over "
        f"{NUM_SEEDS} seeds, each with draws of its own, and its 95 % interval; m = "
        f"{both[0].size} and {both[1].size} functions. In round brackets: fits that were refused, "
        "because the design left coefficients undetermined (–: most were). Costs are those of the "
        f"draws (unweighted: 8 m of them; else {NUM_DRAWS:,}, or {NUM_PARTICLES:,} particles, "
        f"without the pilots that made their weight), {NUM_STEPS} steps each; seconds are those of "
        "draws and fit together, compilation shared among the seeds, on two busy cores.",
        "",
        *calibration(both[0]),
        "",
        f"First problem, 20,000 exact draws, {NUM_CALIBRATION} seeds: root mean square z-score of "
        "the coefficients (1 is calibrated), and stated over actual root mean square error. –: "
        "some fits depended on one point so much that they have neither.",
    ]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
