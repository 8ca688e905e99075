r"""Random walk and Barker proposals, accepted by the integral along the chord.

Barker's proposal (Livingstone and Zanella, arXiv:1908.11812) moves every coordinate by
:math:`b z` with z Gaussian and the sign b drawn with probability :math:`\mathrm{sigmoid}(z g)`,
g the gradient: skewed towards higher density, robust to a step that is too long. The random
walk asks for no gradient of the weight, which may be a black box.
"""

# blackjax annotates arrays as float and its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from blackjax.mcmc import metrics
from blackjax.mcmc.proposal import static_binomial_sampling
from jax import Array

from scoreppl.line_integral import Quadrature
from scoreppl.mcmc.trajectory import (
    Node,
    PathTarget,
    ScoreInfo,
    ScoreState,
    initialiser,
    log_target,
    metric_for,
    pack,
    target_builder,
    unpack,
)

PyTree = Any
Propose = Callable[[Array, Array, Node, PathTarget, metrics.Metric], tuple[Array, Node, Array]]


def random_walk(
    score_fn: Callable[[PyTree], PyTree],
    log_weight_fn: Callable[[PyTree], Array],
    *,
    step_size: float | Array,
    inverse_mass_matrix: Array | None = None,
    quadrature: str | Quadrature = "gauss_lobatto",
    log_density_fn: Callable[[PyTree], Array] | None = None,
    batch_nodes: bool = True,
) -> SamplingAlgorithm:
    """Gaussian random walk with the chord integral; the weight needs no gradient.

    Parameters
    ----------
    score_fn
        Score of the prior: position to a pytree like it, zero on leaves without a score.
    log_weight_fn
        Exact log weight; it may be discontinuous, ``-inf`` or not differentiable.
    step_size
        Standard deviation of the proposal, times the square root of `inverse_mass_matrix`
        (shape ``(d,)`` or ``(d, d)``, default identity).
    quadrature, log_density_fn, batch_nodes
        As in `scoreppl.mcmc.hmc`. The chord is long, hence four Lobatto nodes by default.

    Returns
    -------
    SamplingAlgorithm
        ``init(position) -> ScoreState`` and ``step(key, state) -> (ScoreState, ScoreInfo)``.
    """

    def propose(
        key: Array, x: Array, node: Node, target: PathTarget, metric: metrics.Metric
    ) -> tuple[Array, Node, Array]:
        noise = jax.random.normal(key, x.shape, x.dtype)
        y = x + jnp.asarray(step_size, x.dtype) * metric.scale(x, noise, inv=True, trans=False)
        return y, target.advance(node, x, y), jnp.zeros(())

    return _chord_algorithm(
        propose,
        score_fn,
        log_weight_fn,
        inverse_mass_matrix,
        quadrature,
        log_density_fn,
        batch_nodes,
        use_weight_gradient=False,
    )


def barker(
    score_fn: Callable[[PyTree], PyTree],
    log_weight_fn: Callable[[PyTree], Array],
    *,
    step_size: float | Array,
    inverse_mass_matrix: Array | None = None,
    quadrature: str | Quadrature = "gauss_lobatto",
    log_density_fn: Callable[[PyTree], Array] | None = None,
    batch_nodes: bool = True,
) -> SamplingAlgorithm:
    """Barker proposal with the chord integral; arguments as in `random_walk`.

    The weight must be differentiable: the skew follows the prior score plus the gradient of
    the log weight.
    """

    def propose(
        key: Array, x: Array, node: Node, target: PathTarget, metric: metrics.Metric
    ) -> tuple[Array, Node, Array]:
        key_noise, key_sign = jax.random.split(key)
        noise = jax.random.normal(key_noise, x.shape, x.dtype)
        noise *= jnp.asarray(step_size, x.dtype)
        drift = metric.scale(x, node.force, inv=True, trans=True)
        keep = jax.random.bernoulli(key_sign, jax.nn.sigmoid(noise * drift))
        move = jnp.where(keep, noise, -noise)
        y = x + metric.scale(x, move, inv=True, trans=False)
        new = target.advance(node, x, y)
        back = metric.scale(y, new.force, inv=True, trans=True)
        # log q(x | y) - log q(y | x); the symmetric Gaussian factors cancel.
        ratio = jnp.sum(jax.nn.softplus(-move * drift) - jax.nn.softplus(move * back))
        return y, new, ratio

    return _chord_algorithm(
        propose,
        score_fn,
        log_weight_fn,
        inverse_mass_matrix,
        quadrature,
        log_density_fn,
        batch_nodes,
        use_weight_gradient=True,
    )


def _chord_algorithm(
    propose: Propose,
    score_fn: Callable[[PyTree], PyTree],
    log_weight_fn: Callable[[PyTree], Array],
    inverse_mass_matrix: Array | None,
    quadrature: str | Quadrature,
    log_density_fn: Callable[[PyTree], Array] | None,
    batch_nodes: bool,
    use_weight_gradient: bool,
) -> SamplingAlgorithm:
    target_for = target_builder(
        score_fn,
        log_weight_fn,
        log_density_fn=log_density_fn,
        quadrature=quadrature,
        batch_nodes=batch_nodes,
        use_weight_gradient=use_weight_gradient,
    )

    def step(key: Array, state: ScoreState) -> tuple[ScoreState, ScoreInfo]:
        x, unravel, node = unpack(state)
        target = target_for(unravel)
        key_propose, key_accept = jax.random.split(key)
        metric = metric_for(inverse_mass_matrix, x)
        y, new, proposal_ratio = propose(key_propose, x, node, target, metric)
        log_acceptance = log_target(new) - log_target(node) + proposal_ratio
        is_nan = jnp.isnan(log_acceptance)
        (position, node_out), (accepted, rate, _) = static_binomial_sampling(
            key_accept, jnp.where(is_nan, -jnp.inf, log_acceptance), (x, node), (y, new)
        )
        return pack(unravel(position), node_out), ScoreInfo(
            acceptance_rate=rate,
            is_accepted=accepted,
            is_divergent=jnp.zeros((), bool),
            is_nan=is_nan,
            log_ratio=new.log_ratio,
            log_ratio_error=new.log_ratio_error,
            num_integration_steps=jnp.ones((), int),
            num_score_evaluations=jnp.asarray(target.evaluations_per_segment),
        )

    return SamplingAlgorithm(initialiser(target_for), step)
