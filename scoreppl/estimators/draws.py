"""Weighted draws as the estimators see them, whoever made them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Batches of a chain: enough for a spread, long enough to be nearly independent of each other.
_NUM_BATCHES = 32


class WeightedDraws(NamedTuple):
    """Draws, their weights, and which of them depend on each other; see `weighted_draws`.

    Attributes
    ----------
    values
        Arrays by site, leading axis over the draws.
    log_weight
        Log weights, shape ``(n,)``, in double precision.
    cluster
        Number of the cluster of each draw, shape ``(n,)``: those of different clusters are
        independent, or nearly so.
    position, score
        Unconstrained position and gradient of the log target there, both of shape ``(n, d)``, for
        Stein control variates; or None.
    """

    values: dict[str, np.ndarray]
    log_weight: np.ndarray
    cluster: np.ndarray
    position: np.ndarray | None = None
    score: np.ndarray | None = None


def weighted_draws(
    values: Mapping[str, ArrayLike],
    log_weight: ArrayLike | None = None,
    *,
    cluster: ArrayLike | None = None,
    position: ArrayLike | None = None,
    score: ArrayLike | None = None,
) -> WeightedDraws:
    """Check draws for the estimators.

    Parameters
    ----------
    values
        Arrays by site, leading axis over the draws.
    log_weight
        Log weights, shape ``(n,)``; -inf for draws without weight. None: all weigh the same, one.
    cluster
        A whole number for each draw, shape ``(n,)``: draws of one number may depend on each other.
        None: all are independent.
    position, score
        Unconstrained positions and gradients of the log target at them, leading axis over the
        draws, for Stein control variates.

    Returns
    -------
    WeightedDraws
        The same in double precision.

    Raises
    ------
    ValueError
        If lengths differ, a weight is NaN or infinite, or no draw has a weight.
    """
    arrays = {name: np.asarray(value) for name, value in values.items()}
    lengths = {name: len(value) for name, value in arrays.items() if np.ndim(value)}
    count = (
        len(np.asarray(log_weight)) if log_weight is not None else max(lengths.values(), default=0)
    )
    if set(lengths.values()) != {count} or len(lengths) != len(arrays) or count < 2:
        raise ValueError(
            f"`values` have leading axes {lengths or 'of no length'} and `log_weight` has {count} "
            "draws; they must agree, and be at least two."
        )
    weights = check_log_weight(np.zeros(count) if log_weight is None else log_weight)
    numbers = np.arange(count) if cluster is None else np.asarray(cluster)
    if numbers.shape != (count,):
        raise ValueError(f"`cluster` has shape {numbers.shape}; it must be ({count},).")
    numbers = np.unique(numbers, return_inverse=True)[1]
    return WeightedDraws(
        arrays, weights, numbers,
        _rows("position", position, count), _rows("score", score, count),
    )  # fmt: skip


def draws_of(result: Any) -> WeightedDraws:
    """Read draws off a finished run.

    Parameters
    ----------
    result
        `WeightedDraws`, a `sp.ScoreSMC` or a NumPyro ``MCMC`` after its run. Chains are cut into
        about 32 batches, taken as independent; draws of `sp.AnnealedScoreMCMC` and of
        `sp.GuidedDiffusion` with ``accept=None`` are independent as they are, and the latter need
        the extra field ``log_weight``. Particles that descend from one particle are a cluster.

    Raises
    ------
    ValueError
        If `result` is none of these or has not been run, or weights were not recorded.
    """
    if isinstance(result, WeightedDraws):
        return result
    if hasattr(result, "get_weighted_samples"):
        values, log_weight = result.get_weighted_samples()
        return weighted_draws(values, log_weight, cluster=result.result.lineage)
    if not hasattr(result, "get_extra_fields"):
        raise ValueError(
            f"`result` of type {type(result).__name__} has no draws; use a finished MCMC or "
            "sp.ScoreSMC, or sp.estimators.weighted_draws(values, log_weight)."
        )
    try:
        samples = result.get_samples(group_by_chain=True)
    except (AssertionError, AttributeError) as error:
        raise ValueError("`result` has no draws yet: call its `run` first.") from error
    fields = result.get_extra_fields(group_by_chain=True)
    num_chains, num_draws = np.shape(next(iter(samples.values())))[:2]
    kernel = result.sampler
    log_weight = None
    if getattr(kernel, "draws_are_weighted", False):
        if "log_weight" not in fields:
            raise ValueError(
                "The draws of this kernel are weighted: run it with `extra_fields=('log_weight',)`."
            )
        log_weight = np.reshape(fields["log_weight"], -1)
    elif "diverging" in fields and getattr(kernel, "draws_are_independent", False):
        # An annealed draw that ended where there is no weight.
        log_weight = np.where(np.reshape(fields["diverging"], -1), -np.inf, 0.0)
    if getattr(kernel, "draws_are_independent", False):
        cluster = np.arange(num_chains * num_draws)
    else:
        each = max(min(-(-_NUM_BATCHES // num_chains), num_draws // 2), 1)
        batch = np.arange(num_draws) * each // num_draws
        cluster = (np.arange(num_chains)[:, None] * each + batch).ravel()
    return weighted_draws(
        {name: _joined(value) for name, value in samples.items()},
        log_weight,
        cluster=cluster,
        position=_vectors(fields.get("position")),
        score=_vectors(fields.get("target_score")),
    )


def check_log_weight(log_weight: ArrayLike) -> np.ndarray:
    """Return log weights as a vector in double precision, some of which is finite."""
    values = np.asarray(log_weight, np.float64).ravel()
    if len(values) < 2:
        raise ValueError(f"`log_weight` has {len(values)} draws; at least two are needed.")
    if np.any(np.isnan(values)) or np.any(values == np.inf):
        raise ValueError(
            "`log_weight` has values that are not a number or infinite; a draw that has no "
            "weight should have -inf."
        )
    if np.all(values == -np.inf):
        raise ValueError(
            "`log_weight` is -inf for every draw: none has met the data or the event; check the "
            "model, or use more draws or steps, another guidance, or sp.AnnealedScoreMCMC."
        )
    return values


def _joined(value: Any) -> np.ndarray:
    """Merge the axes of chains and draws."""
    array = np.asarray(value)
    return array.reshape(-1, *array.shape[2:])


def _vectors(tree: Any) -> np.ndarray | None:
    """Return a field of arrays by site, axes chain and draw, as vectors, sites in their order."""
    if tree is None:
        return None
    leaves = [_joined(tree[name]) for name in sorted(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _rows(name: str, value: ArrayLike | None, count: int) -> np.ndarray | None:
    if value is None:
        return None
    rows = np.asarray(value, np.float64)
    if rows.ndim == 0 or len(rows) != count:
        raise ValueError(f"`{name}` has shape {rows.shape}; its first axis must be {count} draws.")
    rows = rows.reshape(count, -1)
    if not np.all(np.isfinite(rows)):
        raise ValueError(f"`{name}` has values that are not finite.")
    return rows
