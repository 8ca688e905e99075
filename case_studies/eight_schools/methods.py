"""The samplers compared: each gives runs of draws, their weights where they have any, and costs."""

import time
import warnings
from collections.abc import Callable
from functools import partial
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
    num_warmup
        Draws of a run that were thrown away.
    score_evaluations, density_evaluations
        A draw, mean after the warm-up: of the network, and of the model's density or its gradient
        where that is a known one.
    seconds
        Of the processor, for all runs together, with compilation.
    accept_prob
        Mean acceptance of Metropolis moves after the warm-up, or None.
    """

    effects: np.ndarray
    log_weight: np.ndarray
    log_evidence: np.ndarray | None
    num_warmup: int
    score_evaluations: float
    density_evaluations: float
    seconds: float
    accept_prob: float | None


def by_chains(
    kernel: Any, key: Array, num_warmup: int, num_samples: int, *args: Any,
    fields: tuple[str, ...] = ("num_score_evaluations",),
) -> tuple[Drawn, dict[str, np.ndarray]]:  # fmt: skip
    """Run `NUM_RUNS` chains of a NumPyro kernel; also return the extra fields by chain."""
    start = time.process_time()
    mcmc = MCMC(
        kernel, num_warmup=num_warmup, num_samples=num_samples, num_chains=NUM_RUNS,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        # ScoreNUTS warns of networks, and the tables say what comes of it.
        warnings.filterwarnings("ignore", message=".*curl.*")
        mcmc.run(key, *args, extra_fields=(*fields, "accept_prob"))
    effects = np.asarray(mcmc.get_samples(group_by_chain=True)["theta"], np.float64)
    extra = {k: np.asarray(v) for k, v in mcmc.get_extra_fields(group_by_chain=True).items()}
    mean = {name: float(np.mean(value, dtype=float)) for name, value in extra.items()}
    drawn = Drawn(
        effects,
        np.zeros(effects.shape[:2]),
        None,
        num_warmup,
        mean.get("num_score_evaluations", 0.0),
        mean.get("num_density_evaluations", mean.get("num_steps", 0.0)),
        time.process_time() - start,
        mean["accept_prob"],
    )
    return drawn, extra


def nuts(key: Array) -> Drawn:
    """NumPyro's NUTS on the hierarchy; it does not use the network."""
    kernel = NUTS(hierarchical, target_accept_prob=0.95)
    return by_chains(kernel, key, 500, 1000, fields=("num_steps",))[0]


def mala(key: Array, prior: sp.ScoreModel) -> Drawn:
    """ScoreMALA: local moves at the lowest noise level."""
    return by_chains(sp.ScoreMALA(learned, dense_mass=True), key, 500, 2000, prior)[0]


def score_nuts(key: Array, prior: sp.ScoreModel) -> Drawn:
    """ScoreNUTS, which the library advises against on networks."""
    return by_chains(sp.ScoreNUTS(learned, dense_mass=True), key, 200, 300, prior)[0]


def annealed(key: Array, prior: sp.ScoreModel, steps_per_level: int = 1) -> Drawn:
    """AnnealedScoreMCMC: independent draws, each annealed from noise."""
    kernel = sp.AnnealedScoreMCMC(learned, steps_per_level=steps_per_level, block_size=16)
    num_samples = 96 if steps_per_level == 1 else 32
    return by_chains(kernel, key, 16, num_samples, prior)[0]


def guided(key: Array, prior: sp.ScoreModel) -> Drawn:
    """GuidedDiffusion: independent guided paths in a Metropolis chain, and their evidence."""
    kernel = sp.GuidedDiffusion(learned, num_steps=32)
    fields = ("num_score_evaluations", "log_weight")
    drawn, extra = by_chains(kernel, key, 64, 128, prior, fields=fields)
    found = [sp.estimators.log_evidence(weights).log_evidence for weights in extra["log_weight"]]
    return drawn._replace(log_evidence=np.array(found))


def particles(key: Array, prior: sp.ScoreModel) -> Drawn:
    """ScoreSMC by guided paths."""
    start = time.process_time()
    smc = sp.ScoreSMC(learned, num_particles=200, num_steps=32, num_runs=NUM_RUNS)
    smc.run(key, prior)
    samples, log_weight = smc.get_weighted_samples()
    log_weight = np.asarray(log_weight, np.float64).reshape(NUM_RUNS, -1)
    return Drawn(
        np.asarray(samples["theta"], np.float64).reshape(NUM_RUNS, -1, len(SCORES)),
        log_weight,
        _log_mean(log_weight),
        0,
        smc.result.num_score_evaluations / log_weight.size,
        0.0,
        time.process_time() - start,
        None,
    )


def weighed(key: Array, prior: sp.ScoreModel, num_draws: int = 4_000, num_steps: int = 60) -> Drawn:
    """Draw from the network alone and weigh by the likelihood: the network's own posterior.

    Thirty steps raise the log evidence by 0.03, and 120 give what sixty do.
    """
    start = time.process_time()

    @jax.jit
    def run(prior: sp.ScoreModel, key: Array) -> tuple[Array, Array]:
        effects = to_effects(prior.sample(key, (num_draws,), num_steps=num_steps))
        return effects, jnp.sum(norm.logpdf(effects, SCORES, ERRORS), -1)

    found = [run(prior, key) for key in jax.random.split(key, NUM_RUNS)]
    effects, log_weight = (np.stack(v).astype(np.float64) for v in zip(*found, strict=True))
    seconds = time.process_time() - start
    return Drawn(effects, log_weight, _log_mean(log_weight), 0, num_steps, 0.0, seconds, None)


def proposed(key: Array, network: sp.ScoreModel) -> Drawn:
    """DiffusionMH: the hierarchy's density, with the network as a proposal alone."""
    kernel = sp.DiffusionMH(exact, {"z": network}, num_levels=8)
    fields = ("num_score_evaluations", "num_density_evaluations")
    # Chains begin in the prior's tails: 150 draws of warm-up left the spread two or three per cent
    # too large.
    return by_chains(kernel, key, 500, 400, fields=fields)[0]


def _log_mean(log_weight: np.ndarray) -> np.ndarray:
    peak = log_weight.max(1, keepdims=True)
    return peak[:, 0] + np.log(np.mean(np.exp(log_weight - peak), 1))


Method = Callable[[Array, sp.ScoreModel], Drawn]
# The first has no sampler's error but chance: it is the network's posterior.
OWN = "draws of the network, weighed"
ON_NETWORK: dict[str, Method] = {
    OWN: weighed,
    "`GuidedDiffusion`": guided,
    "`ScoreSMC`": particles,
    "`AnnealedScoreMCMC`": annealed,
    "`AnnealedScoreMCMC`, two sweeps a level": partial(annealed, steps_per_level=2),
    "`ScoreMALA`": mala,
    "`ScoreNUTS`": score_nuts,
}
