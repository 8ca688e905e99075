"""Four ways to the same expectations, and indices with errors from them."""

import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import norm, qmc, sobol_indices

from case_studies.sobol.model import Model
from scoreppl.estimators import multi_expectation

# Points of both halves at a time: what a program holds in memory.
CHUNK = 4_096


class Found(NamedTuple):
    """Indices and moments of one run, their errors (NaN: none), and what the run cost.

    `kept` is the share of the draws that the estimates come from.
    """

    value: np.ndarray
    error: np.ndarray
    evaluations: int
    seconds: float
    largest_k: float = -np.inf
    kept: float = 1.0


def index_names(model: Model) -> list[str]:
    """Return the names of what is reported: indices instead of parts of the variance."""
    return [name.replace("V(", "S(").replace("T(", "ST(") for name in model.names]


def indices(model: Model, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn expectations into indices and moments; also return the Jacobian, for their errors."""
    count = model.num_parts
    mean, square = value[count], value[count + 1]
    variance = square - mean**2
    found, slope = np.array(value, np.float64), np.eye(len(value))
    found[:count] /= variance
    slope[:count] /= variance
    slope[:count, count] = 2 * mean * found[:count] / variance
    slope[:count, count + 1] = -found[:count] / variance
    return found, slope


def delta_method(slope: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return standard errors; NaN where an expectation whose function no draw met leaves none."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.diag(slope @ covariance @ slope.T))


@partial(jax.jit, static_argnums=0)
def _batch(function: Callable[[Array], Any], points: Array) -> Any:
    return jax.vmap(function)(points)


def evaluate(function: Callable[[Array], Any], points: np.ndarray) -> Any:
    """Evaluate at many points, in chunks of one shape."""
    rows = np.asarray(points, np.float32)
    padded = np.concatenate([rows, np.repeat(rows[:1], -len(rows) % CHUNK, 0)])
    chunks = padded.reshape(-1, CHUNK, rows.shape[1])
    found = [jax.device_get(_batch(function, jnp.asarray(chunk))) for chunk in chunks]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)].astype(float), *found)


def at_once(model: Model, seed: int, num_points: int) -> Found:
    """Estimate all expectations from one adapted sample."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the largest Pareto k is reported
        found = multi_expectation(
            jax.random.key(seed), model.expectations, size=model.point_size, num_draws=num_points
        )
    value, slope = indices(model, found.value)
    error = delta_method(slope, found.covariance)
    seconds = time.perf_counter() - start
    cost = found.num_evaluations * model.cost
    kept = found.num_draws / found.num_evaluations
    return Found(value, error, cost, seconds, float(found.pareto_k.max()), kept)


@cache
def _single(model: Model, index: int) -> tuple[Callable[[Array], Array], int]:
    return model.single(index)  # always the same function, so that it is compiled once


def one_by_one(model: Model, seed: int, num_points: int) -> Found:
    """Estimate each expectation by itself, each with the same part of the same total budget."""
    start, budget = time.perf_counter(), num_points * model.cost // len(model.names)
    found, cost = [], 0
    keys = jax.random.split(jax.random.key(seed), len(model.names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for index, (key, each) in enumerate(zip(keys, model.costs, strict=True)):
            function, size = _single(model, index)
            found.append(multi_expectation(key, function, size=size, num_draws=budget // each))
            cost += found[-1].num_evaluations * each
    value, slope = indices(model, np.array([each.value[0] for each in found]))
    covariance = np.diag([each.covariance[0, 0] for each in found])
    error = delta_method(slope, covariance)
    largest = max(float(each.pareto_k[0]) for each in found)
    return Found(value, error, cost, time.perf_counter() - start, largest)


def pick_freeze(model: Model, seed: int, num_points: int) -> Found:
    """Estimate all expectations from one plain sample."""
    start = time.perf_counter()
    points = np.random.default_rng(seed).standard_normal((num_points, model.point_size))
    drawn = np.asarray(evaluate(model.expectations, points))
    value, slope = indices(model, drawn.mean(0))
    error = delta_method(slope, np.cov(drawn.T) / num_points)
    return Found(value, error, num_points * model.cost, time.perf_counter() - start)


def quasi_random(model: Model, seed: int, num_points: int) -> Found:
    """Estimate by `scipy.stats.sobol_indices` from scrambled Sobol' points; no errors."""
    start = time.perf_counter()
    uniform = qmc.Sobol(model.point_size, rng=seed).random(num_points)
    points = norm.ppf(np.clip(uniform, 1e-12, 1 - 1e-7))
    value = np.asarray(evaluate(model.expectations, points)).mean(0)
    if model.with_indices:
        first, second, mixed = evaluate(model.outputs, points)
        outputs = {"f_A": first[None], "f_B": second[None], "f_AB": mixed.T[:, None]}
        found = sobol_indices(func=outputs, n=num_points)
        value[: model.num_parts] = [*found.first_order.ravel(), *found.total_order.ravel()]
    seconds = time.perf_counter() - start
    return Found(value, np.full(len(value), np.nan), num_points * model.cost, seconds)


METHODS = {
    "all at once": at_once,
    "one by one": one_by_one,
    "plain draws": pick_freeze,
    "Sobol' points": quasi_random,
}
