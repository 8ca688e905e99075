"""Path against chord: whether the log-ratio of a trajectory depends on the way it went.

For a gradient the integral along a trajectory is that along the straight line between its ends.
For a network both can be exact as integrals and still disagree, by the curl enclosed between
them; the acceptance of HMC and NUTS then depends on which of the two the kernel happened to use.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.diagnostics.curl import ACCURATE
from scoreppl.diagnostics.level import (
    Start,
    call_on_model,
    check_counts,
    check_points,
    check_scores,
    check_step_size,
    start_at_level,
)
from scoreppl.diagnostics.moves import propose, search_evaluations
from scoreppl.diagnostics.step_halving import refine
from scoreppl.diagnostics.verdict import ratio, spread, verdict
from scoreppl.line_integral import Quadrature, as_quadrature, polyline_integral
from scoreppl.mcmc.trajectory import Node
from scoreppl.score import ScoreModel


class PathAgainstChord(NamedTuple):
    """Result of `path_against_chord`.

    Attributes
    ----------
    median, quantile_90
        Of the absolute difference of the two log-ratios, in nats.
    sd_log_acceptance
        Standard deviation of the log acceptance (within +-10) along the path, in nats.
    ratio
        `median` over `sd_log_acceptance`.
    acceptance_path, acceptance_chord
        Mean acceptance with either log-ratio. A higher one is no evidence for the path: its
        energy error vanishes with the step whatever the curl.
    flips
        Mean absolute difference of the two acceptance probabilities.
    step_size, num_steps
        Leapfrog step and steps of the trajectories.
    quadrature_error
        Median of the sum of both integrals' error estimates, in nats.
    num_nan
        Trajectories with a value that was not a number; they are left out.
    num_score_evaluations
        Score evaluations spent.
    verdict
        As in `scoreppl.diagnostics.LoopDefect`, by the same thresholds.
    """

    median: float
    quantile_90: float
    sd_log_acceptance: float
    ratio: float
    acceptance_path: float
    acceptance_chord: float
    flips: float
    step_size: float
    num_steps: int
    quadrature_error: float
    num_nan: int
    num_score_evaluations: int
    verdict: str

    def __str__(self) -> str:
        """One line."""
        steps = "1 step" if self.num_steps == 1 else f"{self.num_steps} steps"
        return (
            f"{self.median:.2g} nats (90 %: {self.quantile_90:.2g}) over {steps}, "
            f"{self.ratio:.0%} of sd(log alpha), {self.flips:.0%} of decisions: {self.verdict}"
        )


class Trajectories(NamedTuple):
    """What is measured before it is summed up; leading axes over trajectories and points.

    Attributes
    ----------
    difference, error, rounding
        Path integral less chord integral, the sum of their quadrature error estimates, and the
        size of float rounding.
    log_acceptance
        With the path's log-ratio.
    """

    difference: Array
    error: Array
    rounding: Array
    log_acceptance: Array


def path_against_chord(
    score_model: ScoreModel,
    x: ArrayLike,
    t: ArrayLike,
    step_size: float | None = None,
    num_steps: int = 5,
    *,
    key: Array,
    num_trajectories: int = 2,
    quadrature: str | Quadrature = ACCURATE,
    batch_nodes: bool = True,
) -> PathAgainstChord:
    """Compare the log-ratio along HMC trajectories with that along their chords.

    Parameters
    ----------
    score_model, x, t, key, quadrature, batch_nodes
        As in `scoreppl.diagnostics.loop_defect`: `x` holds points of shape ``(n, *event_shape)``
        in units of x_t, and the rule is that of a leapfrog step.
    step_size
        Leapfrog step, in units of x_t, unit masses. None: the step of about 75 % acceptance
        along the path, from a short search.
    num_steps
        Leapfrog steps of a trajectory.
    num_trajectories
        Trajectories from each point.

    Returns
    -------
    PathAgainstChord
        The disagreement in nats, with a verdict; 0 up to quadrature and rounding for a
        conservative score.

    Raises
    ------
    ValueError
        If an argument is not as above, or the score is not finite at the points.

    Notes
    -----
    Both integrals have `num_steps` segments. With 4 nodes on each the cost is
    ``n (1 + 10 num_steps num_trajectories)`` evaluations, and about ``12 max(n, 16) num_steps``
    for the search.
    """
    points, time = check_points(score_model, x, t)
    check_counts(num_steps=num_steps, num_trajectories=num_trajectories)
    check_step_size(step_size)
    rule = as_quadrature(quadrature)
    found, scores, used = call_on_model(
        _trajectories_at_level,
        score_model,
        key,
        points,
        time,
        None if step_size is None else jnp.asarray(step_size, float),
        num_steps=num_steps,
        num_trajectories=num_trajectories,
        quadrature=rule,
        batch_nodes=batch_nodes,
    )
    check_scores(scores, time)
    evaluations = len(points) * (1 + evaluations_per_start(num_steps, num_trajectories, rule))
    if step_size is None:
        evaluations += search_evaluations(len(points), num_steps)
    return summarise(found, float(used), num_steps, evaluations)


@partial(jax.jit, static_argnames=("num_steps", "num_trajectories", "quadrature", "batch_nodes"))
def _trajectories_at_level(
    model: ScoreModel,
    key: Array,
    points: Array,
    t: Array,
    step_size: Array | None,
    *,
    num_steps: int,
    num_trajectories: int,
    quadrature: Quadrature,
    batch_nodes: bool,
) -> tuple[Trajectories, Array, Array]:
    key_search, key_moves = jax.random.split(key)
    start = start_at_level(
        key_search, model, points, t, step_size, num_steps=num_steps, batch_nodes=batch_nodes
    )
    found = measure_trajectories(key_moves, start, num_steps, num_trajectories, quadrature)
    return found, start.nodes.prior_score, start.step_size


def measure_trajectories(
    key: Array,
    start: Start,
    num_steps: int,
    num_trajectories: int,
    quadrature: Quadrature = ACCURATE,
) -> Trajectories:
    """Integrate the target's prior score along trajectories and along their chords."""
    target = start.target

    def compare(key: Array, x: Array, node: Node) -> Trajectories:
        move = propose(key, target, x, node, start.step_size, start.inverse_mass, num_steps)
        chord = refine(move.corners[jnp.asarray([0, -1])], num_steps)
        both = jnp.stack([move.corners, chord])
        # One after the other, so that the network is compiled once for the two.
        ratios, errors = jax.lax.map(
            lambda corners: polyline_integral(
                target.score_fn, corners, quadrature=quadrature, batch_nodes=target.batch_nodes
            )[:2],
            both,
        )
        length = jnp.sum(jnp.linalg.norm(both[:, 1:] - both[:, :-1], axis=-1))
        rounding = jnp.linalg.norm(node.prior_score) * length * jnp.finfo(x.dtype).eps
        along_path = move.log_acceptance - move.node.log_ratio + ratios[0]
        return Trajectories(ratios[0] - ratios[1], jnp.sum(errors), rounding, along_path)

    keys = jax.random.split(key, (num_trajectories, len(start.points)))
    return jax.lax.map(lambda keys: jax.vmap(compare)(keys, start.points, start.nodes), keys)


def evaluations_per_start(
    num_steps: int, num_trajectories: int, quadrature: Quadrature = ACCURATE
) -> int:
    """Score evaluations of `measure_trajectories` for each point, what is known not included."""
    moves = 2  # by Simpson's rule
    corners = 2 * (num_steps + 1) if quadrature.has_endpoints else 0
    return num_trajectories * (num_steps * (moves + 2 * len(quadrature.interior)) + corners)


def summarise(
    found: Trajectories, step_size: float, num_steps: int, num_score_evaluations: int
) -> PathAgainstChord:
    """Sum up on the host, in float64.

    Raises
    ------
    ValueError
        If no trajectory is finite.
    """
    difference, error, rounding, log_acceptance = (
        np.asarray(value, np.float64).ravel() for value in found
    )
    finite = np.isfinite(difference) & ~np.isnan(log_acceptance)
    if not finite.any():
        raise ValueError(
            "No trajectory is finite: they leave the region where the score is defined. Use a "
            "smaller `step_size`."
        )
    path, chord = (
        np.exp(np.minimum(log_acceptance[finite] - change, 0.0))
        for change in (0.0, difference[finite])
    )
    sizes, sd = np.abs(difference[finite]), spread(log_acceptance)
    median, flips = float(np.median(sizes)), float(np.mean(np.abs(path - chord)))
    return PathAgainstChord(
        median=median,
        quantile_90=float(np.quantile(sizes, 0.9)),
        sd_log_acceptance=sd,
        ratio=ratio(median, sd),
        acceptance_path=float(np.mean(path)),
        acceptance_chord=float(np.mean(chord)),
        flips=flips,
        step_size=step_size,
        num_steps=num_steps,
        quadrature_error=float(np.median(error[finite])),
        num_nan=int(np.sum(~finite)),
        num_score_evaluations=num_score_evaluations,
        verdict=verdict(median, sd, float(np.median(rounding[finite])), flips),
    )
