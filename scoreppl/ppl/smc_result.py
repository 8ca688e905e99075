"""What a run of ScoreSMC found: weighted particles, the evidence and how far to trust them."""

import warnings
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.diagnostics import psis_weights
from blackjax.smc.resampling import multinomial
from jax import Array

from scoreppl.estimators.evidence import resample
from scoreppl.ppl.potential import Values
from scoreppl.samplers.guided import Particles
from scoreppl.samplers.smc import Scheme, Trace, lineage_variance

# Below this share of ancestors the evidence of FeynmanKac was off by several of its errors.
_FEW_ANCESTORS = 0.05


class SMCResult(NamedTuple):
    """Weighted particles of one or several pooled runs.

    Attributes
    ----------
    samples
        Constrained values and deterministic sites, leading axis over all particles.
    log_weight
        Their log weights, of mean weight equal to the evidence.
    log_evidence
        Log of the mean of the runs' evidence.
    log_evidence_error
        Its standard error from the lineages (`scoreppl.samplers.smc.lineage_variance`); NaN for
        waste-free moves, of which lineages say nothing.
    log_evidence_error_of_runs
        Its standard error from the spread over runs; NaN for a single run.
    ess
        Effective particles by the last weights. A good one proves nothing of the levels before:
        see `num_ancestors`.
    pareto_k
        Shape of the tail of the last weights; above 0.7 estimates are unreliable.
    num_ancestors
        Particles of the start that have descendants, all runs together.
    lineage
        Which particle of the start each comes from, those of different runs apart; the run where
        moves mix lineages.
    num_lost_runs
        Runs in which no particle kept a weight; their evidence counts as zero.
    trace
        Effective particles, resamplings and ancestors by level, leading axis over the runs.
    num_score_evaluations
        Of all particles and runs together, pilots left out.
    """

    samples: Values
    log_weight: np.ndarray
    log_evidence: float
    log_evidence_error: float
    log_evidence_error_of_runs: float
    ess: float
    pareto_k: float
    num_ancestors: int
    lineage: np.ndarray
    num_lost_runs: int
    trace: Trace
    num_score_evaluations: int

    def summary(self) -> str:
        """Return a few lines on evidence, particles and cost."""
        resampled = np.asarray(self.trace.is_resampled).sum() / len(self.trace.is_resampled)
        of_runs = self.log_evidence_error_of_runs
        lines = [
            f"log evidence         {self.log_evidence:.3f} ± {self.log_evidence_error:.3f}"
            + ("" if np.isnan(of_runs) else f" (between runs ± {of_runs:.3f})"),
            f"effective particles  {self.ess:.0f} of {len(self.log_weight)}",
            f"ancestors            {self.num_ancestors}, resampled {resampled:g} times a run",
            f"Pareto k             {self.pareto_k:.2f}",
            f"score evaluations    {self.num_score_evaluations}",
        ]
        if self.num_lost_runs:
            lines.append(f"runs without weight  {self.num_lost_runs}")
        return "\n".join(lines)

    def to_inference_data(self, key: Array) -> Any:
        """Resample as many draws as particles, for ArviZ."""
        import arviz as az  # costs a second, which importing the package should not

        size = len(self.log_weight)
        numbered = {**self.samples, "particle": jnp.arange(size)}
        draws = resample(key, numbered, self.log_weight, size)
        particle = np.asarray(draws.pop("particle"))
        stats = {"log_weight": self.log_weight[particle], "particle": particle}
        data = (
            az.from_dict(
                {
                    "posterior": {name: np.asarray(value)[None] for name, value in draws.items()},
                    "sample_stats": {name: value[None] for name, value in stats.items()},
                }
            )
            if _takes_groups(az)
            else az.from_dict(
                posterior={name: np.asarray(value)[None] for name, value in draws.items()},
                sample_stats={name: value[None] for name, value in stats.items()},
            )
        )
        data.attrs.update(
            kernel="ScoreSMC",
            scoreppl_version=version("scoreppl"),
            log_evidence=self.log_evidence,
            log_evidence_error=self.log_evidence_error,
            ess=self.ess,
            pareto_k=self.pareto_k,
            num_ancestors=self.num_ancestors,
            num_lost_runs=self.num_lost_runs,
            num_score_evaluations=self.num_score_evaluations,
        )
        return data


def _takes_groups(az: Any) -> bool:
    """Whether ArviZ is 1.x, whose ``from_dict`` takes one dictionary of groups."""
    return int(az.__version__.split(".")[0]) >= 1


def check_some_weight(runs: Particles, corrector: Any, has_weight: bool) -> None:
    """Refuse runs in which no particle has weight, and say what may help.

    Parameters
    ----------
    runs
        Particles with leading axes over runs and particles.
    corrector
        The corrector that they were run with, or None.
    has_weight
        Whether there is a weight beside the score model.
    """
    if np.any(np.isfinite(runs.log_weight)):
        return
    nothing = "Every particle has weight zero: "
    if not has_weight:
        raise ValueError(
            f"{nothing}there is no weight but the score model's own, so it returned NaN or "
            "infinite values wherever the particles are. Check the network and its `prediction`."
        )
    if corrector is None:
        raise ValueError(
            f"{nothing}the weight is zero or not a number wherever the particles end. Check the "
            "model, use more particles, or a guidance that finds where the weight is: for an "
            "event, sp.guidance.LimitState."
        )
    raise ValueError(
        f"{nothing}`corrector={type(corrector).__name__}` asks the weight of noisy particles, too, "
        "and an indicator or a bounded support is zero for most of them. Use `corrector=None` with "
        "a guidance that needs no gradient, such as sp.guidance.RandomNumbers() or LimitState, or "
        "smooth the weight; if it should be zero nowhere, check the model for NaN."
    )


def warn_of_few_ancestors(result: SMCResult) -> None:
    """Warn where the evidence and its error rest on few particles of the start."""
    num_runs, size = len(result.trace.ess), len(result.log_weight)
    if result.num_ancestors < _FEW_ANCESTORS * size:
        warnings.warn(
            f"Only {result.num_ancestors} of {size} particles of the start have descendants: the "
            "evidence and its error are unreliable, however many particles are effective at the "
            "end. Take more steps, another corrector or `num_level_pilots`, and compare "
            + ("runs (`num_runs`)." if num_runs == 1 else "the runs."),
            UserWarning,
            stacklevel=3,
        )


def pooled(
    runs: Particles,
    samples: Values,
    num_evaluations: int,
    scheme: Scheme,
    log_shares: np.ndarray,
) -> SMCResult:
    """Pool runs by their evidence: a run's particles share the weight that it found.

    Parameters
    ----------
    runs
        Particles with leading axes over runs and particles.
    samples
        Constrained values, with one leading axis over all particles.
    num_evaluations
        Score evaluations of all runs.
    scheme
        How particles were resampled.
    log_shares
        Log probabilities of the choices that mixtures were taken apart into; runs come in groups
        of as many, whose evidence adds up to that of the mixture.
    """
    num_runs, size = runs.log_weight.shape
    num_groups = num_runs // len(log_shares)
    shares = np.tile(np.asarray(log_shares, np.float64), num_groups) + np.log(len(log_shares))
    evidence = np.asarray(runs.log_evidence, np.float64) + shares
    weights = np.asarray(runs.log_weight, np.float64)
    total = np.logaddexp.reduce(weights, axis=1)
    known = np.isfinite(total)
    relative = np.full(num_runs, -np.inf)
    relative[known] = evidence[known] - total[known] + np.log(size)
    log_weight = (weights + relative[:, None]).ravel()
    peak = evidence[known].max()
    each = np.where(known, np.exp(evidence - peak), 0.0)
    is_multinomial = scheme is multinomial
    resamplings = jnp.sum(runs.trace.is_resampled, axis=1) * is_multinomial
    variances = jax.vmap(lineage_variance)(runs.log_weight, runs.ancestor, resamplings)
    variances = np.where(known, variances, 0.0)
    error = np.sqrt(np.sum(each**2 * variances)) / each.sum()
    of_groups = each.reshape(num_groups, -1).mean(1)
    spread = np.nan
    if num_groups > 1:
        spread = of_groups.std(ddof=1) / of_groups.mean() / np.sqrt(num_groups)
    share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    finite = log_weight - log_weight.max()
    return SMCResult(
        samples=samples,
        log_weight=log_weight,
        log_evidence=float(peak + np.log(each.mean())),
        log_evidence_error=float(error),
        log_evidence_error_of_runs=float(spread),
        ess=float(1.0 / np.sum(share**2)),
        pareto_k=float(np.asarray(psis_weights(jnp.asarray(finite))[1])),
        num_ancestors=int(np.sum(np.asarray(runs.trace.num_ancestors)[:, -1])),
        lineage=(np.asarray(runs.ancestor) + np.arange(num_runs)[:, None] * size).ravel(),
        num_lost_runs=int(np.sum(~known)),
        trace=runs.trace,
        num_score_evaluations=num_evaluations,
    )
