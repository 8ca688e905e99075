"""The quickstart's digit by guided diffusion, beside annealing.

::

    python -m case_studies.quickstart.guided

Takes guided paths as they come, a heuristic, at several numbers of steps, and says how many of
them their exact weights leave. Minutes on two cores.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
import numpyro
from numpyro.infer import MCMC

# As in the quickstart, for annealing's four chains.
numpyro.set_host_device_count(4)

import scoreppl as sp  # noqa: E402
from case_studies.quickstart.model import digit_model  # noqa: E402
from case_studies.quickstart.run import Truth, sample_digit, simulate  # noqa: E402

QUANTITIES = {"noise_scale": "noise scale", "ink": "total ink", "hidden_ink": "hidden ink"}
NUM_STEPS = (12, 25, 50)
NUM_PATHS = 128


def guided(key: jax.Array, truth: Truth, num_steps: int) -> MCMC:
    """Draw paths by line search, the default in this many dimensions, as they come."""
    kernel = sp.GuidedDiffusion(
        digit_model, num_steps=num_steps, accept=None, num_pilots=64, block_size=64
    )
    mcmc = MCMC(kernel, num_warmup=128, num_samples=NUM_PATHS, progress_bar=False)
    mcmc.run(key, sp.pretrained.load("digits"), truth.observation)
    return mcmc


def row(name: str, mcmc: MCMC, begin: float) -> str:
    """Give mean ± Monte Carlo error (standard deviation) of each quantity, and the cost."""
    draws, fields = mcmc.get_samples(), mcmc.get_extra_fields()
    jax.block_until_ready(draws)
    seconds = time.perf_counter() - begin
    cells = []
    for quantity in QUANTITIES:
        values = np.asarray(draws[quantity], float)
        error = values.std() / np.sqrt(len(values))
        digits = 3 if quantity == "noise_scale" else 1
        cells.append(f"{values.mean():.{digits}f} ± {error:.{digits}f} ({values.std():.{digits}f})")
    effective = "all"
    if isinstance(mcmc.sampler, sp.GuidedDiffusion):
        log_weight = np.asarray(fields["log_weight"], float)
        share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
        effective = f"{1 / np.sum(share**2):.1f}"
    cost = int(np.max(mcmc.last_state.num_score_evaluations))
    cells += [f"{effective} of {len(values)}", str(cost), f"{seconds:.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Run annealing and guided diffusion on the quickstart's data, and write ``guided.md``."""
    parser = argparse.ArgumentParser(prog="python -m case_studies.quickstart.guided")
    parser.add_argument("--out", type=Path, default=Path("quickstart_results"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    # The data of the quickstart.
    keys = jax.random.split(jax.random.key(arguments.seed), 3)
    truth = simulate(keys[1])

    rows = [
        f"| | {' | '.join(QUANTITIES.values())} | effective draws "
        "| score evaluations a draw | seconds |",
        "|" + "---|" * (len(QUANTITIES) + 4),
        f"| truth | {' | '.join(f'{truth.scalars[name]:.2f}' for name in QUANTITIES)} | | | |",
    ]
    begin = time.perf_counter()
    rows.append(row("annealing", sample_digit(keys[2], truth, 40), begin))
    for num_steps in NUM_STEPS:
        begin = time.perf_counter()
        found = guided(keys[2], truth, num_steps)
        rows.append(row(f"guided, {num_steps} steps, as they come", found, begin))
        print(rows[-1], flush=True)
    rows.append("\nMean ± Monte Carlo error (standard deviation of the draws).")
    (arguments.out / "guided.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
