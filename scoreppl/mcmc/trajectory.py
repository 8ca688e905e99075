r"""What a trajectory knows at each point, and the leapfrog step that accumulates log-ratios.

blackjax's kernels ask an integrator for the log density along a trajectory and only ever use
differences of it. The integrator here supplies

.. math:: \int s \cdot dx + \log w(x) - \log w(x_0)

in that place: the prior's part estimated by quadrature of its score along the path that the
leapfrog step walks, the weight's part exact. The two ride in separate fields of a `Node` until
the sum is handed to the acceptance.
"""

# blackjax annotates arrays as float and its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import metrics
from blackjax.mcmc.integrators import IntegratorState
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.line_integral import (
    Quadrature,
    as_quadrature,
    flatten_score,
    scores_between,
    segment_integral,
)

PyTree = Any


class ScoreState(NamedTuple):
    """State of a chain on a score and a weight.

    Attributes
    ----------
    position
        Array or pytree.
    prior_score
        Score of the prior there, a pytree like `position`.
    log_weight
        Exact log weight there, a scalar.
    weight_gradient
        Gradient of the log weight, a pytree like `position` (zero for gradient-free kernels).
    """

    position: PyTree
    prior_score: PyTree
    log_weight: Array
    weight_gradient: PyTree


class ScoreInfo(NamedTuple):
    """What one transition did.

    Attributes
    ----------
    acceptance_rate
        Acceptance probability of the proposal (of NUTS: its average over the tree).
    is_accepted
        Whether the chain moved.
    is_divergent
        Whether the energy error passed the divergence threshold.
    is_nan
        Whether a score, weight or energy of the proposal was not a number; such a proposal is
        rejected.
    log_ratio
        Estimated log prior ratio between the proposal (of NUTS: the new state) and the old state.
    log_ratio_error
        Estimated absolute quadrature error of `log_ratio`.
    num_integration_steps
        Leapfrog steps (1 for proposals without a trajectory).
    num_score_evaluations
        Score evaluations spent.
    """

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array
    is_nan: Array
    log_ratio: Array
    log_ratio_error: Array
    num_integration_steps: Array
    num_score_evaluations: Array


class Node(NamedTuple):
    """One point of a trajectory; it stands where blackjax keeps the log density's gradient.

    Attributes
    ----------
    prior_score, weight_gradient
        Flat arrays; their sum is the force.
    log_weight
        Exact log weight.
    log_ratio, log_ratio_error
        Estimated log prior ratio to the start of the trajectory, and its quadrature error.
    """

    prior_score: Array
    weight_gradient: Array
    log_weight: Array
    log_ratio: Array
    log_ratio_error: Array

    @property
    def force(self) -> Array:
        """Gradient of the whole log target, for proposals only."""
        return self.prior_score + self.weight_gradient


@dataclass(frozen=True)
class PathTarget:
    """Score and weight on flat vectors, with the rule that turns a step into a log-ratio.

    Attributes
    ----------
    score_fn, log_weight_fn
        Prior score and exact log weight of a flat vector.
    log_density_fn
        Exact log density of the prior, if it has one; the quadrature is then not used.
    quadrature
        Rule on each straight segment.
    batch_nodes
        Evaluate a segment's nodes and its end in one batched call.
    use_weight_gradient
        False for kernels that never ask for the weight's gradient.
    """

    score_fn: Callable[[Array], Array]
    log_weight_fn: Callable[[Array], Array]
    log_density_fn: Callable[[Array], Array] | None
    quadrature: Quadrature
    batch_nodes: bool = True
    use_weight_gradient: bool = True

    @property
    def evaluations_per_segment(self) -> int:
        """Score evaluations that one segment costs, its end included."""
        return 1 + (0 if self.log_density_fn else len(self.quadrature.interior))

    def start(self, x: Array) -> Node:
        """Evaluate everything at the start of a chain."""
        return self._node(x, self.score_fn(x), jnp.zeros(()), jnp.zeros(()))

    def advance(self, node: Node, x: Array, y: Array) -> Node:
        """Walk the straight segment from `x`, where `node` is known, to `y`."""
        if self.log_density_fn is not None:
            change = self.log_density_fn(y) - self.log_density_fn(x)
            return self._node(y, self.score_fn(y), node.log_ratio + change, node.log_ratio_error)
        rule = self.quadrature
        if self.batch_nodes:
            # The end rides in the same batch as the interior nodes: one call to the network.
            fractions = jnp.asarray((*rule.interior, 1.0), x.dtype)
            scores = jax.vmap(self.score_fn)(x + fractions[:, None] * (y - x))
            inside, end = scores[:-1], scores[-1]
        else:
            inside = scores_between(self.score_fn, rule, x, y, batch_nodes=False)
            end = self.score_fn(y)
        if rule.has_endpoints:
            inside = jnp.concatenate([node.prior_score[None], inside, end[None]])
        change, error = segment_integral(rule, y - x, inside)
        return self._node(y, end, node.log_ratio + change, node.log_ratio_error + error)

    def _node(self, x: Array, score: Array, log_ratio: Array, error: Array) -> Node:
        if self.use_weight_gradient:
            log_weight, gradient = jax.value_and_grad(self.log_weight_fn)(x)
            # Outside the weight's support there is nothing to follow, and a NaN force would
            # turn a plain rejection into a counted failure.
            gradient = jnp.where(jnp.isneginf(log_weight), 0.0, gradient)
        else:
            log_weight, gradient = self.log_weight_fn(x), jnp.zeros_like(x)
        return Node(score, gradient, log_weight, log_ratio, error)


def leapfrog(target: PathTarget) -> Callable:
    """Velocity Verlet step in the form that blackjax's ``build_kernel(integrator=...)`` takes."""

    def integrator(_: Callable, kinetic_energy_fn: Callable) -> Callable:
        velocity_fn = jax.grad(kinetic_energy_fn)

        def one_step(state: IntegratorState, step_size: Array) -> IntegratorState:
            node = state.logdensity_grad
            momentum = state.momentum + 0.5 * step_size * node.force
            position = state.position + step_size * velocity_fn(momentum)
            node = target.advance(node, state.position, position)
            momentum = momentum + 0.5 * step_size * node.force
            return IntegratorState(position, momentum, log_target(node), node)

        return one_step

    return integrator


def log_target(node: Node) -> Array:
    """Log target up to a constant of the trajectory: where the two parts first meet."""
    return node.log_ratio + node.log_weight


TargetFor = Callable[[Callable[[Array], PyTree]], PathTarget]


def target_builder(
    score_fn: Callable[[PyTree], PyTree],
    log_weight_fn: Callable[[PyTree], Array],
    *,
    log_density_fn: Callable[[PyTree], Array] | None,
    quadrature: str | Quadrature,
    batch_nodes: bool,
    use_weight_gradient: bool = True,
) -> TargetFor:
    """Put user functions on pytrees into the flat form that trajectories use.

    The result waits for the function that restores a position's structure, which is only known
    once there is a position. Warns when the rule's acceptance is known to be wrong.
    """
    rule = as_quadrature(quadrature)
    if rule.biased:
        warnings.warn(
            f"`quadrature={rule.name!r}` biases the stationary law; it is for teaching. "
            "Use 'simpson', which costs one more score evaluation a segment.",
            UserWarning,
            stacklevel=3,
        )

    def target_for(unravel: Callable[[Array], PyTree]) -> PathTarget:
        return PathTarget(
            score_fn=flatten_score(score_fn, unravel),
            log_weight_fn=_scalar("log_weight_fn", log_weight_fn, unravel),
            log_density_fn=log_density_fn and _scalar("log_density_fn", log_density_fn, unravel),
            quadrature=rule,
            batch_nodes=batch_nodes,
            use_weight_gradient=use_weight_gradient,
        )

    return target_for


def _scalar(
    name: str, fn: Callable[[PyTree], Array], unravel: Callable[[Array], PyTree]
) -> Callable[[Array], Array]:
    """Put a scalar function of pytrees on flat vectors, with float32 or wider values."""

    def flat_fn(x: Array) -> Array:
        value = fn(unravel(x))
        if not jax.tree_util.all_leaves([value]) or jnp.shape(value) != ():
            raise ValueError(
                f"`{name}` returned {jax.tree.map(jnp.shape, value)}; it must return a scalar, "
                "shape (), for one position: sum over data and sites, and leave chains to "
                "`jax.vmap`."
            )
        array = jnp.asarray(value)
        return array.astype(jnp.promote_types(array.dtype, jnp.float32))

    return flat_fn


def metric_for(inverse_mass_matrix: Array | None, x: Array) -> metrics.Metric:
    """Return blackjax's metric for positions like `x`; None stands for the identity."""
    inverse = jnp.ones_like(x) if inverse_mass_matrix is None else inverse_mass_matrix
    if jnp.shape(inverse) not in ((x.size,), (x.size, x.size)):
        raise ValueError(
            f"`inverse_mass_matrix` has shape {jnp.shape(inverse)}; a position of {x.size} "
            f"numbers needs shape {(x.size,)} or {(x.size, x.size)}."
        )
    return metrics.default_metric(jnp.asarray(inverse, x.dtype))


def initialiser(target_for: TargetFor) -> Callable[..., ScoreState]:
    """Return the ``init(position, rng_key=None)`` of all kernels; it costs one score."""

    def init(position: PyTree, rng_key: Array | None = None) -> ScoreState:
        for leaf in jax.tree.leaves(position):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise ValueError(
                    f"`position` holds {jnp.result_type(leaf)} values; these kernels move floats "
                    "only. Give integers as floats, and discrete latents to another kernel."
                )
        x, unravel = ravel_pytree(position)
        return pack(position, target_for(unravel).start(x))

    return init


def pack(position: PyTree, node: Node) -> ScoreState:
    """Give a flat node the structure of `position`."""
    unravel = ravel_pytree(position)[1]
    return ScoreState(
        position, unravel(node.prior_score), node.log_weight, unravel(node.weight_gradient)
    )


def unpack(state: ScoreState) -> tuple[Array, Callable[[Array], PyTree], Node]:
    """Flat position, its inverse, and the node that starts the next trajectory at ratio 0."""
    x, unravel = ravel_pytree(state.position)
    zero = jnp.zeros((), jnp.promote_types(x.dtype, jnp.float32))
    node = Node(
        ravel_pytree(state.prior_score)[0],
        ravel_pytree(state.weight_gradient)[0],
        state.log_weight,
        zero,
        zero,
    )
    return x, unravel, node
