"""Warm-up of step size and mass matrix: Stan's windows, from blackjax's own pieces.

blackjax's window adaptation calls ``algorithm.init`` with a log density, which a score prior
lacks; its dual averaging, Welford estimate and schedule need none and are used as they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
from blackjax.adaptation.staged_adaptation import build_schedule
from blackjax.adaptation.step_size import dual_averaging_adaptation
from jax import Array


class AdaptationState(NamedTuple):
    """Current tuning and the statistics behind it.

    Attributes
    ----------
    step_size, inverse_mass_matrix
        To be used for the next transition.
    dual_averaging, welford
        Statistics of blackjax's adaptations.
    """

    step_size: Array
    inverse_mass_matrix: Array
    dual_averaging: Any
    welford: Any


class Adaptation(NamedTuple):
    """Pure functions of one warm-up.

    Attributes
    ----------
    init
        ``init(step_size, inverse_mass_matrix) -> AdaptationState``.
    update
        ``update(state, index, position, acceptance_rate) -> AdaptationState`` after transition
        number `index` of the warm-up; the last update freezes the averaged step size.
    """

    init: Callable[[Array, Array], AdaptationState]
    update: Callable[[AdaptationState, Array, Array, Array], AdaptationState]


def window_adaptation(
    num_warmup: int,
    *,
    target_acceptance_rate: float,
    dense_mass: bool = False,
    adapt_step_size: bool = True,
    adapt_mass_matrix: bool = True,
) -> Adaptation:
    """Build the warm-up of `num_warmup` transitions.

    Parameters
    ----------
    num_warmup
        Length of the warm-up; below 20 only the step size is adapted.
    target_acceptance_rate
        Mean acceptance that dual averaging aims at (Hoffman and Gelman, arXiv:1111.4246).
    dense_mass
        Estimate a full instead of a diagonal covariance.
    adapt_step_size, adapt_mass_matrix
        Leave one or both as given.
    """
    if not 0.0 < target_acceptance_rate < 1.0:
        raise ValueError(
            f"`target_accept_prob={target_acceptance_rate}` must lie strictly between 0 and 1."
        )
    step_init, step_update, step_final = dual_averaging_adaptation(target_acceptance_rate)
    mass_init, mass_update, mass_final = mass_matrix_adaptation(not dense_mass)
    schedule = jnp.asarray(build_schedule(num_warmup)).reshape(-1, 2)

    def init(step_size: Array, inverse_mass_matrix: Array) -> AdaptationState:
        size = inverse_mass_matrix.shape[-1]
        if inverse_mass_matrix.shape != ((size, size) if dense_mass else (size,)):
            raise ValueError(
                f"`inverse_mass_matrix` of shape {inverse_mass_matrix.shape} does not go with "
                f"`dense_mass={dense_mass}`: it must be (d, d) if dense and (d,) if not."
            )
        return AdaptationState(
            jnp.asarray(step_size, float),
            jnp.asarray(inverse_mass_matrix, float),
            step_init(jnp.asarray(step_size, float)),
            mass_init(size, inverse_mass_matrix),
        )

    def end_of_window(state: AdaptationState) -> AdaptationState:
        welford = mass_final(state.welford)
        averaged = step_final(state.dual_averaging)
        return AdaptationState(averaged, welford.inverse_mass_matrix, step_init(averaged), welford)

    def update(
        state: AdaptationState, index: Array, position: Array, acceptance_rate: Array
    ) -> AdaptationState:
        slow, window_ends = schedule[index]
        if adapt_step_size:
            averaging = step_update(state.dual_averaging, acceptance_rate)
            last = index == num_warmup - 1
            step_size = jnp.where(last, step_final(averaging), jnp.exp(averaging.log_step_size))
            state = state._replace(step_size=step_size, dual_averaging=averaging)
        if adapt_mass_matrix:
            seen = mass_update(state.welford, position)
            state = state._replace(
                welford=jax.tree.map(lambda a, b: jnp.where(slow, a, b), seen, state.welford)
            )
            ended = end_of_window(state)
            if not adapt_step_size:
                ended = ended._replace(
                    step_size=state.step_size, dual_averaging=state.dual_averaging
                )
            state = jax.tree.map(lambda a, b: jnp.where(window_ends, a, b), ended, state)
        return state

    return Adaptation(init, update)
