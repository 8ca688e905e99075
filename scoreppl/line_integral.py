r"""Log-density ratios from a score: quadrature of the score along a path.

For a score that is a gradient,

.. math:: \log p(y) - \log p(x) = \int_0^1 s(x + u (y - x)) \cdot (y - x) \, du,

and the same holds along any path. A network's score is only nearly a gradient; the value then
depends on the path (`scoreppl.diagnostics.loop_defect` measures by how much).

Every rule carries a second, embedded rule on the same nodes; the difference of the two gives an
error estimate at no cost. Estimating a Metropolis ratio this way is due to Sjöberg et al.,
arXiv:2307.14012; the rules are classical.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

PyTree = Any


@dataclass(frozen=True)
class Quadrature:
    """A rule on [0, 1]: ``integral of f = sum of weights * f(nodes)``.

    Attributes
    ----------
    name
        What the rule is called in messages.
    nodes, weights
        Increasing nodes in [0, 1] and their weights, which sum to 1.
    error_weights
        ``weights`` minus the weights of the embedded rule.
    order_ratio
        Exponent that takes the embedded rule's error to this rule's (the ratio of the orders).
    biased
        Whether a Metropolis acceptance with this rule has a fixed point that is visibly wrong
        at working step sizes.
    """

    name: str
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    error_weights: tuple[float, ...]
    order_ratio: float = 1.0
    biased: bool = False

    @property
    def has_endpoints(self) -> bool:
        """Whether the rule uses f(0) and f(1), which a trajectory knows already."""
        return self.nodes[0] == 0.0 and self.nodes[-1] == 1.0

    @property
    def interior(self) -> tuple[float, ...]:
        """The nodes at which a segment needs new score evaluations."""
        return self.nodes[1:-1] if self.has_endpoints else self.nodes


def simpson() -> Quadrature:
    """Simpson's rule: the ends and the midpoint, exact for cubics; one new node a segment."""
    return Quadrature(
        "simpson",
        (0.0, 0.5, 1.0),
        (1 / 6, 2 / 3, 1 / 6),
        (-1 / 3, 2 / 3, -1 / 3),  # embedded: the trapezoid
        order_ratio=5 / 3,
    )


def trapezoid() -> Quadrature:
    r"""Trapezoid rule on the two ends: no new node, for teaching only.

    On a leapfrog segment it telescopes to :math:`\epsilon^2/8 (\|s_y\|^2 - \|s_x\|^2)`, blind
    to everything between the ends, and the chain that uses it has the wrong stationary law.
    """
    return Quadrature(
        "trapezoid",
        (0.0, 1.0),
        (0.5, 0.5),
        (-0.5, 0.5),  # embedded: the left rectangle
        order_ratio=2.0,
        biased=True,
    )


def gauss_legendre(num_nodes: int = 3) -> Quadrature:
    """Gauss-Legendre rule, exact to degree ``2 num_nodes - 1``; all nodes are interior."""
    if num_nodes < 2:
        raise ValueError(
            f"`num_nodes={num_nodes}` must be at least 2: one node leaves no error estimate."
        )
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return _with_embedded(
        f"gauss_legendre({num_nodes})", (nodes + 1) / 2, weights / 2, 2 * num_nodes
    )


def gauss_lobatto(num_nodes: int = 4) -> Quadrature:
    """Gauss-Lobatto rule with both ends, exact to degree ``2 num_nodes - 3``."""
    if num_nodes < 3:
        raise ValueError(
            f"`num_nodes={num_nodes}` must be at least 3: with 2 the rule is the trapezoid."
        )
    legendre = np.polynomial.legendre.Legendre.basis(num_nodes - 1)
    nodes = np.concatenate([[-1.0], np.sort(legendre.deriv().roots().real), [1.0]])
    weights = 2 / (num_nodes * (num_nodes - 1) * legendre(nodes) ** 2)
    nodes = (nodes + 1) / 2
    nodes[0], nodes[-1] = 0.0, 1.0
    return _with_embedded(f"gauss_lobatto({num_nodes})", nodes, weights / 2, 2 * num_nodes - 2)


def _with_embedded(name: str, nodes: np.ndarray, weights: np.ndarray, order: int) -> Quadrature:
    """Embed the interpolatory rule that leaves out the middle node."""
    dropped = len(nodes) // 2
    kept = np.delete(nodes, dropped)
    moments = 1 / np.arange(1, len(kept) + 1)
    embedded = np.insert(np.linalg.solve(np.vander(kept, increasing=True).T, moments), dropped, 0.0)
    return Quadrature(
        name,
        tuple(map(float, nodes)),
        tuple(map(float, weights)),
        tuple(map(float, weights - embedded)),
        order_ratio=(order + 1) / (len(kept) + 1),
    )


_BY_NAME: dict[str, Callable[[], Quadrature]] = {
    "simpson": simpson,
    "gauss_legendre": gauss_legendre,
    "gauss_lobatto": gauss_lobatto,
    "trapezoid": trapezoid,
}


def as_quadrature(quadrature: str | Quadrature) -> Quadrature:
    """Look a rule up by name, or pass a rule through.

    Raises
    ------
    ValueError
        If the name is none of ``'simpson'``, ``'gauss_legendre'`` (3 nodes), ``'gauss_lobatto'``
        (4 nodes) and ``'trapezoid'``.
    """
    if isinstance(quadrature, Quadrature):
        return quadrature
    if not isinstance(quadrature, str) or quadrature not in _BY_NAME:
        known = ", ".join(map(repr, _BY_NAME))
        raise ValueError(f"`quadrature={quadrature!r}` is not known; use a Quadrature or {known}.")
    return _BY_NAME[quadrature]()


class LineIntegral(NamedTuple):
    """Estimate of ``log p(y) - log p(x)``.

    Attributes
    ----------
    value
        The estimate in nats, at least float32.
    error
        Estimated absolute quadrature error in nats. Rough, and on the safe side for smooth
        scores; it says nothing of a network's curl.
    num_score_evaluations
        New score evaluations that were spent.
    """

    value: Array
    error: Array
    num_score_evaluations: int


def segment_integral(rule: Quadrature, displacement: Array, scores: Array) -> tuple[Array, Array]:
    """Value and error estimate of one straight segment from the scores at the rule's nodes.

    Parameters
    ----------
    rule
        The quadrature.
    displacement
        ``y - x``, shape ``(d,)``.
    scores
        Scores at ``rule.nodes``, shape ``(num_nodes, d)``.
    """
    # Half-precision networks: the dot product is formed in float32, where a nat is a nat.
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    slopes = jnp.matmul(
        scores.astype(dtype), displacement.astype(dtype), precision=jax.lax.Precision.HIGHEST
    )
    value = jnp.asarray(rule.weights, dtype) @ slopes
    difference = jnp.abs(jnp.asarray(rule.error_weights, dtype) @ slopes)
    # The embedded rule's relative error would shrink by the ratio of the orders if both rules had
    # reached them. A working chord is half-way there, and the factor 2 makes the estimate cover
    # nine chords in ten (QUADPACK has the same form, with 200 and 3/2).
    spread = jnp.asarray(rule.weights, dtype) @ jnp.abs(slopes - value)
    relative = jnp.minimum(1.0, 2.0 * difference / jnp.maximum(spread, jnp.finfo(dtype).tiny))
    return value, spread * relative ** ((1.0 + rule.order_ratio) / 2.0)


def scores_between(
    score_fn: Callable[[Array], Array], rule: Quadrature, x: Array, y: Array, batch_nodes: bool
) -> Array:
    """Scores at the rule's interior nodes, in one batched call or one after another."""
    points = x + jnp.asarray(rule.interior, x.dtype)[:, None] * (y - x)
    return _evaluate(score_fn, points, batch_nodes)


def _evaluate(score_fn: Callable[[Array], Array], points: Array, batch_nodes: bool) -> Array:
    if len(points) == 0:
        return points
    return jax.vmap(score_fn)(points) if batch_nodes else jax.lax.map(score_fn, points)


def flatten_score(
    score_fn: Callable[[PyTree], PyTree], unravel: Callable[[Array], PyTree]
) -> Callable[[Array], Array]:
    """Put a score of pytrees on flat vectors.

    Raises
    ------
    ValueError
        When called, if the score does not have the structure and shapes of its position.
        Flattening alone would let leaves change places, or a scalar broadcast, unseen.
    """

    def flat_score(x: Array) -> Array:
        position = unravel(x)
        score = score_fn(position)
        leaves, structure = jax.tree.flatten(position)
        score_leaves, score_structure = jax.tree.flatten(score)
        shapes, score_shapes = list(map(jnp.shape, leaves)), list(map(jnp.shape, score_leaves))
        if score_structure != structure or score_shapes != shapes:
            raise ValueError(
                f"`score_fn` returned {jax.tree.map(jnp.shape, score)}; its score must be like the "
                f"position, {jax.tree.map(jnp.shape, position)}, with zeros on leaves that have "
                "no score."
            )
        return ravel_pytree(score)[0]

    return flat_score


def line_integral(
    score_fn: Callable[[PyTree], PyTree],
    x: PyTree,
    y: PyTree,
    *,
    quadrature: str | Quadrature = "simpson",
    score_x: PyTree | None = None,
    score_y: PyTree | None = None,
    batch_nodes: bool = True,
) -> LineIntegral:
    """Integrate a score along the straight line from `x` to `y`.

    Parameters
    ----------
    score_fn
        Score of one event: a pytree like `x` to a pytree like `x`.
    x, y
        The two ends, arrays or pytrees of one structure.
    quadrature
        A rule or its name.
    score_x, score_y
        Scores at the ends where they are known already; computed if a rule with endpoints
        needs them.
    batch_nodes
        Evaluate all nodes in one batched call; False evaluates them one after another, for
        networks whose activations fill the memory.
    """
    return polyline_integral(
        score_fn,
        jax.tree.map(lambda a, b: jnp.stack([a, b]), x, y),
        quadrature=quadrature,
        score_first=score_x,
        score_last=score_y,
        batch_nodes=batch_nodes,
    )


def polyline_integral(
    score_fn: Callable[[PyTree], PyTree],
    points: PyTree,
    *,
    quadrature: str | Quadrature = "simpson",
    score_first: PyTree | None = None,
    score_last: PyTree | None = None,
    batch_nodes: bool = True,
) -> LineIntegral:
    """Integrate a score along a polyline, one rule a segment (composite Simpson by default).

    Parameters
    ----------
    score_fn
        Score of one event.
    points
        The corners: a pytree whose leaves have a leading axis of length ``num_segments + 1``.
    quadrature, batch_nodes
        As in `line_integral`.
    score_first, score_last
        Scores at the two ends, where they are known.
    """
    rule = as_quadrature(quadrature)
    first = jax.tree.map(lambda leaf: leaf[0], points)
    unravel = ravel_pytree(first)[1]
    corners = jax.vmap(lambda point: ravel_pytree(point)[0])(points)
    if corners.shape[0] < 2:
        raise ValueError("`points` must hold at least two points along the leading axis.")
    flat_score = flatten_score(score_fn, unravel)
    segments = corners.shape[0] - 1
    fractions = jnp.asarray(rule.interior, corners.dtype)
    steps = corners[1:] - corners[:-1]
    evaluations = segments * len(rule.interior)
    inside = corners[:-1, None] + fractions[:, None] * steps[:, None]
    flattened = inside.reshape(evaluations, corners.shape[1])
    scores = _evaluate(flat_score, flattened, batch_nodes).reshape(inside.shape)
    if rule.has_endpoints:
        known = {0: score_first, segments: score_last}
        known = {i: ravel_pytree(s)[0] for i, s in known.items() if s is not None}
        missing = [i for i in range(segments + 1) if i not in known]
        evaluations += len(missing)
        if missing:
            computed = _evaluate(flat_score, corners[jnp.asarray(missing)], batch_nodes)
            known |= dict(zip(missing, computed, strict=True))
        ends = jnp.stack([known[i] for i in range(segments + 1)])
        scores = jnp.concatenate([ends[:-1, None], scores, ends[1:, None]], 1)
    values, errors = jax.vmap(partial(segment_integral, rule))(steps, scores)
    return LineIntegral(jnp.sum(values), jnp.sum(errors), evaluations)
