"""Ways to the probability of an event, each twenty times with an interval of its own."""

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import t as student

from case_studies.rare_event.form import SEARCH_COST, at_design_point
from case_studies.rare_event.problems import Problem
from scoreppl import correctors
from scoreppl.estimators import GuidedPaths, Splitting, Tempering, rare_event
from scoreppl.score import ScoreModel, flow_map

# Runs that one estimate pools, where a run by itself has no honest error.
NUM_RUNS = 4
FORM_DRAWS, FLOW_STEPS = 1_000, 50
Method = GuidedPaths | Splitting
State = Callable[[Array], Array]


class Estimates(NamedTuple):
    """Independent estimates of one probability.

    Attributes
    ----------
    log_probability, standard_error
        Shapes ``(n,)``; -inf and infinite where no draw met the event.
    freedom
        Degrees of freedom of the standard errors.
    evaluations, states
        Of the score and of the limit state, of one estimate; the latter NaN where not counted.
    seconds
        Of all together, with compilation.
    """

    log_probability: np.ndarray
    standard_error: np.ndarray
    freedom: int
    evaluations: float
    states: float
    seconds: float

    @property
    def interval(self) -> np.ndarray:
        """Intervals of 95 % for the log probabilities, shape ``(2, n)``, from Student's t.

        NaN where no draw met the event.
        """
        reach = student.ppf(0.975, self.freedom) * self.standard_error
        with np.errstate(invalid="ignore"):
            return np.array([self.log_probability - reach, self.log_probability + reach])


def pooled(log_probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log means and their relative errors along the last axis, as `rare_event` does."""
    peak = log_probability.max(-1, keepdims=True)
    each = np.exp(log_probability - np.where(np.isfinite(peak), peak, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = each.std(-1, ddof=1) / each.mean(-1) / np.sqrt(each.shape[-1])
        return np.log(each.mean(-1)) + peak[..., 0], np.where(np.isnan(error), np.inf, error)


def by_rare_event(
    model: ScoreModel, limit_state: State, method: Method, key: Array, num_estimates: int
) -> Estimates:
    """Estimate in one call, whose independent runs are then told apart.

    Independent paths give an error from a single run; all else pools `NUM_RUNS` runs.
    """
    start = time.perf_counter()
    is_independent = isinstance(method, GuidedPaths) and method.resampling is None
    each = 1 if is_independent else NUM_RUNS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of heavy tails: the intervals are judged
        found = rare_event(
            key, model, limit_state, method=method, num_runs=each * num_estimates
        )  # fmt: skip
    if is_independent:
        logs = np.asarray(found.draws.log_weight, np.float64).reshape(num_estimates, -1)
    else:
        logs = found.log_probability_of_runs.reshape(num_estimates, each)
    evaluations = found.num_score_evaluations / num_estimates
    size = int(np.prod(model.event_shape))
    states = each * _num_states(method, size, evaluations / each, model.has_log_density)
    seconds = time.perf_counter() - start
    return Estimates(*pooled(logs), logs.shape[1] - 1, evaluations, states, seconds)


def _num_states(method: Method, size: int, evaluations: float, has_density: bool) -> float:
    """Count evaluations of the limit state in a run; one with its gradient counts as one."""
    if isinstance(method, GuidedPaths):
        # Twice the dimension for the sigma points of each step, and once at the end.
        is_default = method.guidance is None
        return method.num_paths * (method.num_steps * 2 * size + 1) if is_default else np.nan
    each = evaluations / method.num_particles
    if method.flow_steps:
        return method.num_particles * each / method.flow_steps
    # Of a move, at two evaluations of the score or three; the start took 101.
    return method.num_particles * (1 + (each - 101) / (3 if has_density else 2))


def by_branches(
    model: ScoreModel,
    branches: Sequence[State],
    method: GuidedPaths,
    key: Array,
    num_estimates: int,
) -> Estimates:
    r"""Estimate the probability of a union, led to one of its events at a time.

    With N(x) the number of the events :math:`A_i` that hold x,
    :math:`P(\cup A_i) = \sum_i E[1_{A_i}(x) / N(x)]`; the paths to each event are independent.
    """
    start = time.perf_counter()
    evaluations, means, variances = 0.0, [], []
    count_of = jax.jit(jax.vmap(lambda x: sum((b(x) > 0) * 1.0 for b in branches)))
    for number, branch in enumerate(branches):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = rare_event(
                jax.random.fold_in(key, number), model, branch, method=method,
                num_runs=num_estimates,
            )  # fmt: skip
        shares = np.maximum(np.asarray(count_of(found.draws.values["x"])), 1.0)
        terms = (np.exp(found.draws.log_weight) / shares).reshape(num_estimates, -1)
        means.append(terms.mean(1))
        variances.append(terms.var(1, ddof=1) / terms.shape[1])
        evaluations += found.num_score_evaluations / num_estimates
    total = np.sum(means, 0)
    states = len(branches) * _num_states(method, int(np.prod(model.event_shape)), 0.0, True)
    return Estimates(
        np.log(total), np.sqrt(np.sum(variances, 0)) / total, method.num_paths - 1, evaluations,
        states, time.perf_counter() - start,
    )  # fmt: skip


def by_design_point(
    model: ScoreModel, limit_state: State, flow_steps: int, key: Array, num_estimates: int,
    num_draws: int = FORM_DRAWS,
) -> tuple[Estimates, Estimates]:  # fmt: skip
    """Estimate by FORM and by importance sampling at its design point, in this order.

    `flow_steps` is 0 where the law itself is N(0, I); otherwise normal numbers become events by a
    deterministic flow of so many steps.
    """
    start = time.perf_counter()
    size = int(np.prod(model.event_shape))
    if flow_steps:
        flow = flow_map(model, num_steps=flow_steps)
        state = lambda z: limit_state(flow(z))  # noqa: E731
    else:
        state = lambda z: limit_state(jnp.reshape(z, model.event_shape))  # noqa: E731
    parts = [
        jax.device_get(at_design_point(each, state, size, num_draws))
        for each in jax.random.split(key, num_estimates)
    ]
    form, sampled, error = (np.asarray(part, np.float64) for part in zip(*parts, strict=True))
    seconds = time.perf_counter() - start
    draws = num_draws + SEARCH_COST
    error = np.where(np.isnan(error), np.inf, error)
    return (
        Estimates(
            form, np.full_like(form, np.nan), 1, SEARCH_COST * flow_steps, SEARCH_COST, np.nan
        ),
        Estimates(sampled, error, num_draws - 1, draws * flow_steps, draws, seconds),
    )


def run_all(problem: Problem, num_estimates: int, methods: dict[str, Method]) -> dict:
    """Return estimates of a problem by every method that reached its event, by name."""
    key = jax.random.key(0)
    found: dict[str, Estimates | None] = {}
    for name, method in methods.items():
        try:
            found[name] = by_rare_event(
                problem.model, problem.limit_state, method, key, num_estimates
            )
        except ValueError:
            found[name] = None
    steps = 0 if problem.is_normal else FLOW_STEPS
    if problem.branches:
        found["guided paths, branch by branch"] = by_branches(
            problem.model, problem.branches, GuidedPaths(num_paths=500), key, num_estimates
        )
    form, sampled = by_design_point(problem.model, problem.limit_state, steps, key, num_estimates)
    return found | {"FORM": form, "sampling at the design point": sampled}


def methods_of(problem: Problem) -> dict[str, Method]:
    """Return the methods and settings of the study, the first of them the reference."""
    # Many dimensions make the covariance of a step dear, and their step from few paths good.
    num_paths, num_steps = (500, 25) if problem.size <= 10 else (100, 16)
    guided = partial(GuidedPaths, num_steps=num_steps)
    return {
        "subset simulation": Splitting(num_particles=300, num_moves=5, share=0.5),
        "tempering": Tempering(num_particles=300),
        "guided paths": guided(num_paths=num_paths),
        "guided paths, resampled": guided(
            num_paths=num_paths // 2, resampling=correctors.Resampling()
        ),
    }
