"""The lead: in one dimension all diagnostics are clean, and the prior has dropped out.

A standard normal prior and one observation. Everything is known in closed form: with the prior the
posterior is N(y / (1 + s²), s² / (1 + s²)), and without it N(y, s²).
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.infer import MCMC, NUTS, init_to_value

import scoreppl as sp
from case_studies.galaxies.published import is_original, zero_density

OBSERVED = 1.5
NOISES = (1.0, 3.0)
NUM_CHAINS, NUM_WARMUP = 4, 500


def score(x: Array) -> Array:
    """Return the score of a standard normal."""
    return -x


def practised(noise: Array, y: Array) -> None:
    """State the model with log density zero for the prior."""
    x = numpyro.sample("x", zero_density(score, (1,)))
    numpyro.sample("y", dist.Normal(x, noise).to_event(1), obs=y)


def corrected(noise: Array, y: Array) -> None:
    """State the same with the prior in the acceptance; one line differs."""
    x = numpyro.sample("x", sp.ScorePrior(sp.LocalScore(_score, event_shape=(1,))))
    numpyro.sample("y", dist.Normal(x, noise).to_event(1), obs=y)


def _score(_: None, x: Array) -> Array:
    return score(x)


class Found(NamedTuple):
    """Of one sampler at one noise.

    Attributes
    ----------
    mean, mean_error, sd
        Of the draws, the error by ArviZ.
    r_hat, accept_prob
        Rank-normalised split R-hat, and mean acceptance.
    num_diverging
        Divergences; of a kernel without them, 0.
    """

    mean: float
    mean_error: float
    sd: float
    r_hat: float
    accept_prob: float
    num_diverging: int


def sample(
    kernel: Any, key: Array, noise: float, num_samples: int, fields: tuple[str, ...]
) -> Found:
    """Run chains from standard normal starts and summarise them."""
    mcmc = MCMC(
        kernel, num_warmup=NUM_WARMUP, num_samples=num_samples, num_chains=NUM_CHAINS,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    key_start, key_run = jax.random.split(key)
    start = jax.random.normal(key_start, (NUM_CHAINS, 1))
    y = jnp.array([OBSERVED])
    with warnings.catch_warnings():
        # ScoreNUTS warns of networks' curl, and in one dimension there is none.
        warnings.filterwarnings("ignore", message=".*curl.*")
        mcmc.run(key_run, jnp.asarray(noise), y, init_params={"x": start}, extra_fields=fields)
    draws = np.asarray(mcmc.get_samples(group_by_chain=True)["x"], float)[:, :, 0]
    extra = mcmc.get_extra_fields()
    return Found(
        float(draws.mean()),
        float(np.asarray(az.mcse(draws))),
        float(draws.std()),
        float(np.asarray(az.rhat(draws))),
        float(np.mean(extra["accept_prob"])),
        int(np.sum(extra.get("diverging", 0))),
    )


KERNELS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "log density zero, NUTS": (
        lambda: NUTS(practised, init_strategy=init_to_value(values={"x": jnp.zeros(1)})),
        ("accept_prob", "diverging"),
    ),
    "`sp.ScoreMALA`": (lambda: sp.ScoreMALA(corrected), ("accept_prob",)),
    "`sp.ScoreNUTS`": (lambda: sp.ScoreNUTS(corrected), ("accept_prob",)),
}


def table(key: Array, num_samples: int) -> str:
    """Return means and standard deviations, the true ones, and what the diagnostics say."""
    rows = ["| noise | | mean | sd | R-hat | divergences | acceptance |", "|---" * 7 + "|"]
    for noise in NOISES:
        gain = 1.0 / (1.0 + noise**2)
        rows += [
            f"| {noise:g} | truth | {OBSERVED * gain:.3f} | {noise * gain**0.5:.3f} | | | |",
            f"| {noise:g} | without the prior | {OBSERVED:.3f} | {noise:.3f} | | | |",
        ]
        for index, (name, (kernel, fields)) in enumerate(KERNELS.items()):
            found = sample(kernel(), jax.random.fold_in(key, index), noise, num_samples, fields)
            diverging = f"{found.num_diverging}" if "diverging" in fields else ""
            rows.append(
                f"| {noise:g} | {name} | {found.mean:.3f} ± {found.mean_error:.3f} | "
                f"{found.sd:.3f} | {found.r_hat:.4f} | {diverging} | {found.accept_prob:.2f} |"
            )
    source = "scarlet2 0.5.1's own class" if is_original() else "our reproduction of the class"
    rows += [
        "",
        f"{NUM_CHAINS} chains of {num_samples:,} draws after {NUM_WARMUP}; "
        f"the first kernel's prior is {source}.",
    ]
    return "\n".join(rows)
