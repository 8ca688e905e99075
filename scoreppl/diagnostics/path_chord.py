"""Path against chord: does the log-ratio of a trajectory depend on the way it went?

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
from scoreppl.diagnostics.moves import acceptance_rate, propose, search_evaluations
from scoreppl.diagnostics.step_halving import refine
from scoreppl.diagnostics.verdict import ratio, spread, verdict
from scoreppl.line_integral import polyline_integral
from scoreppl.mcmc.trajectory import Node
from scoreppl.score import ScoreModel


class PathAgainstChord(NamedTuple):
    """Result of `path_against_chord`.

    Attributes
    ----------
    median, quantile_90
        Of the absolute difference of the two log-ratios, in nats.
    sd_log_acceptance
        Standard deviation of the log acceptance along the path, in nats.
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
        return (
            f"{self.median:.2g} nats (90 %: {self.quantile_90:.2g}) over {self.num_steps} steps, "
            f"{self.ratio:.0%} of sd(log alpha), {self.flips:.0%} of decisions: {self.verdict}"
        )


class Trajectories(NamedTuple):
    """What is measured before it is summed up; leading axes over trajectories and points."""

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
    batch_nodes: bool = True,
) -> PathAgainstChord:
    """Compare the log-ratio along HMC trajectories with that along their chords.

    Parameters
    ----------
    score_model, x, t, key, batch_nodes
        As in `scoreppl.diagnostics.loop_defect`: `x` holds points of shape ``(n, *event_shape)``
        in units of x_t.
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
    Both integrals use 4 Gauss-Legendre nodes on each of `num_steps` segments, so the cost is
    ``n (1 + 9 num_steps num_trajectories)`` evaluations, and about
    ``12 max(n, 16) num_steps`` for the search.
    """
    points, time = check_points(score_model, x, t)
    check_counts(num_steps=num_steps, num_trajectories=num_trajectories)
    check_step_size(step_size)
    found, scores, used = call_on_model(
        _trajectories_at_level,
        score_model,
        key,
        points,
        time,
        None if step_size is None else jnp.asarray(step_size, float),
        num_steps=num_steps,
        num_trajectories=num_trajectories,
        batch_nodes=batch_nodes,
    )
    check_scores(scores, time)
    evaluations = len(points) * evaluations_per_start(num_steps, num_trajectories)
    if step_size is None:
        evaluations += search_evaluations(len(points), num_steps)
    return summarise(found, float(used), num_steps, evaluations)


@partial(jax.jit, static_argnames=("num_steps", "num_trajectories", "batch_nodes"))
def _trajectories_at_level(
    model: ScoreModel,
    key: Array,
    points: Array,
    t: Array,
    step_size: Array | None,
    *,
    num_steps: int,
    num_trajectories: int,
    batch_nodes: bool,
) -> tuple[Trajectories, Array, Array]:
    key_search, key_moves = jax.random.split(key)
    start = start_at_level(
        key_search, model, points, t, step_size, num_steps=num_steps, batch_nodes=batch_nodes
    )
    found = measure_trajectories(key_moves, start, num_steps, num_trajectories)
    return found, start.nodes.prior_score, start.step_size


def measure_trajectories(
    key: Array, start: Start, num_steps: int, num_trajectories: int
) -> Trajectories:
    """Integrate the target's prior score along trajectories and along their chords."""
    target = start.target

    def compare(key: Array, x: Array, node: Node) -> Trajectories:
        move = propose(key, target, x, node, start.step_size, start.inverse_mass, num_steps)
        ends = jnp.stack([move.corners[0], move.corners[-1]])
        # The same integrand twice: one compiled network call for path and chord.
        path, chord = jax.lax.map(
            lambda corners: polyline_integral(
                target.score_fn, corners, quadrature=ACCURATE, batch_nodes=target.batch_nodes
            )[:2],
            jnp.stack([move.corners, refine(ends, num_steps)]),
        )
        return move, path, chord

    raise NotImplementedError
