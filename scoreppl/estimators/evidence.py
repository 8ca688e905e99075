"""The evidence from path weights, and unweighted draws from weighted ones."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.diagnostics import psis_weights
from blackjax.smc.resampling import systematic
from jax import Array
from jax.typing import ArrayLike

from scoreppl.arguments import check_count
from scoreppl.estimators.draws import check_log_weight

MIN_EFFECTIVE_DRAWS = 10.0
MAX_PARETO_K = 0.7
_REMEDY = "use more draws or steps, another guidance, or sp.AnnealedScoreMCMC"


class Evidence(NamedTuple):
    """An estimate of log E[w] under the discretised prior.

    Attributes
    ----------
    log_evidence
        Log of the mean weight; the mean weight itself is unbiased.
    standard_error
        Of `log_evidence`, by the delta method: sd of the weights over their mean and sqrt(n).
    ess
        Effective number of draws, (sum w)^2 / sum w^2.
    pareto_k
        Shape of the weights' tail (Vehtari et al., arXiv:1507.02646); above 0.7 neither the
        estimate nor its error is reliable.
    """

    log_evidence: float
    standard_error: float
    ess: float
    pareto_k: float


def log_evidence(log_weight: ArrayLike) -> Evidence:
    """Estimate the evidence from log weights, such as the extra field of `sp.GuidedDiffusion`.

    Parameters
    ----------
    log_weight
        Log weights of independent paths, of any shape (chains and draws are pooled).

    Returns
    -------
    Evidence
        The estimate with its error and diagnostics.

    Raises
    ------
    ValueError
        If there are fewer than two draws, a weight is not a number or infinite, or fewer than 10
        draws are effective: a mean of so few weights is no estimate.

    Warns
    -----
    UserWarning
        If the Pareto k exceeds 0.7.
    """
    values = check_log_weight(log_weight)
    peak = values.max()
    weights = np.exp(values - peak)
    mean = weights.mean()
    ess = float(weights.sum() ** 2 / np.sum(weights**2))
    if ess < MIN_EFFECTIVE_DRAWS:
        raise ValueError(
            f"Only {ess:.1f} of {len(values)} draws in `log_weight` are effective, so that "
            f"importance weighting gives no estimate; {_REMEDY}."
        )
    pareto_k = float(psis_weights(jnp.asarray(values - peak))[1])
    if pareto_k > MAX_PARETO_K:
        warnings.warn(
            f"The weights' Pareto k is {pareto_k:.2f}, above {MAX_PARETO_K}: the evidence and "
            f"its error are unreliable; {_REMEDY}.",
            UserWarning,
            stacklevel=2,
        )
    error = float(weights.std(ddof=1) / mean / np.sqrt(len(values)))
    return Evidence(float(peak + np.log(mean)), error, ess, pareto_k)


def resample(key: Array, values: Any, log_weight: ArrayLike, num_samples: int) -> Any:
    """Draw unweighted values from weighted ones, systematically.

    Parameters
    ----------
    key
        PRNG key.
    values
        Array or pytree of arrays whose leading axis runs over the draws.
    log_weight
        Log weights, shape ``(n,)``.
    num_samples
        How many draws to return; the same draw may come several times.

    Returns
    -------
    Any
        As `values`, with leading axis `num_samples`.

    Raises
    ------
    ValueError
        If lengths differ, a weight is not a number, or fewer than 10 draws are effective.

    Warns
    -----
    UserWarning
        If `values` repeat from one draw to the next although the weights do not, as those of a
        Metropolis chain do: weights of proposals are not weights of its draws.
    """
    weights = check_log_weight(log_weight)
    num_samples = check_count("num_samples", num_samples, 1)
    lengths = {len(value) for value in jax.tree.leaves(values)}
    if lengths != {len(weights)}:
        raise ValueError(
            f"`values` has leading axes of {sorted(lengths)}, but `log_weight` has "
            f"{len(weights)} draws; they must agree."
        )
    leaves = [np.asarray(value).reshape(len(weights), -1) for value in jax.tree.leaves(values)]
    repeats = np.all([np.all(leaf[1:] == leaf[:-1], axis=1) for leaf in leaves], axis=0)
    if np.any(repeats & (weights[1:] != weights[:-1])):
        warnings.warn(
            "`values` repeat from draw to draw although `log_weight` does not: a chain with "
            "accept='independence' has the posterior as it is; resample that of accept=None.",
            UserWarning,
            stacklevel=2,
        )
    share = np.exp(weights - np.logaddexp.reduce(weights))
    if 1.0 / np.sum(share**2) < MIN_EFFECTIVE_DRAWS:
        raise ValueError(
            f"Only {1.0 / np.sum(share**2):.1f} of {len(weights)} draws in `log_weight` are "
            f"effective, too few to resample; {_REMEDY}."
        )
    chosen = systematic(key, jnp.asarray(share), num_samples)
    return jax.tree.map(lambda value: jnp.asarray(value)[chosen], values)
