"""The chain behind ScoreMALA, ScoreHMC and ScoreNUTS: state, warm-up, NumPyro's contract."""

# NumPyro declares these fields as properties and blackjax its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.util import unconstrain_fn
from numpyro.util import is_prng_key

from scoreppl import mcmc
from scoreppl.line_integral import Quadrature
from scoreppl.mcmc.adaptation import AdaptationState, window_adaptation
from scoreppl.ppl.contract import ScoreKernel
from scoreppl.ppl.potential import Model, Values, flat_scores, score_sites, weight_of_model
from scoreppl.ppl.prior import ScorePrior
from scoreppl.ppl.starts import finite_start, starting_priors
from scoreppl.target import Target


class LocalState(NamedTuple):
    """State of a local kernel.

    Attributes
    ----------
    i
        Transitions so far, warm-up included.
    num_warmup
        Transitions of the warm-up, after which nothing adapts, whoever resumes the chain.
    z
        Unconstrained values.
    prior_score, log_weight, weight_gradient
        What is known at `z`, the prior's part apart from the weight's.
    accept_prob, mean_accept_prob
        Acceptance of the last transition, and its mean over the phase.
    diverging, is_nan
        Whether the last proposal's energy error was too large, or not a number (rejected).
    log_ratio, log_ratio_error
        Estimated log prior ratio of the last proposal and its quadrature error, in nats.
    num_steps, num_score_evaluations
        Leapfrog steps and score evaluations of the last transition.
    adapt_state
        Holds ``step_size`` and ``inverse_mass_matrix``.
    rng_key
        Key of the next transition.
    """

    i: Array
    num_warmup: Array
    z: Values
    prior_score: Values
    log_weight: Array
    weight_gradient: Values
    accept_prob: Array
    mean_accept_prob: Array
    diverging: Array
    is_nan: Array
    log_ratio: Array
    log_ratio_error: Array
    num_steps: Array
    num_score_evaluations: Array
    adapt_state: AdaptationState
    rng_key: Array

    @property
    def position(self) -> Values:
        """Unconstrained values, as an extra field: NumPyro constrains `z`."""
        return self.z

    @property
    def target_score(self) -> Values:
        """Gradient of the log target at `z`, for Stein control variates."""
        return jax.tree.map(jnp.add, self.prior_score, self.weight_gradient)


class LocalKernel(ScoreKernel):
    """The chain that the three kernels share; they differ in `algorithm` alone."""

    default_fields = ("z", "diverging", "accept_prob", "is_nan")
    warns_on_networks = False

    def __init__(
        self,
        model: Model,
        algorithm: Callable[..., SamplingAlgorithm],
        *,
        noise_level: float | None,
        quadrature: str | Quadrature | None,
        step_size: float,
        inverse_mass_matrix: Array | None,
        adapt_step_size: bool,
        adapt_mass_matrix: bool,
        dense_mass: bool,
        target_accept_prob: float,
        batch_nodes: bool,
    ) -> None:
        super().__init__(model, noise_level=noise_level)
        if not step_size > 0:
            raise ValueError(f"`step_size={step_size}` must be positive.")
        if not 0.0 < target_accept_prob < 1.0:
            raise ValueError(
                f"`target_accept_prob={target_accept_prob}` must lie strictly between 0 and 1."
            )
        self._algorithm = algorithm
        self._num_warmup = 0
        self._quadrature = quadrature
        self._step_size = step_size
        self._inverse_mass_matrix = inverse_mass_matrix
        # A given matrix is adapted as a matrix, also if `dense_mass` was not asked for.
        dense_mass = dense_mass or np.ndim(inverse_mass_matrix) == 2
        self._adaptation_options = {
            "target_acceptance_rate": target_accept_prob,
            "dense_mass": dense_mass,
            "adapt_step_size": adapt_step_size,
            "adapt_mass_matrix": adapt_mass_matrix,
        }
        self._batch_nodes = batch_nodes

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple,
        model_kwargs: dict,
    ) -> LocalState:
        """Build the state of one chain, or of a batch of chains from a batch of keys.

        Ordinary latents start at draws from their priors, score sites at the end of a short
        reverse diffusion, unless `init_params` gives them. (Inside `numpyro.infer.Gibbs` score
        sites always start so: Gibbs does not say which of its values the user gave.)
        """
        model_kwargs = model_kwargs or {}
        priors = score_sites(self._model, model_args, model_kwargs)
        if self.warns_on_networks:
            _warn_on_networks(type(self).__name__, priors)
        self._num_warmup = num_warmup
        one = is_prng_key(rng_key)
        split = jax.random.split if one else jax.vmap(jax.random.split, out_axes=1)
        key_start, key_chain = split(rng_key)
        if init_params and GIBBS_SITES_KWARG in model_kwargs:
            # Gibbs hands over constrained values of all sites of the block, drawn cheaply.
            flat = seed(flat_scores(self._model), jax.random.key(0))
            init_params = unconstrain_fn(flat, model_args, model_kwargs, init_params)
            init_params = {name: v for name, v in init_params.items() if name not in priors}
        target = self._target(model_args, model_kwargs)
        weight = weight_of_model(
            self._model, key_start, model_args, model_kwargs, init_params=init_params
        )
        starts = starting_priors(priors, target, given=init_params or {})

        def chain(key: Array, z: Values) -> LocalState:
            key, key_prior = jax.random.split(key)
            return self._init_chain(key, finite_start(key_prior, z, starts, target), target)

        # Jitted, so that the reverse diffusion compiles once and not operation by operation.
        state = jax.jit(chain if one else jax.vmap(chain))(key_chain, weight.initial)
        self._sample_fn = self._step
        return state

    def sample(self, state: LocalState, model_args: tuple, model_kwargs: dict) -> LocalState:
        """Advance the chain, or the batch of chains, by one draw."""
        target = self._target(model_args, model_kwargs or {})
        step = partial(self._step, target=target)
        return step(state) if is_prng_key(state.rng_key) else jax.vmap(step)(state)

    def _bind(self, target: Target, adaptation: AdaptationState) -> SamplingAlgorithm:
        times = target.floors
        exact = target.has_log_density and self._quadrature is None
        return self._algorithm(
            lambda z: target.score(z, times),
            target.log_weight,
            step_size=adaptation.step_size,
            inverse_mass_matrix=adaptation.inverse_mass_matrix,
            quadrature=self._quadrature or "simpson",
            log_density_fn=(lambda z: target.log_density(z, times)) if exact else None,
            batch_nodes=self._batch_nodes,
        )

    def _init_chain(self, key: Array, z: Values, target: Target) -> LocalState:
        size = ravel_pytree(z)[0].size
        mass = self._inverse_mass_matrix
        if mass is None:
            mass = jnp.eye(size) if self._adaptation_options["dense_mass"] else jnp.ones(size)
        mass = jnp.asarray(mass, float)
        if mass.shape not in ((size,), (size, size)):
            raise ValueError(
                f"`inverse_mass_matrix` has shape {mass.shape}; the latents have {size} "
                f"unconstrained numbers, so it must be ({size},) or ({size}, {size})."
            )
        if self._adaptation_options["dense_mass"] and mass.ndim == 1:
            mass = jnp.diag(mass)
        adaptation = self._adaptation().init(jnp.asarray(self._step_size), mass)
        at = self._bind(target, adaptation).init(z)
        zero, none = jnp.zeros(()), jnp.zeros((), int)
        return LocalState(
            none, jnp.asarray(self._num_warmup, int), z,
            at.prior_score, at.log_weight, at.weight_gradient,
            zero, zero, jnp.zeros((), bool), jnp.zeros((), bool), zero, zero, none, none,
            adaptation, key,
        )  # fmt: skip

    def _adaptation(self) -> Any:
        return window_adaptation(self._num_warmup, **self._adaptation_options)

    def _step(self, state: LocalState, target: Target) -> LocalState:
        key, key_step = jax.random.split(state.rng_key)
        algorithm = self._bind(target, state.adapt_state)
        at = mcmc.ScoreState(state.z, state.prior_score, state.log_weight, state.weight_gradient)
        new, info = algorithm.step(key_step, at)
        adaptation = state.adapt_state
        if self._num_warmup > 0:
            adaptation = jax.lax.cond(
                state.i < state.num_warmup,
                lambda: self._adaptation().update(
                    adaptation, state.i, ravel_pytree(new.position)[0], info.acceptance_rate
                ),
                lambda: adaptation,
            )
        i = state.i + 1
        in_phase = jnp.where(i <= state.num_warmup, i, i - state.num_warmup)
        mean = state.mean_accept_prob
        return LocalState(
            i=i,
            num_warmup=state.num_warmup,
            z=new.position,
            prior_score=new.prior_score,
            log_weight=new.log_weight,
            weight_gradient=new.weight_gradient,
            accept_prob=info.acceptance_rate,
            mean_accept_prob=mean + (info.acceptance_rate - mean) / in_phase,
            diverging=info.is_divergent,
            is_nan=info.is_nan,
            log_ratio=info.log_ratio,
            log_ratio_error=info.log_ratio_error,
            num_steps=info.num_integration_steps,
            num_score_evaluations=info.num_score_evaluations,
            adapt_state=adaptation,
            rng_key=key,
        )

    def refresh(self, state: LocalState, model_args: tuple, model_kwargs: dict) -> LocalState:
        """Evaluate score and weight again at ``state.z``, for `numpyro.infer.Gibbs`."""
        target = self._target(model_args, model_kwargs or {})
        at = self._bind(target, state.adapt_state).init(state.z)
        return state._replace(
            prior_score=at.prior_score,
            log_weight=at.log_weight,
            weight_gradient=at.weight_gradient,
        )

    def get_diagnostics_str(self, state: LocalState) -> str:
        """Step size and mean acceptance for the progress bar."""
        return (
            f"{state.num_steps} steps of size {state.adapt_state.step_size:.2e}. "
            f"acc. prob={state.mean_accept_prob:.2f}"
        )


def _warn_on_networks(kernel: str, priors: dict[str, ScorePrior]) -> None:
    networks = [n for n, p in priors.items() if not p.score_model.has_log_density]
    if networks:
        warnings.warn(
            f"{kernel} moves site(s) {networks} along trajectories on which a network's curl "
            "enters the acceptance. Check sp.diagnostics.report, or use sp.ScoreMALA or "
            "sp.AnnealedScoreMCMC.",
            UserWarning,
            stacklevel=4,
        )
