r"""Rare events by guided reverse diffusion: paths led to the event, weighted for what led them."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoreppl.arguments import check_count, check_share
from scoreppl.estimators.draws import check_log_weight
from scoreppl.estimators.event_levels import NOT_A_NUMBER
from scoreppl.estimators.event_source import EventSource, read_source
from scoreppl.estimators.evidence import MAX_PARETO_K
from scoreppl.estimators.tails import psis
from scoreppl.guidance import Guidance, LimitState
from scoreppl.samplers.guided import guide
from scoreppl.samplers.reference import fit_reference
from scoreppl.samplers.smc import Resampling
from scoreppl.target import Target

_PILOT_STEPS = 100
# Of the limit state, for paths that are resampled: on a half-space of probability 1e-6 under a
# mixture in 8 dimensions it takes the spread of the log probability from 0.5 to 0.17.
_WIDENING = 1.2


@dataclass(frozen=True)
class GuidedPaths:
    """Importance sampling by guided paths (`sp.GuidedDiffusion`), for score models.

    Parameters
    ----------
    num_paths, num_steps
        Paths of a run, and steps of each.
    guidance
        From a limit state to the guidance; None: `sp.guidance.LimitState`, at 1 + 2 d evaluations
        a step.
    resampling
        When to resample; None: independent paths, whose error is known from a single run.
    num_pilots
        Draws of the prior that the reference is fitted on.
    unguided_share
        Probability that a path is not guided, as in `sp.GuidedDiffusion`: no path weighs more than
        one over it. Without `resampling`.

    Raises
    ------
    ValueError
        If an argument is out of range, or `unguided_share` meets `resampling`.
    """

    num_paths: int = 1000
    num_steps: int = 25
    guidance: Callable[[Callable[[Array], Array]], Guidance] | None = None
    resampling: Resampling | None = None
    num_pilots: int = 128
    unguided_share: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("num_paths", "num_steps", "num_pilots"):
            check_count(name, getattr(self, name), 2)
        if check_share("unguided_share", self.unguided_share) and self.resampling is not None:
            raise ValueError(
                f"`unguided_share={self.unguided_share}` is for independent paths, and these are "
                "resampled; leave one of them out."
            )


class PathRun(NamedTuple):
    """Paths of one run.

    Attributes
    ----------
    log_probability
        Log of the estimate; -inf if no path met the event, which is an estimate of zero.
    events, log_weight
        Where paths ended, and their log weights.
    num_score_evaluations
        Of paths and pilots.
    """

    log_probability: float
    events: np.ndarray
    log_weight: np.ndarray
    num_score_evaluations: int


class EventPaths:
    """Runs of guided paths towards an event, compiled once.

    Raises
    ------
    ValueError
        If the source is a posterior.
    """

    def __init__(self, source: EventSource, method: GuidedPaths) -> None:
        model = source.score_model
        if model is None:
            raise ValueError(
                "`GuidedPaths` are for the law of a score model, and this is a posterior; use "
                "`method=sp.estimators.Splitting()`."
            )
        shape = tuple(model.event_shape)

        def log_weight(z: dict[str, Array]) -> Array:
            return jnp.where(source.limit_state(z) > 0, 0.0, -jnp.inf)

        def on_flat(x: Array) -> Array:
            return source.limit_state({"x": x.reshape(shape)})

        self._method = method
        self._limit_state = lambda x: source.limit_state({"x": x})
        self._size = int(np.prod(shape))
        self._shape = shape
        widening = 1.0 if method.resampling is None else _WIDENING
        self._guidance = (
            LimitState(on_flat, widening) if method.guidance is None else method.guidance(on_flat)
        )
        self._target = Target(source.target.score_models, source.target.floors, log_weight)
        self._run = jax.jit(self._guided)

    def _guided(self, key: Array) -> tuple[Array, Array, Array]:
        method = self._method
        start = {"x": jnp.zeros((method.num_paths, *self._shape))}
        key_fit, key_paths = jax.random.split(key)
        ladder, reference = fit_reference(
            key_fit, {"x": start["x"][0]}, self._target,
            num_levels=method.num_steps, num_pilots=method.num_pilots,
        )  # fmt: skip
        found = guide(
            jax.random.split(key_paths, method.num_paths), start, jnp.zeros(method.num_paths),
            self._target, ladder, reference, self._guidance, method.resampling,
            unguided_share=method.unguided_share,
        )  # fmt: skip
        return found.log_evidence, found.position["x"], found.log_weight

    def run(self, key: Array) -> PathRun:
        """Run guided paths towards the event.

        Raises
        ------
        ValueError
            If the limit state is not a number at the end of any path.

        Warns
        -----
        UserWarning
            If the Pareto k of the weights exceeds 0.7.
        """
        log_probability, events, weights = self._run(key)
        if np.all(np.isnan(jax.vmap(self._limit_state)(events))):
            raise ValueError(NOT_A_NUMBER)
        if not np.any(np.isfinite(weights)):
            return PathRun(-np.inf, np.asarray(events), np.asarray(weights), self._cost())
        weights = check_log_weight(weights)
        pareto_k = psis(weights)[1]
        shares = np.exp(weights - np.logaddexp.reduce(weights))
        # A tail of weights that are all much the same costs nothing.
        is_uneven = 2.0 / np.sum(shares**2) < np.sum(np.isfinite(weights))
        if pareto_k > MAX_PARETO_K and is_uneven:
            warnings.warn(
                f"The Pareto k of the paths' weights is {pareto_k:.2f}, above {MAX_PARETO_K}: the "
                "probability and its interval are unreliable. Use more steps or paths, "
                "`resampling`, or `method=sp.estimators.Splitting()`.",
                UserWarning,
                stacklevel=5,
            )
        return PathRun(float(log_probability), np.asarray(events), weights, self._cost())

    def _cost(self) -> int:
        """Score evaluations of a run."""
        method = self._method
        price = getattr(self._guidance, "num_score_evaluations", None)
        each = method.num_steps * (1 if price is None else price(self._size))
        return method.num_paths * each + method.num_pilots * (_PILOT_STEPS + method.num_steps)


def choose_paths(
    key: Array,
    source: Any,
    limit_state: Callable[[Array], Array],
    candidates: Sequence[GuidedPaths],
    *,
    num_paths: int = 200,
) -> GuidedPaths:
    r"""Choose guided paths by cross-entropy, from pilot runs that enter no estimate.

    With weights W of the pilots of a candidate q, the divergence of the law given the event from
    it is

    .. math:: KL(q^* \| q) = \frac{E_q[W \log W]}{E_q[W]} - \log E_q[W],

    the logarithm of how many paths are needed for one effective draw (Chatterjee and Diaconis,
    arXiv:1511.01437); the candidate with the smallest sum of it and of the logarithm of its
    evaluations, those of its pilots included, is chosen. Where no pilot meets the event a candidate
    is out.

    Parameters
    ----------
    key
        PRNG key.
    source, limit_state
        As of `rare_event`; a score model.
    candidates
        What to choose among: guidances, step numbers; without resampling.
    num_paths
        Pilots of each candidate.

    Returns
    -------
    GuidedPaths
        The one chosen, with its own number of paths.

    Raises
    ------
    ValueError
        If there is no candidate, one resamples, or no pilot of any meets the event.
    """
    candidates = list(candidates)
    if not candidates or any(one.resampling is not None for one in candidates):
        raise ValueError("`candidates` must be one or more GuidedPaths without `resampling`.")
    found = read_source(source, limit_state)
    scores = []
    for number, one in enumerate(candidates):
        pilots = replace(one, num_paths=check_count("num_paths", num_paths, 2))
        with warnings.catch_warnings():
            # Of heavy tails, which is what is to be found out.
            warnings.simplefilter("ignore", UserWarning)
            run = EventPaths(found, pilots).run(jax.random.fold_in(key, number))
        if run.log_probability == -np.inf:
            scores.append(np.inf)
            continue
        known = run.log_weight[np.isfinite(run.log_weight)]
        share = np.exp(known - np.logaddexp.reduce(known))
        divergence = share @ known - run.log_probability
        scores.append(divergence + np.log(run.num_score_evaluations))
    if not np.any(np.isfinite(scores)):
        raise ValueError("No pilot of any candidate met the event; use more of `num_paths`.")
    return candidates[int(np.argmin(scores))]
