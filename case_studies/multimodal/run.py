"""Mode masses by five samplers at equal density evaluations.

::

    python -m case_studies.multimodal [--out DIR]

Writes ``results.md``: for two posteriors the masses of the modes, their distance from the truth
in total variation and in Monte Carlo errors, R-hat and cost.
"""

from pathlib import Path

import arviz as az
import jax
import numpy as np

from case_studies.multimodal.methods import (
    FLOW_CHAINS,
    FLOW_STEPS,
    Outcome,
    run_diffusion_mh,
    run_flow,
    run_nuts,
    run_smc,
    train_network,
)
from case_studies.multimodal.model import POSTERIORS, Posterior

NUM_WARMUP, NUM_SAMPLES, POOL_CHAINS = 500, 2_500, 48
HEAD = (
    "| posterior | sampler | evaluations | seconds | R-hat | masses of the modes | "
    "distance of masses | in Monte Carlo errors |\n|---|---|---|---|---|---|---|---|"
)


class Judged:
    """Numbers of one outcome against the truth."""

    def __init__(self, found: Outcome, truth: np.ndarray) -> None:
        indicators = np.float64(found.modes[..., None] == np.arange(len(truth)))
        self.masses = indicators.mean((0, 1))
        self.distance = 0.5 * np.abs(self.masses - truth).sum()
        self.r_hat = self.errors = np.nan
        if found.modes.shape[1] > 1:
            self.r_hat = max(
                float(az.rhat(np.float64(v))) for v in np.moveaxis(found.values, -1, 0)
            )
            ess = np.array([float(az.ess(v)) for v in np.moveaxis(indicators, -1, 0)])
            errors = np.sqrt(truth * (1 - truth) / ess)
            self.errors = np.max(np.abs(self.masses - truth) / errors)


def row(posterior: Posterior, name: str, found: Outcome) -> str:
    """Return a line of the table."""
    judged = Judged(found, posterior.masses)
    masses = " ".join(f"{mass:.3f}" for mass in judged.masses)
    r_hat, errors = (
        "" if np.isnan(value) else f"{value:.{digits}f}"
        for value, digits in ((judged.r_hat, 3), (judged.errors, 1))
    )
    return (
        f"| {posterior.name} | {name} | {found.evaluations:,} | {found.seconds:.0f} | {r_hat} | "
        f"{masses} | {judged.distance:.3f} | {errors} |"
    )


def compare(posterior: Posterior, key: jax.Array) -> list[str]:
    """Run all samplers on one posterior; each gets what DiffusionMH with its network cost."""
    keys = jax.random.split(key, 6)
    masses = " ".join(f"{mass:.3f}" for mass in posterior.masses)
    rows: list[str] = []

    def add(line: str) -> None:
        rows.append(line)
        print(line, flush=True)

    add(f"| {posterior.name} | truth | | | | {masses} | | |")
    trained = train_network(posterior, keys[0], POOL_CHAINS)
    shares = " ".join(f"{share:.3f}" for share in trained.shares)
    add(
        f"| {posterior.name} | the network's training draws | {trained.evaluations:,} | | | "
        f"{shares} | {0.5 * np.abs(trained.shares - posterior.masses).sum():.3f} | |"
    )
    found = run_diffusion_mh(posterior, keys[1], NUM_WARMUP, NUM_SAMPLES, trained)
    add(row(posterior, "`DiffusionMH`", found))
    budget = found.evaluations
    # How long a tree is varies, so the draws are scaled once more.
    pilot = run_nuts(posterior, keys[2], NUM_WARMUP, NUM_SAMPLES)
    draws = int(NUM_SAMPLES * budget / pilot.evaluations)
    add(row(posterior, "NUTS", run_nuts(posterior, keys[3], NUM_WARMUP, draws)))
    pilot = run_smc(posterior, keys[4], 200)
    particles = int(200 * budget / pilot.evaluations)
    add(row(posterior, "tempered SMC", run_smc(posterior, keys[4], particles)))
    flow = run_flow(posterior, keys[5], budget // (FLOW_CHAINS * FLOW_STEPS))
    if flow is not None:
        add(row(posterior, "flowMC", flow))
    return rows


def main(out: Path) -> None:
    """Run both posteriors and write the table."""
    rows = [HEAD]
    print(HEAD)
    for index, posterior in enumerate(POSTERIORS):
        rows += compare(posterior, jax.random.key(index))
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text("\n".join(rows) + "\n")
