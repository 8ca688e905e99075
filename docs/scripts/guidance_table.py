"""Evidence, effective draws and mode masses of guided paths against exact truth.

::

    python -m docs.scripts.guidance_table

Writes ``docs/tables/guidance.md``: 12 runs of 1,000 paths a row, on problems of
``tests/problems.py`` whose prior is an unequal mixture.
"""

import time
from math import inf
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from scoreppl.guidance import (
    LAGS,
    FullCovariance,
    Guidance,
    LineSearch,
    LowRank,
    Tweedie,
    Unguided,
)
from scoreppl.samplers.guided import Resampling, guide
from scoreppl.samplers.reference import angle_ladder
from scoreppl.target import Target
from tests.given_ladder import reference_at
from tests.problems import observed, problem, truth

OUT = Path(__file__).parents[1] / "tables" / "guidance.md"
NUM_RUNS, NUM_PATHS = 12, 1_000
# The default of GuidedDiffusion.
MAX_SHIFT = 0.2
PROBLEMS = ("lg8", "pois8", "lg30")


def guidances(name: str) -> tuple[tuple[str, Guidance, int, float], ...]:
    """Return label, guidance, steps and `max_shift` of each row."""
    rows = observed(name).rows
    return (
        ("Unguided", Unguided(), 50, MAX_SHIFT),
        ("Tweedie, any shift", Tweedie(), 50, inf),
        ("Tweedie", Tweedie(), 50, MAX_SHIFT),
        ("LAGS, any shift", LAGS(), 50, inf),
        ("LAGS", LAGS(), 50, MAX_SHIFT),
        ("LineSearch", LineSearch(), 25, MAX_SHIFT),
        ("LineSearch", LineSearch(), 50, MAX_SHIFT),
        (f"LowRank, {len(rows)} rows", LowRank(rows), 25, MAX_SHIFT),
        ("FullCovariance", FullCovariance(), 25, MAX_SHIFT),
    )


def measure(
    name: str, guidance: Guidance, num_steps: int, max_shift: float
) -> tuple[np.ndarray, ...]:
    """Return errors of log evidence, effective shares and distances, one a run.

    The distances of mode masses are those of weighted paths, of paths as they come, and of paths
    resampled late, with the errors of log evidence of the latter.
    """
    found, exact = problem(name), truth(name)
    size = found.prior.event_shape[0]
    target = Target({"x": found.prior}, {"x": 0.0}, lambda z: found.log_weight(z["x"]))
    ladder, start = angle_ladder(num_steps), {"x": jnp.zeros((NUM_PATHS, size))}
    masses = jnp.asarray(exact.mode_masses)

    def distance(x: jax.Array, share: jax.Array) -> jax.Array:
        modes = jax.vmap(found.prior.mode_probabilities)(x)
        return 0.5 * jnp.sum(jnp.abs(share @ modes - masses))

    @jax.jit
    def run(key: jax.Array) -> tuple[jax.Array, ...]:
        key_fit, key_paths = jax.random.split(key)
        reference = reference_at(
            key_fit, {"x": jnp.zeros(size)}, target, ladder, num_pilots=500, num_steps=100
        )
        keys, nothing = jax.random.split(key_paths, NUM_PATHS), jnp.zeros(NUM_PATHS)
        paths, late = (
            guide(keys, start, nothing, target, ladder, reference, guidance, resampling, max_shift)
            for resampling in (None, Resampling())
        )
        share = jax.nn.softmax(paths.log_weight)
        return (
            paths.log_evidence - exact.log_evidence,
            1 / jnp.sum(share**2) / NUM_PATHS,
            distance(paths.position["x"], share),
            distance(paths.position["x"], jnp.full(NUM_PATHS, 1 / NUM_PATHS)),
            late.log_evidence - exact.log_evidence,
            distance(late.position["x"], jax.nn.softmax(late.log_weight)),
        )

    results = [run(key) for key in jax.random.split(jax.random.key(0), NUM_RUNS)]
    return tuple(np.array(column, float) for column in zip(*results, strict=True))


def main() -> None:
    """Measure all rows and write the table."""
    rows = [
        "| problem | guidance | steps | evaluations a path | effective share | log Z error "
        "| mode distance, weighted | mode distance, as they come | log Z error, resampled late "
        "| mode distance, resampled late |",
        "|" + "---|" * 10,
    ]
    for name in PROBLEMS:
        size = problem(name).prior.event_shape[0]
        for label, guidance, num_steps, max_shift in guidances(name):
            begin = time.perf_counter()
            found = measure(name, guidance, num_steps, max_shift)
            error, share, weighted, plain, late_error, late = found
            cost = num_steps * guidance.num_score_evaluations(size)
            rows.append(
                f"| {name} | {label} | {num_steps} | {cost} | {share.mean():.3f} "
                f"| {error.mean():+.2f} ± {error.std(ddof=1):.2f} | {weighted.mean():.3f} "
                f"| {plain.mean():.3f} | {late_error.mean():+.2f} ± {late_error.std(ddof=1):.2f} "
                f"| {late.mean():.3f} |"
            )
            print(rows[-1], f"{time.perf_counter() - begin:.0f} s", flush=True)
    rows.append("")
    rows.append(
        f"{NUM_RUNS} runs of {NUM_PATHS:,} paths a row: mean ± standard deviation of one run. The "
        "mode distance is a total variation; 1,000 exact draws have about 0.015."
    )
    OUT.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
