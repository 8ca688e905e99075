"""The samplers compared: each gives runs of draws, their weights where they have any, and costs."""

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm
from numpyro.infer import MCMC, NUTS

import scoreppl as sp
from case_studies.eight_schools.model import (
    ERRORS,
    SCORES,
    exact,
    hierarchical,
    learned,
    to_effects,
)

NUM_RUNS = 20


class Drawn(NamedTuple):
    """What a sampler gave.

    Attributes
    ----------
    effects
        In points, shape ``(runs, draws, 8)``; runs are independent of each other.
    log_weight
        Shape ``(runs, draws)``; zeros for draws of equal weight.
    log_evidence
        Of each run, shape ``(runs,)``, or None.
    score_evaluations
        A run, warm-up included; 0 for NUTS on the hierarchy.
    density_evaluations
        A run, warm-up included, of the model's density or its gradient.
    seconds
        Of all runs together, with compilation.
    accept_prob
        Mean acceptance of Metropolis moves after the warm-up, or None.
    """

    effects: np.ndarray
    log_weight: np.ndarray
    log_evidence: np.ndarray | None
    score_evaluations: float
    density_evaluations: float
    seconds: float
    accept_prob: float | None


class Cost(NamedTuple):
    """Names of the extra fields that count evaluations."""

    score: str | None = "num_score_evaluations"
    density: str | None = None


def by_chains(
    kernel: Any, key: Array, num_warmup: int, num_samples: int, *args: Any,
    cost: Cost = Cost(), accept: bool = True,
) -> tuple[Drawn, dict[str, np.ndarray]]:  # fmt: skip
    """Run `NUM_RUNS` chains of a NumPyro kernel; also return the extra fields by chain."""
    start = time.perf_counter()
    mcmc = MCMC(
        kernel, num_warmup=num_warmup, num_samples=num_samples, num_chains=NUM_RUNS,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    counted = tuple(name for name in cost if name is not None)
    with warnings.catch_warnings():
        # ScoreNUTS warns of networks, and the report says what comes of it.
        warnings.filterwarnings("ignore", message=".*curl.*")
        mcmc.warmup(key, *args, extra_fields=counted, collect_warmup=True)
        spent = mcmc.get_extra_fields()
        fields = {*counted, *(("log_weight",) if isinstance(kernel, sp.GuidedDiffusion) else ())}
        mcmc.run(key, *args, extra_fields=(*fields, *(("accept_prob",) if accept else ())))
    effects = np.asarray(mcmc.get_samples(group_by_chain=True)["theta"], np.float64)
    extra = {k: np.asarray(v) for k, v in mcmc.get_extra_fields(group_by_chain=True).items()}
    totals = {
        name: (np.sum(spent[name], dtype=float) + np.sum(extra[name], dtype=float)) / NUM_RUNS
        for name in counted
    }
    drawn = Drawn(
        effects,
        np.zeros(effects.shape[:2]),
        None,
        totals.get(cost.score, 0.0) if cost.score else 0.0,
        totals.get(cost.density, 0.0) if cost.density else 0.0,
        time.perf_counter() - start,
        float(extra["accept_prob"].mean()) if accept else None,
    )
    return drawn, extra


def nuts(key: Array, prior: sp.ScoreModel) -> Drawn:
    """NumPyro's NUTS on the hierarchy; it does not use the network."""
    kernel = NUTS(hierarchical, target_accept_prob=0.95)
    return by_chains(kernel, key, 500, 2000, cost=Cost(None, "num_steps"))[0]


def mala(key: Array, prior: sp.ScoreModel) -> Drawn:
    """ScoreMALA: local moves at the lowest noise level."""
    return by_chains(sp.ScoreMALA(learned, dense_mass=True), key, 1000, 4000, prior)[0]


def score_nuts(key: Array, prior: sp.ScoreModel) -> Drawn:
    """ScoreNUTS, which the library advises against on networks."""
    return by_chains(sp.ScoreNUTS(learned, dense_mass=True), key, 500, 1000, prior)[0]


def annealed(key: Array, prior: sp.ScoreModel) -> Drawn:
    """AnnealedScoreMCMC with as many sweeps as the README advises in few dimensions."""
    kernel = sp.AnnealedScoreMCMC(learned, steps_per_level=12, block_size=32)
    return by_chains(kernel, key, 32, 224, prior)[0]


def annealed_once(key: Array, prior: sp.ScoreModel) -> Drawn:
    """AnnealedScoreMCMC as it comes: one sweep a level."""
    return by_chains(sp.AnnealedScoreMCMC(learned, block_size=32), key, 32, 224, prior)[0]


def guided(key: Array, prior: sp.ScoreModel) -> Drawn:
    """GuidedDiffusion: independent guided paths in a Metropolis chain, and their evidence."""
    kernel = sp.GuidedDiffusion(learned)
    drawn, extra = by_chains(kernel, key, 64, 512, prior)
    found = [sp.estimators.log_evidence(weights).log_evidence for weights in extra["log_weight"]]
    return drawn._replace(log_evidence=np.array(found))


def particles(key: Array, prior: sp.ScoreModel) -> Drawn:
    """ScoreSMC by guided paths."""
    start = time.perf_counter()
    smc = sp.ScoreSMC(learned, num_particles=500, num_steps=50, num_runs=NUM_RUNS)
    smc.run(key, prior)
    samples, log_weight = smc.get_weighted_samples()
    log_weight = np.asarray(log_weight, np.float64).reshape(NUM_RUNS, -1)
    return Drawn(
        np.asarray(samples["theta"], np.float64).reshape(NUM_RUNS, -1, len(SCORES)),
        log_weight,
        _log_mean(log_weight),
        smc.result.num_score_evaluations / NUM_RUNS,
        0.0,
        time.perf_counter() - start,
        None,
    )


def brute_force(
    key: Array, prior: sp.ScoreModel, num_draws: int = 20_000, num_steps: int = 50
) -> Drawn:
    """Draw from the network alone and weigh by the likelihood: the network's own posterior."""
    start = time.perf_counter()

    @jax.jit
    def run(key: Array) -> tuple[Array, Array]:
        effects = to_effects(prior.sample(key, (num_draws,), num_steps=num_steps))
        return effects, jnp.sum(norm.logpdf(SCORES, effects, ERRORS), -1)

    found = [run(key) for key in jax.random.split(key, NUM_RUNS)]
    effects, log_weight = (np.asarray(v, np.float64) for v in map(np.stack, zip(*found)))
    seconds = time.perf_counter() - start
    cost = num_draws * num_steps
    return Drawn(effects, log_weight, _log_mean(log_weight), cost, 0.0, seconds, None)


def proposed(key: Array, network: sp.ScoreModel, *, local: str | None = "nuts") -> Drawn:
    """DiffusionMH: the hierarchy's density, with the network as a proposal alone."""
    kernel = sp.DiffusionMH(exact, {"z": network}, local=local)
    cost = Cost(density="num_density_evaluations")
    return by_chains(kernel, key, 500, 1000, cost=cost)[0]


def _log_mean(log_weight: np.ndarray) -> np.ndarray:
    peak = log_weight.max(1, keepdims=True)
    return peak[:, 0] + np.log(np.mean(np.exp(log_weight - peak), 1))


Method = Callable[[Array, sp.ScoreModel], Drawn]
ON_NETWORK: dict[str, Method] = {
    "prior draws, weighed": brute_force,
    "`GuidedDiffusion`": guided,
    "`ScoreSMC`": particles,
    "`AnnealedScoreMCMC`": annealed,
    "the same, one sweep a level": annealed_once,
    "`ScoreMALA`": mala,
    "`ScoreNUTS`": score_nuts,
}
