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

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import metrics
from jax import Array
from jax.typing import ArrayLike

from scoreppl.diagnostics.level import (
    at_level,
    call_on_model,
    check_counts,
    check_points,
    check_step_size,
    first_step_size,
)
from scoreppl.diagnostics.moves import (
    acceptance_rate,
    propose,
    search_evaluations,
    search_step_size,
)
from scoreppl.line_integral import gauss_lobatto, polyline_integral
from scoreppl.mcmc.trajectory import PathTarget
from scoreppl.score import ScoreModel

ACCURATE = gauss_lobatto(5)
"""Rule whose error on moves of kernel length lies far below the curl of trained networks."""

_OK = (0.02, 0.1)
_APPROXIMATE = (0.2, 0.5)


class LoopDefect(NamedTuple):
    """Result of `loop_defect`.

    Attributes
    ----------
    median, quantile_90, rms
        Of the absolute loop integrals, in nats.
    sd_log_acceptance
        Standard deviation of the moves' log acceptance, in nats.
    ratio
        `median` over `sd_log_acceptance`.
    kappa
        The forecast of `rms` from Jacobian products, in nats.
    asymmetry
        Frobenius norm of J - J^T over that of J + J^T.
    acceptance_rate
        Mean acceptance of the moves.
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
        ``"ok"``: median below 0.02 nats and `ratio` below 0.1; ``"approximate"``: up to 0.2 nats
        and 0.5; ``"not corrected"``: above. The thresholds are a judgement, not a theorem.
    """

    median: float
    quantile_90: float
    rms: float
    sd_log_acceptance: float
    ratio: float
    kappa: float
    asymmetry: float
    acceptance_rate: float
    step_size: float
    quadrature_error: float
    num_nan: int
    num_score_evaluations: int
    verdict: str

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.median:.2g} nats (90 %: {self.quantile_90:.2g}), {self.ratio:.0%} of "
            f"sd(log alpha), kappa {self.kappa:.2g}: {self.verdict}"
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
        Random sign vectors at each point, for `kappa` and the asymmetry.
    num_loops
        Triangles from each point.
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

    The cost is ``n (3 + 15 num_loops + 4 num_probes)`` evaluations, and about ``13 max(n, 16)``
    for the search.
    """
    points, time = check_points(score_model, x, t)
    check_counts(num_probes=num_probes, num_loops=num_loops)
    check_step_size(step_size)
    search = step_size is None
    langevin = first_step_size(score_model, points, time) if search else jnp.asarray(step_size)
    loops, leapfrog_step = call_on_model(
        _loops_at_level,
        score_model,
        key,
        points,
        time,
        jnp.sqrt(2.0 * langevin),
        search=search,
        num_probes=num_probes,
        num_loops=num_loops,
        batch_nodes=batch_nodes,
    )
    evaluations = len(points) * (1 + evaluations_per_point(num_probes, num_loops))
    if search:
        target, _ = at_level(score_model, points, time)
        evaluations += len(points) + search_evaluations(target, len(points))
    return summarise(loops, float(leapfrog_step) ** 2 / 2, evaluations)


@partial(jax.jit, static_argnames=("search", "num_probes", "num_loops", "batch_nodes"))
def _loops_at_level(
    model: ScoreModel,
    key: Array,
    points: Array,
    t: Array,
    step_size: Array,
    *,
    search: bool,
    num_probes: int,
    num_loops: int,
    batch_nodes: bool,
) -> tuple[Loops, Array]:
    target, flat = at_level(model, points, t, batch_nodes=batch_nodes)
    key_search, key_loops = jax.random.split(key)
    mass = jnp.ones(flat.shape[1], flat.dtype)
    step_size = step_size.astype(flat.dtype)
    if search:
        step_size = search_step_size(key_search, target, flat, step_size, mass)
    found = measure_loops(
        key_loops, target, target.score_fn, flat, step_size, mass, num_probes, num_loops
    )
    return found, step_size


def measure_loops(
    key: Array,
    target: PathTarget,
    score_fn: Callable[[Array], Array],
    points: Array,
    step_size: Array,
    inverse_mass: Array,
    num_probes: int,
    num_loops: int,
) -> Loops:
    """Integrate `score_fn` around triangles of one-step moves on `target`.

    Parameters
    ----------
    key
        PRNG key.
    target
        What the moves follow: prior score and weight on flat vectors.
    score_fn
        The score that is judged: of one site, or of all.
    points
        Starts, shape ``(n, d)``.
    step_size, inverse_mass
        Leapfrog step and preconditioner of the moves.
    num_probes, num_loops
        For each point.
    """
    metric = metrics.default_metric(inverse_mass)
    nodes = jax.vmap(target.start)(points)
    scores = jax.vmap(score_fn)(points)

    def triangle(key: Array, x: Array, node: tuple, score: Array) -> tuple[Array, ...]:
        key_first, key_second = jax.random.split(key)
        first = propose(key_first, target, x, node, step_size, inverse_mass)
        y = first.corners[-1]
        second = propose(key_second, target, y, first.node, step_size, inverse_mass)
        corners = jnp.stack([x, y, second.corners[-1], x])
        loop = polyline_integral(
            score_fn,
            corners,
            quadrature=ACCURATE,
            score_first=score,
            score_last=score,
            batch_nodes=target.batch_nodes,
        )
        at_corners = jnp.stack([node.prior_score, first.node.prior_score, second.node.prior_score])
        lengths = jnp.linalg.norm(corners[1:] - corners[:-1], axis=1)
        scale = jnp.sum(jnp.linalg.norm(at_corners, axis=1) * lengths)
        log_acceptance = jnp.stack([first.log_acceptance, second.log_acceptance])
        return loop.value, loop.error, scale * jnp.finfo(x.dtype).eps, log_acceptance

    def probe(key: Array, x: Array) -> tuple[Array, Array]:
        signs = jax.random.rademacher(key, x.shape, x.dtype)
        w = metric.scale(x, signs, inv=True, trans=False)
        forward = jax.jvp(score_fn, (x,), (w,))[1]
        (backward,) = jax.vjp(score_fn, x)[1](w)
        scaled = [
            metric.scale(x, v, inv=True, trans=True)
            for v in (forward - backward, forward + backward)
        ]
        return jnp.sum(scaled[0] ** 2), jnp.sum(scaled[1] ** 2)

    # Points are batched, loops and probes follow one another: the batch stays that of the user.
    key_loops, key_probes = jax.random.split(key)
    loop_keys = jax.random.split(key_loops, (num_loops, len(points)))
    probe_keys = jax.random.split(key_probes, (num_probes, len(points)))
    values = jax.lax.map(
        lambda keys: jax.vmap(triangle)(keys, points, nodes, scores), loop_keys
    )
    squares = jax.lax.map(lambda keys: jax.vmap(probe)(keys, points), probe_keys)
    return Loops(*values, *(jnp.mean(square, 0) for square in squares))


def evaluations_per_point(num_probes: int, num_loops: int) -> int:
    """Score evaluations of `measure_loops` for each point, moves by Simpson's rule."""
    corners_and_nodes = 2 + 3 * len(ACCURATE.interior)
    return 2 + num_loops * (2 * 2 + corners_and_nodes) + 4 * num_probes


def summarise(loops: Loops, step_size: float, num_score_evaluations: int) -> LoopDefect:
    """Sum up on the host, where quantiles skip what is not a number.

    Raises
    ------
    ValueError
        If no loop is finite.
    """
    found = Loops(*(np.asarray(value, np.float64) for value in loops))
    finite = np.isfinite(found.integral)
    if not finite.any():
        raise ValueError(
            "No loop integral is finite: the moves leave the region where the score is defined. "
            "Use a smaller `step_size`."
        )
    sizes = np.abs(found.integral[finite])
    median = float(np.median(sizes))
    sd = spread(found.log_acceptance)
    return LoopDefect(
        median=median,
        quantile_90=float(np.quantile(sizes, 0.9)),
        rms=float(np.sqrt(np.mean(sizes**2))),
        sd_log_acceptance=sd,
        ratio=_ratio(median, sd),
        kappa=step_size * float(np.sqrt(np.mean(found.antisymmetric))),
        asymmetry=_ratio(
            float(np.sqrt(np.mean(found.antisymmetric))),
            float(np.sqrt(np.mean(found.symmetric))),
        ),
        acceptance_rate=float(np.mean(acceptance_rate(loops.log_acceptance))),
        step_size=step_size,
        quadrature_error=float(np.median(found.error[finite])),
        num_nan=int(np.sum(~finite)),
        num_score_evaluations=num_score_evaluations,
        verdict=verdict(median, sd, float(np.median(found.rounding[finite]))),
    )


def verdict(median: float, sd_log_acceptance: float, rounding: float = 0.0) -> str:
    """Judge a median disagreement in nats; the thresholds are those of `LoopDefect`."""
    # The ratio of two roundings says nothing.
    ratio = 0.0 if median <= rounding else _ratio(median, sd_log_acceptance)
    if median < _OK[0] and ratio < _OK[1]:
        return "ok"
    if median <= _APPROXIMATE[0] and ratio <= _APPROXIMATE[1]:
        return "approximate"
    return "not corrected"


def spread(log_acceptance: np.ndarray) -> float:
    """Return the standard deviation of the finite log acceptances."""
    finite = log_acceptance[np.isfinite(log_acceptance)]
    return float(np.std(finite)) if finite.size else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    if denominator > 0:
        return numerator / denominator
    return 0.0 if numerator == 0 else float("inf")
