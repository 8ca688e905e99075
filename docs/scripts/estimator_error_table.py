"""Where standard errors and intervals of the estimators are right, and where they are not.

::

    python -m docs.scripts.estimator_error_table

Writes ``docs/tables/estimator_errors.md``: the root mean square error over what the standard errors
say, and how many intervals of 95 % hold the truth. A few minutes on two cores.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import norm
from scipy.stats import t as student

import scoreppl as sp
from scoreppl.estimators.event_paths import EventPaths
from scoreppl.estimators.event_source import read_source

OUT = Path(__file__).parents[1] / "tables" / "estimator_errors.md"
NUM_SEEDS = 200


def chains(num_chains: int, num_draws: int, correlation: float, seed: int) -> tuple[float, float]:
    """Return the z-score of the mean of autoregressive chains, and the degrees of freedom."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_chains, num_draws))
    for i in range(1, num_draws):
        x[:, i] = correlation * x[:, i - 1] + np.sqrt(1 - correlation**2) * x[:, i]
    each = 32 // num_chains
    batch = np.arange(num_chains)[:, None] * each + np.arange(num_draws) * each // num_draws
    draws = sp.estimators.weighted_draws({"x": x.ravel()}, cluster=batch.ravel())
    draws = draws._replace(chain=np.repeat(np.arange(num_chains), num_draws))
    found = sp.estimators.expectation(draws.values["x"], draws)
    return float(found.value / found.standard_error), 31


def controlled(part: sp.estimators.SteinKernel | str, size: int, seed: int) -> tuple[float, float]:
    """Return the z-score of E[exp(x / 2)] of normal draws by control variates."""
    x = np.random.default_rng(seed).standard_normal((size, 1))
    draws = sp.estimators.weighted_draws({"x": x}, position=x, score=-x)
    found = sp.estimators.expectation(np.exp(0.5 * x[:, 0]), draws, control_variates=part)
    return float((found.value - np.exp(0.125)) / found.standard_error), size - 1


class Paths:
    """Intervals of guided paths towards an event of a normal law, compiled once."""

    def __init__(self, size: int, limit_state: Callable[[Array], Array], truth: float) -> None:
        law = sp.analytic.GaussianMixture(jnp.zeros((1, size)), scales=1.0)
        method = sp.estimators.GuidedPaths(num_paths=400, num_pilots=64)
        self._paths = EventPaths(read_source(law, limit_state), method)
        self._truth = truth

    def __call__(self, seed: int) -> tuple[float, float]:
        """Return the z-score of the log probability of a run."""
        run = self._paths.run(jax.random.key(seed))
        if run.log_probability == -np.inf:
            return -np.inf, len(run.log_weight) - 1
        weights = np.exp(run.log_weight - run.log_weight.max())
        error = weights.std(ddof=1) / weights.mean() / np.sqrt(len(weights))
        return (run.log_probability - self._truth) / error, len(weights) - 1


def sides(x: Array) -> Array:
    """Return a limit state that is positive far on either side."""
    return jnp.maximum(x[0] - 4.0, -3.5 - x[0])


def row(name: str, z_score: Callable[[int], tuple[float, float]]) -> str:
    """Run all seeds, and return a line of the table."""
    found, num_warned = [], 0
    for seed in range(NUM_SEEDS):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append(z_score(seed))
        num_warned += any("Pareto k" in str(each.message) for each in caught)
    z, freedom = np.array(found).T
    held = np.mean(np.abs(z) < student.ppf(0.975, freedom))
    spread = np.sqrt(np.mean(z**2))
    shown = f"{spread:.2f}" if spread < 100 else "more than 100"
    return f"| {name} | {shown} | {100 * held:.0f} | {100 * num_warned / NUM_SEEDS:.0f} |"


def main() -> None:
    """Measure, and write the table."""
    union = float(np.logaddexp(norm.logsf(4.0), norm.logsf(3.5)))
    cases: list[tuple[str, Callable[[int], tuple[float, float]]]] = [
        ("4 chains of 1,000, no autocorrelation", lambda s: chains(4, 1_000, 0.0, s)),
        ("a chain of 1,000, autocorrelation 0.8", lambda s: chains(1, 1_000, 0.8, s)),
        ("a chain of 1,000, autocorrelation 0.95", lambda s: chains(1, 1_000, 0.95, s)),
        ("4 chains of 1,000, autocorrelation 0.95", lambda s: chains(4, 1_000, 0.95, s)),
        ("1,000 draws, `Stein(1)`", lambda s: controlled("stein", 1_000, s)),
        *(
            (
                f"{size:,} draws, `SteinKernel({'' if count is None else count})`",
                lambda s, n=size, c=count: controlled(sp.estimators.SteinKernel(c), n, s),
            )
            for size, count in ((100, None), (1_000, None), (4_000, None), (1_000, 100))
        ),
        (
            "guided paths, P(x₀ + x₁ > 5 √2)",
            Paths(2, lambda x: x.sum() / 2**0.5 - 5.0, norm.logsf(5.0)),
        ),
        ("guided paths, P(x > 4 or x < -3.5)", Paths(1, sides, union)),
        (
            "guided paths, P(tanh(x - 4) > 0)",
            Paths(1, lambda x: jnp.tanh(x[0] - 4.0), norm.logsf(4.0)),
        ),
    ]
    lines = [
        "| | root mean square error over the stated one | intervals of 95 % that hold the truth, % "
        "| runs that warned of a Pareto k, % |",
        "|---|---|---|---|",
    ]
    for name, z_score in cases:
        lines.append(row(name, z_score))
        print(lines[-1], flush=True)
    lines += [
        "",
        f"{NUM_SEEDS} seeds; independent draws of a right error have 1 ± 0.05 and 95 ± 1.5.",
    ]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
