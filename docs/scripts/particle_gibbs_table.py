"""Autocorrelation of particle Gibbs against its number of particles: a table of docs/smc.md.

::

    python -m docs.scripts.particle_gibbs_table

A few minutes on two cores.
"""

import time
from pathlib import Path

import arviz as az
import jax
import numpy as np
import numpyro
from numpyro.infer import MCMC

import scoreppl as sp
from tests.problems import problem, truth

OUT = Path(__file__).parents[1] / "tables" / "particle_gibbs.md"
NUM_SAMPLES, NUM_CHAINS, NUM_STEPS = 500, 4, 25
NUM_PARTICLES = (4, 16, 64)


def main() -> None:
    """Run one chain kernel a row on lg8 and write the table."""
    found, exact = problem("lg8"), truth("lg8")

    def model() -> None:
        x = numpyro.sample("x", sp.ScorePrior(found.prior))
        numpyro.factor("weight", found.log_weight(x))

    rows = [
        "| particles | path levels renewed | autocorrelation time | score evaluations an "
        "effective draw | error | seconds |",
        "|" + "---|" * 6,
    ]
    for num_particles in NUM_PARTICLES:
        kernel = sp.ParticleGibbs(model, num_particles=num_particles, num_steps=NUM_STEPS)
        mcmc = MCMC(
            kernel, num_warmup=50, num_samples=NUM_SAMPLES, num_chains=NUM_CHAINS,
            chain_method="vectorized", progress_bar=False,
        )  # fmt: skip
        begin = time.perf_counter()
        mcmc.run(jax.random.key(0), extra_fields=("renewed",))
        x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"], float)
        seconds = time.perf_counter() - begin
        ess = np.array([float(az.ess(x[..., i])) for i in range(x.shape[-1])])
        error = (x.mean((0, 1)) - exact.mean) / (x.std((0, 1)) / np.sqrt(ess))
        total = NUM_SAMPLES * NUM_CHAINS
        cost = int(np.max(mcmc.last_state.num_score_evaluations))
        renewed = float(mcmc.get_extra_fields()["renewed"].mean())
        rows.append(
            f"| {num_particles} | {renewed:.2f} | {total / ess.min():.1f} "
            f"| {cost * total / ess.min():.0f} | {np.abs(error).max():.1f} | {seconds:.0f} |"
        )
        print(rows[-1], flush=True)
    rows += ["", f"lg8, {NUM_STEPS} steps, full covariance, {NUM_CHAINS} × {NUM_SAMPLES} draws."]
    OUT.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
