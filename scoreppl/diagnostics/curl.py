r"""How far a score is from being a gradient, in nats of a Metropolis ratio.

For a gradient the log-ratios around a closed triangle of moves sum to zero,

.. math:: R(x, y) + R(y, z) + R(z, x) = 0,

whatever the moves. What is left with an accurate quadrature is the network's curl, in the unit
in which it enters an acceptance. A cheap forecast of its root mean square needs no moves:

.. math:: \kappa = h \sqrt{E |(J - J^\top) v|^2}

with J the score's Jacobian, h the Langevin step and v of random signs, by one Jacobian-vector
and one vector-Jacobian product a probe. By Stokes' theorem a small triangle with sides a and b
gives :math:`\tfrac12 b^\top (J - J^\top) a`, and a and b have variance 2h; the estimate of the
Frobenius norm is Hutchinson's.
"""

# blackjax annotates arrays as trees, hence
# pyright: reportOperatorIssue=false
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.diagnostics.level import (
    Start,
    call_on_model,
    check_counts,
    check_points,
    check_scores,
    check_step_size,
    start_at_level,
)
from scoreppl.diagnostics.moves import acceptance_rate, search_evaluations, triangle
from scoreppl.diagnostics.verdict import ratio, spread, verdict
from scoreppl.line_integral import Quadrature, as_quadrature, gauss_legendre, polyline_integral
from scoreppl.mcmc.trajectory import Node, metric_for
from scoreppl.score import ScoreModel

ACCURATE = gauss_legendre(4)
"""Rule whose error lies below the curl of image networks on moves of kernel length.

In few dimensions such moves cross the whole law, and its error may be what is seen.
"""


class LoopDefect(NamedTuple):
    """Result of `loop_defect`.

    Attributes
    ----------
    median, quantile_90, rms
        Of the absolute loop integrals, in nats.
    sd_log_acceptance
        Standard deviation of the moves' log acceptance (within +-10), in nats.
    ratio
        `median` over `sd_log_acceptance`.
    kappa
        The forecast of `rms` from Jacobian products, in nats; NaN without probes.
    asymmetry
        Frobenius norm of J - J^T over that of J + J^T; NaN without probes.
    acceptance_rate
        Mean acceptance of the moves.
    flips
        Mean absolute change of the acceptance probabilities if the log-ratio of each move were
        taken along the other two sides of its triangle.
    step_size
        Langevin step h of the moves; the leapfrog step of the kernels is sqrt(2 h).
    quadrature_error
        Median error estimate of a loop integral, in nats; a loop defect below it is no evidence
        of curl.
    num_nan
        Loops with a value that was not a number; they are left out of the statistics.
    num_score_evaluations
        Score evaluations spent.
    verdict
        ``"ok"``: median below 0.02 nats, `ratio` below 0.1 and `flips` below 0.02;
        ``"approximate"``: up to 0.2 nats, 0.5 and 0.1; ``"not corrected"``: above. The thresholds
        are a judgement, not a theorem.
    """

    median: float
    quantile_90: float
    rms: float
    sd_log_acceptance: float
    ratio: float
    kappa: float
    asymmetry: float
    acceptance_rate: float
    flips: float
    step_size: float
    quadrature_error: float
    num_nan: int
    num_score_evaluations: int
    verdict: str

    def __str__(self) -> str:
        """One line."""
        forecast = "" if np.isnan(self.kappa) else f", kappa {self.kappa:.2g}"
        return (
            f"{self.median:.2g} nats (90 %: {self.quantile_90:.2g}), {self.ratio:.0%} of "
            f"sd(log alpha), {self.flips:.0%} of decisions{forecast}: {self.verdict}"
        )


class Loops(NamedTuple):
    """What is measured before it is summed up; leading axes over loops and points.

    Attributes
    ----------
    integral, error, rounding
        Loop integrals, their quadrature error estimates and the size of float rounding.
    log_acceptance
        Of both moves of each loop, with one more axis.
    antisymmetric, symmetric
        Squared norms of (J - J^T) v and (J + J^T) v in preconditioned coordinates, averaged over
        probes; leading axis over points.
    """

    integral: Array
    error: Array
    rounding: Array
    log_acceptance: Array
    antisymmetric: Array
    symmetric: Array


def loop_defect(
    score_model: ScoreModel,
    x: ArrayLike,
    t: ArrayLike,
    *,
    key: Array,
    step_size: float | None = None,
    num_probes: int = 8,
    num_loops: int = 4,
    quadrature: str | Quadrature = ACCURATE,
    batch_nodes: bool = True,
) -> LoopDefect:
    r"""Integrate the score around triangles of MALA moves at one noise level.

    Parameters
    ----------
    score_model
        The score model.
    x
        Points that are typical of the level, shape ``(n, *event_shape)``, in the coordinates of
        :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` (a position of a kernel, which is in data
        units, times :math:`\alpha_t`).
    t
        Scalar time, not below ``score_model.min_time``.
    key
        PRNG key.
    step_size
        Langevin step h of the moves ``y = x + h score + sqrt(2 h) z``, in squared units of x_t.
        None: the step of about 75 % acceptance, from a short search.
    num_probes
        Random sign vectors at each point, for `kappa` and the asymmetry; 0 leaves these out.
    num_loops
        Triangles from each point.
    quadrature
        Rule for a side of a triangle, by default Gauss-Legendre of 4 nodes. If
        `quadrature_error` of the result is not far below its `median`, give more nodes.
    batch_nodes
        Evaluate the nodes of a loop in one batched call; False goes one node after another, for
        networks whose activations fill the memory.

    Returns
    -------
    LoopDefect
        The defect in nats, with a verdict.

    Raises
    ------
    ValueError
        If an argument is not as above, or the score is not finite at the points.

    Notes
    -----
    Zero up to quadrature and rounding for an energy network and for analytic models. It judges
    the acceptance and not the prior: a score can be a perfect gradient of a wrong density.

    With 4 nodes the cost is ``n (2 + 16 num_loops + 2 num_probes)`` evaluations, and about
    ``12 max(n, 16)`` for the search.
    """
    points, time = check_points(score_model, x, t)
    check_counts(num_loops=num_loops)
    if num_probes < 0:
        raise ValueError(f"`num_probes={num_probes}` must not be negative.")
    check_step_size(step_size)
    rule = as_quadrature(quadrature)
    leapfrog_step = None if step_size is None else jnp.sqrt(jnp.asarray(2 * step_size, float))
    loops, scores, leapfrog_step = call_on_model(
        _loops_at_level,
        score_model,
        key,
        points,
        time,
        leapfrog_step,
        num_probes=num_probes,
        num_loops=num_loops,
        quadrature=rule,
        batch_nodes=batch_nodes,
    )
    check_scores(scores, time)
    evaluations = len(points) * (1 + evaluations_per_point(num_probes, num_loops, rule))
    if step_size is None:
        evaluations += search_evaluations(len(points))
    return summarise(loops, float(leapfrog_step) ** 2 / 2, evaluations)


@partial(jax.jit, static_argnames=("num_probes", "num_loops", "quadrature", "batch_nodes"))
def _loops_at_level(
    model: ScoreModel,
    key: Array,
    points: Array,
    t: Array,
    step_size: Array | None,
    *,
    num_probes: int,
    num_loops: int,
    quadrature: Quadrature,
    batch_nodes: bool,
) -> tuple[Loops, Array, Array]:
    key_search, key_loops = jax.random.split(key)
    start = start_at_level(key_search, model, points, t, step_size, batch_nodes=batch_nodes)
    score_fn = start.target.score_fn
    loops = measure_loops(key_loops, start, score_fn, num_probes, num_loops, quadrature)
    return loops, start.nodes.prior_score, start.step_size


def measure_loops(
    key: Array,
    start: Start,
    score_fn: Callable[[Array], Array],
    num_probes: int,
    num_loops: int,
    quadrature: Quadrature = ACCURATE,
) -> Loops:
    """Integrate `score_fn` around triangles of one-step moves.

    Parameters
    ----------
    key
        PRNG key.
    start
        Where the moves start, and on what law.
    score_fn
        The score that is judged: of one site, or of all.
    num_probes, num_loops
        For each point; without probes the squared norms are NaN.
    quadrature
        Rule for a side.
    """
    metric = metric_for(start.inverse_mass, start.points[0])

    def loop(key: Array, x: Array, node: Node) -> tuple[Array, ...]:
        around = triangle(key, start.target, x, node, start.step_size, start.inverse_mass)
        integral = polyline_integral(
            score_fn,
            around.corners,
            quadrature=quadrature,
            batch_nodes=start.target.batch_nodes,
        )
        return integral.value, integral.error, around.rounding, around.log_acceptance

    def probes(keys: Array, x: Array) -> tuple[Array, Array]:
        product = jax.linearize(score_fn, x)[1]
        transposed = jax.linear_transpose(product, x)

        def probe(key: Array) -> tuple[Array, Array]:
            signs = jax.random.rademacher(key, x.shape, x.dtype)
            w = metric.scale(x, signs, inv=True, trans=False)
            forward, (backward,) = product(w), transposed(w)
            difference = metric.scale(x, forward - backward, inv=True, trans=True)
            total = metric.scale(x, forward + backward, inv=True, trans=True)
            return jnp.sum(difference**2), jnp.sum(total**2)

        return jax.tree.map(jnp.mean, jax.lax.map(probe, keys))

    # Points are batched, loops and probes follow one another: the batch stays that of the user.
    key_loops, key_probes = jax.random.split(key)
    points = start.points
    loop_keys = jax.random.split(key_loops, (num_loops, len(points)))
    integral, error, rounding, log_acceptance = jax.lax.map(
        lambda keys: jax.vmap(loop)(keys, points, start.nodes), loop_keys
    )
    antisymmetric = symmetric = jnp.full(len(points), jnp.nan)
    if num_probes > 0:
        probe_keys = jax.random.split(key_probes, (len(points), num_probes))
        antisymmetric, symmetric = jax.vmap(probes)(probe_keys, points)
    return Loops(integral, error, rounding, log_acceptance, antisymmetric, symmetric)


def evaluations_per_point(
    num_probes: int, num_loops: int, quadrature: Quadrature = ACCURATE
) -> int:
    """Score evaluations of `measure_loops` for each point, what is known there not included."""
    moves = 2 * 2  # by Simpson's rule
    corners = 4 if quadrature.has_endpoints else 0
    jacobians = 1 + 2 * num_probes if num_probes else 0
    return num_loops * (moves + 3 * len(quadrature.interior) + corners) + jacobians


def summarise(loops: Loops, step_size: float, num_score_evaluations: int) -> LoopDefect:
    """Sum up on the host, in float64.

    Raises
    ------
    ValueError
        If no loop is finite.
    """
    host = {name: np.asarray(value, np.float64) for name, value in loops._asdict().items()}
    finite = np.isfinite(host["integral"])
    if not finite.any():
        raise ValueError(
            "No loop integral is finite: the moves leave the region where the score is defined. "
            "Use a smaller `step_size`."
        )
    integral, along = host["integral"][finite], host["log_acceptance"][finite]
    sizes = np.abs(integral)
    direct, around = (acceptance_rate(jnp.asarray(a)) for a in (along, along - integral[:, None]))
    median, sd = float(np.median(sizes)), spread(host["log_acceptance"])
    flips = float(jnp.mean(jnp.abs(direct - around)))
    antisymmetric, symmetric = (
        float(np.sqrt(np.mean(host[name]))) for name in ("antisymmetric", "symmetric")
    )
    return LoopDefect(
        median=median,
        quantile_90=float(np.quantile(sizes, 0.9)),
        rms=float(np.sqrt(np.mean(sizes**2))),
        sd_log_acceptance=sd,
        ratio=ratio(median, sd),
        kappa=step_size * antisymmetric,
        asymmetry=ratio(antisymmetric, symmetric),
        acceptance_rate=float(jnp.mean(acceptance_rate(loops.log_acceptance))),
        flips=flips,
        step_size=step_size,
        quadrature_error=float(np.median(host["error"][finite])),
        num_nan=int(np.sum(~finite)),
        num_score_evaluations=num_score_evaluations,
        verdict=verdict(median, sd, float(np.median(host["rounding"][finite])), flips),
    )
