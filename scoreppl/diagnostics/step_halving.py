"""Whether what is left of a closed loop is the quadrature's doing or the network's.

With every segment halved a quadrature error shrinks, by 16 for Simpson's rule on a smooth score;
the loop integral of a network's curl does not.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.diagnostics.level import (
    call_on_model,
    check_counts,
    check_points,
    check_scores,
    check_step_size,
    start_at_level,
)
from scoreppl.diagnostics.moves import search_evaluations, triangle
from scoreppl.line_integral import Quadrature, as_quadrature, polyline_integral
from scoreppl.mcmc.trajectory import Node
from scoreppl.score import ScoreModel

NUM_SEGMENTS = (1, 2, 4)
"""Pieces to a move: as the kernels integrate it, halved, and halved again."""

_EXPLANATIONS = {
    "none": "no residual beyond rounding",
    "quadrature": "the residual shrinks with the nodes: it is quadrature error",
    "model": "the residual stays when segments are halved: it is the curl of the score",
}


class StepHalving(NamedTuple):
    """Result of `step_halving`.

    Attributes
    ----------
    num_segments
        Pieces to a move: 1, 2 and 4.
    quadrature_error
        Median absolute change of a move's log-ratio in nats when 1 becomes 2 pieces, and 2
        become 4. The first is the error of the working rule.
    loop
        Median absolute integral around a triangle of moves in nats, for each number of pieces.
    cause
        Of the last loop: ``"none"`` (rounding), ``"quadrature"`` or ``"model"``.
    step_size
        Langevin step h of the moves.
    num_nan
        Triangles with a value that was not a number; they are left out.
    num_score_evaluations
        Score evaluations spent.
    """

    num_segments: tuple[int, ...]
    quadrature_error: tuple[float, ...]
    loop: tuple[float, ...]
    cause: str
    step_size: float
    num_nan: int
    num_score_evaluations: int

    def __str__(self) -> str:
        """Three lines."""
        errors = ", ".join(f"{value:.2g}" for value in self.quadrature_error)
        loops = ", ".join(f"{value:.2g}" for value in self.loop)
        return (
            f"log-ratio changes by {errors} nats as each segment is halved, and again\n"
            f"loops of {' / '.join(map(str, self.num_segments))} pieces a move: {loops} nats\n"
            f"{_EXPLANATIONS[self.cause]}"
        )


def step_halving(
    score_model: ScoreModel,
    x: ArrayLike,
    t: ArrayLike,
    *,
    key: Array,
    step_size: float | None = None,
    quadrature: str | Quadrature = "simpson",
    num_loops: int = 4,
    batch_nodes: bool = True,
) -> StepHalving:
    """Compare log-ratios of kernel-length moves with those of every segment halved, twice.

    Parameters
    ----------
    score_model, x, t, key, step_size, num_loops, batch_nodes
        As in `scoreppl.diagnostics.loop_defect`: `x` holds points of shape ``(n, *event_shape)``
        in units of x_t.
    quadrature
        The working rule that is judged.

    Returns
    -------
    StepHalving
        Errors and loops in nats, and which of quadrature and model the residual is due to.

    Raises
    ------
    ValueError
        If an argument is not as above, or the score is not finite at the points.
    """
    points, time = check_points(score_model, x, t)
    check_counts(num_loops=num_loops)
    check_step_size(step_size)
    rule = as_quadrature(quadrature)
    leapfrog_step = None if step_size is None else jnp.sqrt(jnp.asarray(2 * step_size, float))
    sides, rounding, scores, leapfrog_step = call_on_model(
        _sides_at_level,
        score_model,
        key,
        points,
        time,
        leapfrog_step,
        rule=rule,
        num_loops=num_loops,
        batch_nodes=batch_nodes,
    )
    check_scores(scores, time)
    evaluations = len(points) * (1 + num_loops * _evaluations_per_loop(rule))
    if step_size is None:
        evaluations += search_evaluations(len(points))
    # Axes: loops, points, number of pieces, first move and whole loop.
    values = np.asarray(sides, np.float64).reshape(-1, len(NUM_SEGMENTS), 2)
    finite = np.all(np.isfinite(values), axis=(1, 2))
    if not finite.any():
        raise ValueError(
            "No integral is finite: the moves leave the region where the score is defined. "
            "Use a smaller `step_size`."
        )
    moves, loops = values[finite, :, 0], values[finite, :, 1]
    errors = tuple(np.median(np.abs(np.diff(moves, axis=1)), axis=0).tolist())
    residual = tuple(np.median(np.abs(loops), axis=0).tolist())
    floor = float(np.median(np.asarray(rounding).ravel()[finite]))
    return StepHalving(
        num_segments=NUM_SEGMENTS,
        quadrature_error=errors,
        loop=residual,
        cause=_cause(loops, residual, floor),
        step_size=float(leapfrog_step) ** 2 / 2,
        num_nan=int(np.sum(~finite)),
        num_score_evaluations=evaluations,
    )


def _cause(loops: np.ndarray, residual: tuple[float, ...], rounding: float) -> str:
    """Attribute the loop: a change at the last halving as large as what is left is quadrature."""
    if residual[-1] <= rounding:
        return "none" if residual[0] <= rounding else "quadrature"
    change = float(np.median(np.abs(loops[:, -1] - loops[:, -2])))
    return "quadrature" if change > 0.5 * residual[-1] else "model"


def _evaluations_per_loop(rule: Quadrature) -> int:
    corner = 1 if rule.has_endpoints else 0
    side = sum(count * len(rule.interior) + (count + 1) * corner for count in NUM_SEGMENTS)
    moves = 2 * 2  # by Simpson's rule
    return moves + 3 * side


@partial(jax.jit, static_argnames=("rule", "num_loops", "batch_nodes"))
def _sides_at_level(
    model: ScoreModel,
    key: Array,
    points: Array,
    t: Array,
    step_size: Array | None,
    *,
    rule: Quadrature,
    num_loops: int,
    batch_nodes: bool,
) -> tuple[Array, Array, Array, Array]:
    key_search, key_loops = jax.random.split(key)
    start = start_at_level(key_search, model, points, t, step_size, batch_nodes=batch_nodes)

    def integrate(side: Array, pieces: int) -> Array:
        return polyline_integral(
            start.target.score_fn,
            refine(side, pieces),
            quadrature=rule,
            batch_nodes=batch_nodes,
        ).value

    def sides(key: Array, x: Array, node: Node) -> tuple[Array, Array]:
        around = triangle(key, start.target, x, node, start.step_size, start.inverse_mass)
        ends = jnp.stack([around.corners[:-1], around.corners[1:]], axis=1)
        values = []
        for pieces in NUM_SEGMENTS:
            # One side after another, so that the network is compiled once for the three.
            ratios = jax.lax.map(lambda side, pieces=pieces: integrate(side, pieces), ends)
            values.append(jnp.stack([ratios[0], jnp.sum(ratios)]))
        return jnp.stack(values), around.rounding

    keys = jax.random.split(key_loops, (num_loops, len(points)))
    found, rounding = jax.lax.map(
        lambda keys: jax.vmap(sides)(keys, start.points, start.nodes), keys
    )
    return found, rounding, start.nodes.prior_score, start.step_size


def refine(corners: Array, pieces: int) -> Array:
    """Cut every segment of a polyline into equal pieces."""
    fractions = jnp.arange(pieces, dtype=corners.dtype) / pieces
    inside = corners[:-1, None] + fractions[:, None] * (corners[1:] - corners[:-1])[:, None]
    return jnp.concatenate([inside.reshape(-1, corners.shape[1]), corners[-1:]])
