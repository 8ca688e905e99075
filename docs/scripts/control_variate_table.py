"""What Stein control variates gain, on posteriors with exact draws and on a network.

::

    python -m docs.scripts.control_variate_table

Writes ``docs/tables/control_variates.md``: variance without over variance with control variates.
Posteriors are those of ``tests/problems.py``: 10 samples of 2,000 exact draws each, and how the
estimates of smooth functions spread over samples, over what their standard errors say. The network
is `digits8`, its upper half seen in noise of unknown scale, by four chains of `ScoreMALA` at two
noise levels.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.infer import MCMC

import scoreppl as sp
from tests.problems import problem, truth

OUT = Path(__file__).parents[1] / "tables" / "control_variates.md"
NUM_SAMPLES, NUM_DRAWS = 10, 2_000
PARTS = {
    "`Stein(1)`": sp.estimators.Stein(1),
    "`Stein(2)`": sp.estimators.Stein(2),
    "`SteinKernel()`": sp.estimators.SteinKernel(),
    "`SteinKernel(100)`": sp.estimators.SteinKernel(100),
}
NAMES = {
    "lg2": "2 d, linear data",
    "logit8": "8 d, binary data",
    "pois8": "8 d, counts",
    "lg8": "8 d, linear data, two modes",
}
NOISE_LEVELS = (0.15, 0.5)


def functions(x: Array, median: Array) -> Array:
    """Return three smooth functions and an indicator of one draw."""
    return jnp.stack([x[0], jnp.sum(x**2), jnp.exp(0.5 * x[0]), x[0] > median])


def posterior_rows(name: str) -> list[str]:
    """Return a row for each kind of control variates."""
    case, exact = problem(name), truth(name)
    score = jax.jit(jax.vmap(lambda x: case.prior.score(x, 0.0) + jax.grad(case.log_weight)(x)))
    rows, median = [], jnp.asarray(np.median(exact.draws[:, 0]))
    for label, part in PARTS.items():
        gains, values_found, errors = [], [], []
        for number in range(NUM_SAMPLES):
            x = jnp.asarray(exact.draws[number * NUM_DRAWS : (number + 1) * NUM_DRAWS])
            draws = sp.estimators.weighted_draws({"x": x}, position=x, score=score(x))
            values = jax.vmap(lambda x: functions(x, median))(x)
            found = sp.estimators.expectation(values, draws, control_variates=part)
            gains.append(found.variance_reduction)
            values_found.append(found.value)
            errors.append(found.standard_error)
        means = np.exp(np.mean(np.log(gains), axis=0))
        # Of the smooth functions together.
        ratio = np.var(values_found, 0, ddof=1) / np.mean(np.square(errors), 0)
        spread = f"{np.sqrt(np.mean(ratio[:3])):.2f}"
        masses = ", ".join(
            f"{mass:.2f}" for mass in np.sort(exact.mode_masses)[::-1] if mass > 0.01
        )
        rows.append(_row(NAMES[name], masses, label, means, spread))
    return rows


def network_rows() -> list[str]:
    """Return a row for each noise level of a posterior under the digits network."""
    prior = sp.pretrained.load("digits8")

    def model(y: Array) -> None:
        x = jnp.asarray(numpyro.sample("x", sp.ScorePrior(prior)))
        scale = numpyro.sample("noise_scale", dist.HalfNormal(0.5))
        numpyro.sample("y", dist.Normal(x[:4], scale).to_event(2), obs=y)

    digit = prior.sample(jax.random.key(5), num_steps=50)
    y = digit[:4] + 0.3 * jax.random.normal(jax.random.key(6), (4, 8))
    rows = []
    for level in NOISE_LEVELS:
        time = float(prior.noise.time(-2.0 * jnp.log(level)))
        mcmc = MCMC(
            sp.ScoreMALA(model, noise_level=time), num_warmup=1_000, num_samples=4_000,
            num_chains=4, chain_method="vectorized", progress_bar=False,
        )  # fmt: skip
        mcmc.run(jax.random.key(0), y, extra_fields=("position", "target_score"))
        draws = sp.estimators.draws_of(mcmc)
        ink = np.asarray(draws.values["x"]).sum((1, 2))
        ink = (ink - ink.mean()) / ink.std()
        values = np.stack([ink, ink**2, np.exp(0.5 * ink), ink > 0], axis=1)
        found = sp.estimators.expectation(values, draws, control_variates=PARTS["`Stein(1)`"])
        name = f"`digits8`, 64 d, noise {level}"
        rows.append(_row(name, "unknown", "`Stein(1)`", found.variance_reduction, ""))
    return rows


def _row(name: str, masses: str, label: str, gains: np.ndarray, spread: str) -> str:
    found = " | ".join(f"{gain:.1f}" for gain in gains)
    return f"| {name} | {masses} | {label} | {found} | {spread} |"


def main() -> None:
    """Measure, and write the table."""
    lines = [
        "| posterior | masses of modes | control variates | x₀, or ink | sum of squares, or ink² "
        "| exp(x₀ / 2) | 1[x₀ > median] | spread over stated error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        lines += posterior_rows(name)
    lines += network_rows()
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
