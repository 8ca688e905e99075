"""Mixtures of score models."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.compose.checks import checked_models, is_same
from scoreppl.compose.composition import Composition
from scoreppl.noise import Schedule, is_concrete, register_part
from scoreppl.score import ScoreModel
from scoreppl.solvers import Solver, multistep


@register_part
@dataclass(frozen=True, init=False, eq=False)
class Mixture:
    r"""Mixture of score models, :math:`\sum_i w_i p_i`, which is one at every noise level, too.

    Its score needs the densities' ratios: it is there if all models have log densities. Draws
    need none: `sample` chooses a model and draws from it. Nor does `sp.ScoreSMC`: it takes a
    mixture apart into runs of its models, or follows the ratios along its particles' paths.

    Attributes
    ----------
    models
        Score models of one event shape and one noise schedule.
    log_weights
        Normalised log weights.
    """

    models: tuple[ScoreModel, ...]
    log_weights: Array

    def __init__(self, models: Sequence[ScoreModel], log_weights: ArrayLike | None = None) -> None:
        parts = checked_models(models)
        if not all(is_same(parts[0].noise, model.noise) for model in parts):
            raise ValueError("The `models` of a mixture must share one noise schedule.")
        weights = jnp.zeros(len(parts)) if log_weights is None else jnp.asarray(log_weights, float)
        if weights.shape != (len(parts),):
            raise ValueError(
                f"`log_weights` has shape {weights.shape}; {len(parts)} models need "
                f"({len(parts)},)."
            )
        if is_concrete(weights):
            known = np.asarray(weights)
            if np.any(np.isnan(known) | (known == np.inf)) or not np.any(np.isfinite(known)):
                raise ValueError(
                    f"`log_weights={log_weights}` must be numbers or -inf, and one of them finite."
                )
        parts, weights = _flattened(parts, jax.nn.log_softmax(weights))
        object.__setattr__(self, "models", parts)
        object.__setattr__(self, "log_weights", weights)

    @property
    def noise(self) -> Schedule:
        """The noise schedule."""
        return self.models[0].noise

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return tuple(self.models[0].event_shape)

    @property
    def min_time(self) -> Array:
        """The smallest time at which every model can be used."""
        return jnp.max(jnp.stack([jnp.asarray(model.min_time, float) for model in self.models]))

    @property
    def has_log_density(self) -> bool:
        """Whether every model has a log density, and is itself at every noise level."""
        return not self.has_compositions and all(model.has_log_density for model in self.models)

    @property
    def has_compositions(self) -> bool:
        """Whether a model is a composition, which noise does not keep one, and not normalised."""
        return any(isinstance(model, Composition) for model in self.models)

    def probabilities(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the probability that x_t came from each model, shape ``(len(models),)``."""
        return jax.nn.softmax(self._log_parts(x, t))

    def score(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the models' scores, averaged by `probabilities`."""
        scores = jnp.stack([model.score(x, t) for model in self.models])
        return jnp.tensordot(self.probabilities(x, t), scores, 1)

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return E[x_0 | x_t = x]."""
        means = jnp.stack([model.denoise(x, t) for model in self.models])
        return jnp.tensordot(self.probabilities(x, t), means, 1)

    def log_prob(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Return log p_t(x), up to a constant if the models' densities are up to one."""
        return jax.scipy.special.logsumexp(self._log_parts(x, t))

    def sample(
        self,
        key: Array,
        sample_shape: tuple[int, ...] = (),
        *,
        num_steps: int = 100,
        solver: Solver = multistep,
        spacing: str | ArrayLike | Sequence[float] = "logsnr",
    ) -> Array:
        """Draw a model by its weight and x_0 from it, as `scoreppl.score.reverse_diffusion`.

        Costs the evaluations of all models.
        """
        if self.has_compositions:
            raise ValueError(
                "A mixture of compositions has no plain draws: these need their integrals. Use "
                "sp.ScoreSMC(score_model=...)."
            )
        key_model, key_draw = jax.random.split(key)
        chosen = jax.random.categorical(key_model, self.log_weights, shape=sample_shape)
        keys = jax.random.split(key_draw, len(self.models))
        draws = jnp.stack(
            [
                model.sample(k, sample_shape, num_steps=num_steps, solver=solver, spacing=spacing)
                for model, k in zip(self.models, keys, strict=True)
            ]
        )
        index = chosen.reshape((1, *chosen.shape) + (1,) * len(self.event_shape))
        return jnp.take_along_axis(draws, index, axis=0)[0]

    def _log_parts(self, x: ArrayLike, t: ArrayLike | None) -> Array:
        if not self.has_log_density:
            raise ValueError(
                "The score of a mixture needs the ratios of its models' densities, and not all of "
                "these have one at every noise level. Draw with `sample`, or use sp.ScoreSMC, "
                "which needs no ratios."
            )
        values = [model.log_prob(x, t) for model in self.models]
        return self.log_weights + jnp.stack(values)


def _flattened(
    models: tuple[ScoreModel, ...], log_weights: Array
) -> tuple[tuple[ScoreModel, ...], Array]:
    """Put the models of inner mixtures in their places."""
    parts: list[ScoreModel] = []
    kept: list[Array] = []
    for model, log_weight in zip(models, log_weights, strict=True):
        is_mixture = isinstance(model, Mixture)
        parts.extend(model.models if is_mixture else (model,))
        kept.append(log_weight + (model.log_weights if is_mixture else jnp.zeros(1)))
    return tuple(parts), jnp.concatenate(kept)
