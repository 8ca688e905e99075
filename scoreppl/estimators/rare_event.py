r"""Probabilities of rare events under a score model or a posterior, with intervals that cover."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from scipy.stats import t as student

from scoreppl.arguments import check_count
from scoreppl.estimators.draws import WeightedDraws, weighted_draws
from scoreppl.estimators.event_levels import EventLevels, LevelRun, Moves
from scoreppl.estimators.event_moves import FlowMoves, LangevinMoves
from scoreppl.estimators.event_paths import EventPaths, GuidedPaths
from scoreppl.estimators.event_source import EventSource, read_source
from scoreppl.score import flow_map

_NUM_RUNS = 10


class RareEvent(NamedTuple):
    """The probability of an event.

    Attributes
    ----------
    log_probability
        Log of the estimate; `probability` is the estimate itself.
    standard_error
        Of `log_probability`: relative error of the probability, from paths where these are
        independent and from runs where they are not.
    log_interval
        Interval for the log probability, from Student's t; `interval` is that of the probability.
    draws
        Draws given the event, weighted, for `sp.estimators.expectation`; a cluster is a path or a
        run.
    ess
        Effective number of these draws.
    log_probability_of_runs
        By run.
    num_score_evaluations
        All that were spent, pilots among them.
    """

    log_probability: float
    standard_error: float
    log_interval: tuple[float, float]
    draws: WeightedDraws
    ess: float
    log_probability_of_runs: np.ndarray
    num_score_evaluations: int

    @property
    def probability(self) -> float:
        """The estimate itself."""
        return float(np.exp(self.log_probability))

    @property
    def interval(self) -> tuple[float, float]:
        """Interval for the probability."""
        low, high = self.log_interval
        return float(np.exp(low)), float(np.exp(high))


@dataclass(frozen=True)
class Splitting:
    """Subset simulation: levels of the limit state that a share of the particles is above.

    Parameters
    ----------
    num_particles, num_moves
        Particles of a run, and moves of each at each level.
    share
        Share of the particles above the next level.
    flow_steps
        0: moves by MALA with the line integral of the score, at 2 evaluations each (3 where there
        is a density), which takes the score for a gradient. Otherwise moves of the noise that a
        deterministic reverse diffusion of so many steps starts from: exact for the law that this
        flow defines, at `flow_steps` evaluations each; score models only.
    max_levels
        After so many levels the event counts as out of reach.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    num_particles: int = 1000
    num_moves: int = 10
    share: float = 0.2
    flow_steps: int = 0
    max_levels: int = 100

    is_smooth = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_count("num_particles", self.num_particles, 10)
        check_count("num_moves", self.num_moves, 1)
        check_count("flow_steps", self.flow_steps, 0)
        check_count("max_levels", self.max_levels, 1)
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"`share={self.share}` must lie strictly between 0 and 1.")


@dataclass(frozen=True)
class Tempering(Splitting):
    """Sequential Monte Carlo by a smoothed indicator, Phi(g / a) with a falling to 0.

    The levels are such that `share` of the particles stay effective; a limit state with a gradient
    pulls the moves towards the event. Otherwise as `Splitting`.
    """

    share: float = 0.5

    is_smooth = True


Method = GuidedPaths | Splitting


def rare_event(
    key: Array,
    source: Any,
    limit_state: Callable[[Any], Array],
    *,
    method: Method | None = None,
    num_runs: int | None = None,
    level: float = 0.95,
) -> RareEvent:
    r"""Estimate the probability that a limit state is positive.

    Parameters
    ----------
    key
        PRNG key.
    source
        A score model, whose draws the event is about; or a finished NumPyro ``MCMC`` of a kernel
        of this package, run with ``extra_fields=('position',)``, for a posterior.
    limit_state
        The function g: the event is g > 0. Of one event of a score model; of one draw, a dictionary
        by site, for a posterior. Monotone functions of g are the same event and other levels: one
        that is roughly normal suits all methods best.
    method
        `GuidedPaths`, `Splitting` or `Tempering`. None: `GuidedPaths` for a score model and
        `Splitting` for a posterior.
    num_runs
        Independent runs; at least 2 for the methods by levels, which have no other honest error.
        None: 1 for independent paths and 10 otherwise. On a posterior each run starts from its own
        stretch of the chains, so that the error of the chains is in that of the runs as far as
        these stretches are longer than the autocorrelation.
    level
        Of the interval.

    Returns
    -------
    RareEvent
        The estimate, its interval and draws given the event.

    Raises
    ------
    ValueError
        If nothing met the event, the limit state has no scalar value or is not a number where the
        event should be likely, or the method does not suit the source.

    Notes
    -----
    `GuidedPaths` is unbiased for the discretised reverse process, `Splitting` with a flow
    consistent for the discretised flow, and both need nothing of the score. Moves by MALA take the
    score for a gradient at the lowest noise level. What each of these laws has in its far tail is
    the network's doing: an estimate of 1e-6 is one of the network, not of the data.
    """
    is_model = not hasattr(source, "get_extra_fields")
    chosen = method if method is not None else GuidedPaths() if is_model else Splitting()
    if not isinstance(chosen, Method):
        raise ValueError(
            f"`method={chosen!r}` is no method; use sp.estimators.GuidedPaths(), Splitting() or "
            "Tempering()."
        )
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level={level}` must lie strictly between 0 and 1.")
    if isinstance(chosen, GuidedPaths):
        usual = 1 if chosen.resampling is None else _NUM_RUNS
        num_runs = check_count("num_runs", usual if num_runs is None else num_runs, 1)
        found = read_source(source, limit_state)
        return _of_paths(key, found, chosen, num_runs, level)
    num_runs = check_count("num_runs", _NUM_RUNS if num_runs is None else num_runs, 2)
    found = read_source(source, limit_state, num_runs)
    levels = EventLevels(
        _moves(found, chosen.flow_steps),
        is_smooth=chosen.is_smooth, num_particles=chosen.num_particles,
        num_moves=chosen.num_moves, share=chosen.share, max_levels=chosen.max_levels,
    )  # fmt: skip
    runs = [levels.run(each, part) for part, each in enumerate(jax.random.split(key, num_runs))]
    return _of_runs(runs, levels, level)


def _moves(source: EventSource, flow_steps: int) -> Moves:
    if not flow_steps:
        return LangevinMoves(
            source.target, source.draw, source.constrain, source.limit_state,
            source.draw_evaluations,
        )  # fmt: skip
    if source.score_model is None:
        raise ValueError(
            "`flow_steps` are for the law of a score model, and this is a posterior; use "
            "`flow_steps=0`."
        )
    model = source.score_model
    return FlowMoves(
        flow_map(model, num_steps=flow_steps), tuple(model.event_shape),
        lambda x: source.limit_state({"x": x}), flow_steps,
    )  # fmt: skip


def _of_paths(
    key: Array, source: EventSource, method: GuidedPaths, num_runs: int, level: float
) -> RareEvent:
    """Pool paths, independent ones as such and resampled ones by run."""
    paths = EventPaths(source, method)
    runs = [paths.run(each) for each in jax.random.split(key, num_runs)]
    logs = np.array([run.log_probability for run in runs])
    # A run that meets nothing is an estimate of zero; if all are, nothing is known.
    if np.all(logs == -np.inf):
        raise ValueError(
            f"None of {num_runs * method.num_paths} paths met the event: it may be impossible, or "
            "the limit state gives no direction where the paths are. Check it, use more paths or "
            "steps, or `method=sp.estimators.Splitting()`."
        )
    log_weight = np.concatenate([run.log_weight for run in runs])
    values = {"x": np.concatenate([run.events for run in runs])}
    cost = sum(run.num_score_evaluations for run in runs)
    if method.resampling is None:
        weights = np.exp(log_weight - log_weight.max())
        error = weights.std(ddof=1) / weights.mean() / np.sqrt(len(weights))
        draws = weighted_draws(values, log_weight)
        return _result(logs, error, len(weights) - 1, draws, cost, level)
    if num_runs < 2:
        raise ValueError("Resampled paths need `num_runs` of 2 or more for an honest error.")
    return _result(*_error_of(logs), _clustered(values, log_weight, num_runs), cost, level)


def _of_runs(runs: list[LevelRun], levels: EventLevels, level: float) -> RareEvent:
    """Pool runs by levels, each with the weight of the probability that it found."""
    logs = np.array([run.log_probability for run in runs])
    weights, values = [], []
    for run in runs:
        total = np.logaddexp.reduce(run.log_weight) - np.log(len(run.log_weight))
        weights.append(run.log_weight - total + run.log_probability)
        values.append(levels.values(run.particles))
    joined = {
        name: np.concatenate([np.asarray(value[name]) for value in values]) for name in values[0]
    }
    draws = _clustered(joined, np.concatenate(weights), len(runs))
    cost = sum(run.num_score_evaluations for run in runs)
    return _result(*_error_of(logs), draws, cost, level)


def _clustered(
    values: dict[str, np.ndarray], log_weight: np.ndarray, num_runs: int
) -> WeightedDraws:
    cluster = np.repeat(np.arange(num_runs), len(log_weight) // num_runs)
    return weighted_draws(values, log_weight, cluster=cluster)


def _error_of(logs: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Return the runs, the relative error of their mean, and its degrees of freedom."""
    each = np.exp(logs - logs.max())
    return logs, float(each.std(ddof=1) / each.mean() / np.sqrt(len(each))), len(each) - 1


def _result(
    logs: np.ndarray, error: float, freedom: int, draws: WeightedDraws, cost: int, level: float
) -> RareEvent:
    log_probability = float(np.logaddexp.reduce(logs) - np.log(len(logs)))
    reach = float(student.ppf(0.5 + 0.5 * level, freedom) * error)
    share = np.exp(draws.log_weight - np.logaddexp.reduce(draws.log_weight))
    return RareEvent(
        log_probability, float(error), (log_probability - reach, log_probability + reach),
        draws, float(1.0 / np.sum(share**2)), logs, cost,
    )  # fmt: skip
