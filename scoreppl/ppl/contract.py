"""What every kernel of this package shares towards NumPyro's ``MCMC`` and ``Gibbs``."""

# NumPyro declares these fields as properties and blackjax its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.handlers import seed
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import constrain_fn, unconstrain_fn
from numpyro.util import is_prng_key

from scoreppl.ppl.potential import (
    Model,
    Values,
    flat_scores,
    log_weight,
    score_sites,
    weight_of_model,
)
from scoreppl.ppl.prior import ScorePrior
from scoreppl.target import Target


class CheapModel:
    """The model with score sites that are cheap to draw, equal to the model it wraps.

    ArviZ replays ``kernel.model`` several times for the observed data and the log likelihood;
    with the model itself every replay would run reverse diffusions whose draws nobody reads.
    `numpyro.infer.Gibbs` compares the models of its blocks, hence the equality.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model under `flat_scores`."""
        return flat_scores(self.model)(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        """Whether the wrapped models are the same."""
        return self.model == (other.model if isinstance(other, CheapModel) else other)

    def __hash__(self) -> int:
        """Hash of the wrapped model."""
        return hash(self.model)


class ScoreKernel(MCMCKernel):
    """Handling of the model, of chains, of resuming and of pickling.

    A kernel supplies `_init_chain` and `_step`, both for one chain; its state is a named tuple
    with fields ``z`` (unconstrained values) and ``rng_key``. Nothing that depends on the model's
    arguments is kept on the object: score models and weight are bound anew whenever a function
    is traced, so network parameters given as model arguments stay arguments.
    """

    sample_field = "z"
    init_num_steps = 30

    def __init__(self, model: Model, *, noise_level: float | None = None) -> None:
        if not callable(model):
            raise ValueError(
                f"`model` of type {type(model).__name__} is not callable; pass a NumPyro model."
            )
        self._model = model
        self._noise_level = noise_level
        self._num_warmup = 0
        self._sample_fn: Callable | None = None

    @property
    def model(self) -> Model:
        """The model, with score sites that are cheap to draw."""
        return CheapModel(self._model)

    def _check(self, priors: dict[str, ScorePrior]) -> None:
        """Look at the score sites once, before anything is compiled."""

    def _init_chain(self, key: Array, z: Values, target: Target) -> Any:
        raise NotImplementedError

    def _step(self, state: Any, target: Target) -> Any:
        raise NotImplementedError

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple,
        model_kwargs: dict,
    ) -> Any:
        """Build the state of one chain, or of a batch of chains from a batch of keys.

        Ordinary latents start at draws from their priors, score sites at the end of a short
        reverse diffusion, unless `init_params` gives them. (Inside `numpyro.infer.Gibbs` score
        sites always start so: Gibbs does not say which of its values the user gave.)
        """
        model_kwargs = model_kwargs or {}
        priors = score_sites(self._model, model_args, model_kwargs)
        self._check(priors)
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

        # Built for all sites, also those that `init_params` gives: it checks the noise level.
        starts = {
            name: ScorePrior(
                prior.score_model,
                noise_level=target.floors[name],
                num_steps=self.init_num_steps,
                batch_shape=prior.draw_shape,
            )
            for name, prior in priors.items()
        }
        starts = {name: prior for name, prior in starts.items() if name not in (init_params or {})}

        def chain(key: Array, z: Values) -> Any:
            key, key_prior = jax.random.split(key)
            return self._init_chain(key, _finite_start(key_prior, z, starts, target), target)

        # Jitted, so that the reverse diffusion compiles once and not operation by operation.
        state = jax.jit(chain if one else jax.vmap(chain))(key_chain, weight.initial)
        self._sample_fn = self._step
        return state

    def sample(self, state: Any, model_args: tuple, model_kwargs: dict) -> Any:
        """Advance the chain, or the batch of chains, by one draw."""
        target = self._target(model_args, model_kwargs or {})
        if is_prng_key(state.rng_key):
            return self._step(state, target)
        return self._step_batch(state, target)

    def _step_batch(self, state: Any, target: Target) -> Any:
        return jax.vmap(lambda chain: self._step(chain, target))(state)

    def target(self, *args: Any, **kwargs: Any) -> Target:
        """Score models and weight for the model's arguments, as the diagnostics look at them."""
        return self._target(args, kwargs)

    def _target(self, args: tuple, kwargs: dict) -> Target:
        """Bind the weight and the score models to the model's (possibly traced) arguments."""
        priors = score_sites(self._model, args, kwargs)
        return Target(
            score_models={name: prior.score_model for name, prior in priors.items()},
            floors={
                name: prior.noise_level if self._noise_level is None else self._noise_level
                for name, prior in priors.items()
            },
            log_weight=log_weight(self._model, *args, **kwargs),
        )

    def postprocess_fn(self, model_args: tuple, model_kwargs: dict) -> Callable:
        """From unconstrained values to constrained ones with the deterministic sites."""

        def constrain(z: Values) -> Values:
            flat = seed(flat_scores(self._model), jax.random.key(0))
            return constrain_fn(flat, model_args, model_kwargs or {}, z, return_deterministic=True)

        return constrain

    def wrap_model(self, wrapper: Callable) -> "ScoreKernel":
        """Return a copy on ``wrapper(model)``, to be initialised anew."""
        kernel = copy.copy(self)
        kernel._model = wrapper(self._model)
        kernel._sample_fn = None
        return kernel

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the bound step; `MCMC.run` initialises the kernel again."""
        return {**self.__dict__, "_sample_fn": None}


def _finite_start(
    key: Array, checked: Values, starts: dict[str, ScorePrior], target: Target
) -> Values:
    """Draw the score sites in `starts` until the weight is finite; keep the other values.

    From a start whose weight is not a number no proposal is ever accepted. After 100 draws the
    start is `checked`, where the weight is known to be finite.
    """
    if not starts:
        return checked

    def draw(state: tuple[Array, Values]) -> tuple[Array, Values]:
        attempt, z = state
        key_attempt = jax.random.fold_in(key, attempt)
        drawn = {
            name: prior.sample(jax.random.fold_in(key_attempt, index)).astype(z[name].dtype)
            for index, (name, prior) in enumerate(starts.items())
        }
        return attempt + 1, z | drawn

    def is_refused(z: Values) -> Array:
        return ~jnp.isfinite(target.log_weight(z))

    _, z = jax.lax.while_loop(
        lambda state: (state[0] == 0) | ((state[0] < 100) & is_refused(state[1])),
        draw,
        (jnp.zeros((), int), checked),
    )
    keep = is_refused(z)
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), checked, z)
