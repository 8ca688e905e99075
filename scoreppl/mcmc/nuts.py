"""The No-U-Turn sampler on a score and an exact weight: blackjax's NUTS, our integrator."""

# blackjax annotates arrays as float and its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from blackjax.mcmc import nuts as blackjax_nuts
from blackjax.mcmc.hmc import HMCState
from jax import Array

from scoreppl.line_integral import Quadrature
from scoreppl.mcmc.trajectory import (
    ScoreInfo,
    ScoreState,
    initialiser,
    leapfrog,
    log_target,
    metric_for,
    pack,
    target_builder,
    unpack,
)

PyTree = Any


def nuts(
    score_fn: Callable[[PyTree], PyTree],
    log_weight_fn: Callable[[PyTree], Array],
    *,
    step_size: float | Array,
    inverse_mass_matrix: Array | None = None,
    quadrature: str | Quadrature = "simpson",
    log_density_fn: Callable[[PyTree], Array] | None = None,
    batch_nodes: bool = True,
    max_num_doublings: int = 10,
    divergence_threshold: float = 1000.0,
) -> SamplingAlgorithm:
    """NUTS whose tree weights come from the line integral along the trajectory.

    Parameters
    ----------
    score_fn, log_weight_fn, step_size, inverse_mass_matrix, quadrature, log_density_fn, \
batch_nodes, divergence_threshold
        As in `scoreppl.mcmc.hmc`.
    max_num_doublings
        Greatest depth of the tree.

    Returns
    -------
    SamplingAlgorithm
        ``init(position) -> ScoreState`` and ``step(key, state) -> (ScoreState, ScoreInfo)``.
        The info's ``acceptance_rate`` averages over the tree, and ``is_accepted`` says whether
        the state changed.

    Notes
    -----
    Exact for a score that is a gradient, up to quadrature. Long trajectories gather a network's
    curl, so `scoreppl.mcmc.mala` is the better choice on networks. Hoffman and Gelman,
    arXiv:1111.4246; multinomial weights as in Betancourt, arXiv:1701.02434.
    """
    target_for = target_builder(
        score_fn,
        log_weight_fn,
        log_density_fn=log_density_fn,
        quadrature=quadrature,
        batch_nodes=batch_nodes,
    )

    def step(key: Array, state: ScoreState) -> tuple[ScoreState, ScoreInfo]:
        x, unravel, node = unpack(state)
        target = target_for(unravel)
        kernel = blackjax_nuts.build_kernel(leapfrog(target), divergence_threshold)
        new, info = kernel(
            key,
            HMCState(x, log_target(node), node),
            target.score_fn,
            jnp.asarray(step_size, x.dtype),
            metric_for(inverse_mass_matrix, x),
            max_num_doublings,
        )
        ends = (info.trajectory_leftmost_state, info.trajectory_rightmost_state)
        is_nan = jnp.isnan(ends[0].logdensity) | jnp.isnan(ends[1].logdensity)
        end = new.logdensity_grad
        return pack(unravel(new.position), end), ScoreInfo(
            acceptance_rate=info.acceptance_rate,
            is_accepted=jnp.any(new.position != x),
            is_divergent=info.is_divergent,
            is_nan=is_nan,
            log_ratio=end.log_ratio,
            log_ratio_error=end.log_ratio_error,
            num_integration_steps=info.num_integration_steps,
            num_score_evaluations=info.num_integration_steps * target.evaluations_per_segment,
        )

    return SamplingAlgorithm(initialiser(target_for), step)
