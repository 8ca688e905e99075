"""Sample both quickstart models, print the answers beside the truth and write a figure."""

import argparse
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer import MCMC, NUTS

import scoreppl as sp
from case_studies.quickstart.model import (
    VISIBLE,
    digit_model,
    number_model,
    observe,
    total_ink,
    wrong_number_model,
)

DIGIT = 0
NOISE_SCALE = 0.2
SCALARS = ["noise_scale", "ink", "hidden_ink", "centre_pixel"]


class Truth(NamedTuple):
    """A real test digit and what was seen of it."""

    image: Array
    observation: Array
    scalars: dict[str, float]


def simulate(key: Array) -> Truth:
    """Blur a test digit, hide its lower half and add noise."""
    image = jnp.asarray(sp.pretrained.test_digits().images[DIGIT])
    clean = observe(image)
    observation = clean + NOISE_SCALE * jax.random.normal(key, clean.shape)
    scalars = {
        "noise_scale": NOISE_SCALE,
        "ink": float(total_ink(image)),
        "hidden_ink": float(total_ink(image[VISIBLE:])),
        "centre_pixel": float((image[14, 14] + 1) / 2),
    }
    return Truth(image, observation, scalars)


def first_the_failure(key: Array) -> str:
    """Compare a zero-valued density under NUTS with ScoreMALA on the standard normal."""
    settings = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    wrong = MCMC(NUTS(wrong_number_model), num_warmup=500, num_samples=5000, **settings)
    wrong.run(key, 1.5)
    right = MCMC(sp.ScoreMALA(number_model), num_warmup=500, num_samples=10000, **settings)
    right.run(key, 1.5)
    rows = ["| standard normal prior by its score, y = 1.5 | mean | sd | R-hat | divergences |"]
    rows.append("|---|---|---|---|---|")
    for name, mcmc in (
        ("NUTS, zero-valued density with that gradient", wrong),
        ("`sp.ScoreMALA`", right),
    ):
        x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"])
        rhat = float(az.rhat(az.convert_to_dataset({"x": x}))["x"])
        divergences = int(mcmc.get_extra_fields()["diverging"].sum())
        rows.append(f"| {name} | {x.mean():.2f} | {x.std():.2f} | {rhat:.3f} | {divergences} |")
    rows.append("| truth | 0.75 | 0.71 | | |")
    return "\n".join(rows)


def sample_digit(key: Array, truth: Truth, num_samples: int) -> MCMC:
    """Draw from the posterior of the digit and the noise scale."""
    mcmc = MCMC(
        sp.AnnealedScoreMCMC(digit_model),
        num_warmup=32,
        num_samples=num_samples,
        num_chains=4,
        chain_method="parallel",
        progress_bar=False,
    )
    mcmc.run(key, sp.pretrained.load("digits"), truth.observation)
    return mcmc


def table(summary, truth: Truth) -> str:
    """Return the ArviZ summary of the scalars beside the truth, as Markdown."""
    kept = [c for c in summary.columns if not c.startswith("mcse")]
    rows = ["| | truth | " + " | ".join(kept) + " |", "|---|" + "---|" * (len(kept) + 1)]
    for name in SCALARS:
        values = [f"{summary.loc[name, column]:g}" for column in kept]
        rows.append(f"| {name} | {truth.scalars[name]:.2f} | " + " | ".join(values) + " |")
    return "\n".join(rows)


def main() -> None:
    """Run everything and write ``figure.png`` and ``results.md``."""
    parser = argparse.ArgumentParser(prog="python -m case_studies.quickstart")
    parser.add_argument("--out", type=Path, default=Path("quickstart_results"))
    parser.add_argument("--num-samples", type=int, default=40, help="draws a chain")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # ArviZ announces a change of its API once a day; nothing here depends on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    keys = jax.random.split(jax.random.key(arguments.seed), 3)

    print("First, the failure this library exists for.\n")
    failure = first_the_failure(keys[0])
    print(failure, "\n")

    print(
        "A test digit, blurred, half hidden, the noise scale unknown: sampling (minutes) ...",
        flush=True,
    )
    truth = simulate(keys[1])
    begin = time.perf_counter()
    mcmc = sample_digit(keys[2], truth, arguments.num_samples)
    jax.block_until_ready(mcmc.get_samples())
    seconds = time.perf_counter() - begin
    data = sp.to_inference_data(mcmc, log_likelihood=False)
    summary = az.summary(data, var_names=SCALARS)
    print(table(summary, truth), "\n")
    print(sp.diagnostics.report(mcmc, seconds=seconds))

    screen = np.full((28, 28), np.nan)
    screen[:VISIBLE] = truth.observation
    figure = sp.plots.posterior_images(
        mcmc.get_samples()["x"], truth=truth.image, observation=screen, num_draws=8
    )
    figure.savefig(arguments.out / "figure.png", dpi=150)
    total = time.perf_counter() - started
    results = [failure, table(summary, truth), f"{total:.0f} seconds in all on this machine."]
    (arguments.out / "results.md").write_text("\n\n".join(results) + "\n")
    print(f"\nwrote {arguments.out / 'figure.png'} after {total:.0f} seconds")
