"""What every kernel of this package shares towards NumPyro's ``MCMC`` and ``Gibbs``."""

# NumPyro declares these fields as properties and blackjax its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
import copy
from collections.abc import Callable
from typing import Any

import jax
from numpyro.handlers import seed
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import constrain_fn

from scoreppl.ppl.potential import Model, Values, flat_scores, log_weight, score_sites
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


def bind_target(
    model: Model, args: tuple, kwargs: dict, noise_level: float | None = None
) -> Target:
    """Bind the weight and the score models to the model's (possibly traced) arguments."""
    priors = score_sites(model, args, kwargs)
    return Target(
        score_models={name: prior.score_model for name, prior in priors.items()},
        floors={
            name: prior.noise_level if noise_level is None else noise_level
            for name, prior in priors.items()
        },
        log_weight=log_weight(model, *args, **kwargs),
    )


def constrainer(model: Model, args: tuple, kwargs: dict) -> Callable[[Values], Values]:
    """From unconstrained values to constrained ones with the deterministic sites."""

    def constrain(z: Values) -> Values:
        flat = seed(flat_scores(model), jax.random.key(0))
        return constrain_fn(flat, args, kwargs, z, return_deterministic=True)

    return constrain


class ScoreKernel(MCMCKernel):
    """Handling of the model, of its arguments and of pickling.

    A kernel supplies NumPyro's ``init`` and ``sample``; its state is a named tuple with fields
    ``z`` (unconstrained values) and ``rng_key``. Nothing that depends on the model's arguments is
    kept on the object: score models and weight are bound anew whenever a function is traced, so
    network parameters given as model arguments stay arguments.
    """

    sample_field = "z"
    # What `sp.estimators.draws_of` asks of a run.
    draws_are_independent = False
    draws_are_weighted = False

    def __init__(self, model: Model, *, noise_level: float | None = None) -> None:
        if not callable(model):
            raise ValueError(
                f"`model` of type {type(model).__name__} is not callable; pass a NumPyro model."
            )
        self._model = model
        self._noise_level = noise_level
        self._sample_fn: Callable | None = None

    @property
    def model(self) -> Model:
        """The model, with score sites that are cheap to draw."""
        return CheapModel(self._model)

    def target(self, *args: Any, **kwargs: Any) -> Target:
        """Score models and weight for the model's arguments, as the diagnostics look at them."""
        return self._target(args, kwargs)

    def _target(self, args: tuple, kwargs: dict) -> Target:
        """Bind the weight and the score models to the model's (possibly traced) arguments."""
        return bind_target(self._model, args, kwargs, self._noise_level)

    def postprocess_fn(self, model_args: tuple, model_kwargs: dict) -> Callable:
        """From unconstrained values to constrained ones with the deterministic sites."""
        return constrainer(self._model, model_args, model_kwargs or {})

    def wrap_model(self, wrapper: Callable) -> "ScoreKernel":
        """Return a copy on ``wrapper(model)``, to be initialised anew."""
        kernel = copy.copy(self)
        kernel._model = wrapper(self._model)
        kernel._sample_fn = None
        return kernel

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the bound step; `MCMC.run` initialises the kernel again."""
        return {**self.__dict__, "_sample_fn": None}
