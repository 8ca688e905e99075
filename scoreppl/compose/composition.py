"""Products of powers of score models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.compose.checks import checked_models, is_same
from scoreppl.noise import Schedule, is_concrete, register_part
from scoreppl.score import ScoreModel, reverse_diffusion
from scoreppl.solvers import Solver, multistep


@register_part
@dataclass(frozen=True, init=False, eq=False)
class Composition:
    r"""Product of powers of score models, :math:`\prod_i p_i^{\gamma_i}`, not normalised.

    Its noise levels are those of the first model; the others are evaluated at equal log-SNR, so
    schedules may differ. At every level it is the product of the noised models.

    Attributes
    ----------
    models
        Score models of one event shape.
    exponents
        Their powers, shape ``(len(models),)``, of positive sum: at high noise every model is the
        same wide Gaussian, and the composition is one only then.
    """

    models: tuple[ScoreModel, ...]
    exponents: Array
    shares_noise: tuple[bool, ...] = field(metadata={"static": True})

    def __init__(self, models: Sequence[ScoreModel], exponents: ArrayLike) -> None:
        parts, powers = _flattened(checked_models(models), exponents)
        object.__setattr__(self, "models", parts)
        object.__setattr__(self, "exponents", powers)
        first = parts[0].noise
        object.__setattr__(
            self, "shares_noise", tuple(is_same(first, model.noise) for model in parts)
        )

    @property
    def noise(self) -> Schedule:
        """The noise schedule of the first model."""
        return self.models[0].noise

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return tuple(self.models[0].event_shape)

    @property
    def min_time(self) -> Array:
        """The smallest time at which every model can be used."""
        return jnp.max(
            jnp.stack(
                [
                    jnp.asarray(model.min_time, float)
                    if shared
                    else self.noise.time(model.noise.log_snr(model.min_time))
                    for model, shared in zip(self.models, self.shares_noise, strict=True)
                ]
            )
        )

    @property
    def first_log_snr(self) -> Array:
        """The log-SNR of the most noise that every model reaches."""
        ends = [model.noise.log_snr(jnp.ones(())) for model in self.models]
        return jnp.max(jnp.stack([jnp.asarray(end) for end in ends]))

    @property
    def has_log_density(self) -> bool:
        """Whether every model has a log density."""
        return all(model.has_log_density for model in self.models)

    def score(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the sum of the models' scores at `t`, each times its exponent."""
        alpha, _ = self.noise(t)
        total = jnp.zeros(self.event_shape)
        for index, (model, u, time) in enumerate(self.places(x, t)):
            scale, _ = model.noise(time)
            total += self.exponents[index] * scale / alpha * model.score(scale * u, time)
        return total

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return (x + sigma^2 score) / alpha, which is no posterior mean of the composition."""
        alpha, _ = self.noise(t)
        u = jnp.asarray(x) / alpha
        total = u
        for index, denoised in enumerate(self.denoise_each(x, t)):
            total += self.exponents[index] * (denoised - u)
        return total

    def denoise_each(self, x: ArrayLike, t: ArrayLike) -> list[Array]:
        """Return E[x_0 | x_t = x] under each of the models."""
        return [
            model.denoise(model.noise(time)[0] * u, time) for model, u, time in self.places(x, t)
        ]

    def log_prob(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Return the sum of the models' log densities, each times its exponent."""
        if not self.has_log_density:
            raise ValueError(
                "A composition of models without densities has no `log_prob`; sp.ScoreSMC and the "
                "line integrals of sp.mcmc need none."
            )
        if t is None:
            values = [model.log_prob(x, None) for model in self.models]
        else:
            values = [
                model.log_prob(model.noise(time)[0] * u, time)
                for model, u, time in self.places(x, t)
            ]
        return jnp.sum(self.exponents * jnp.stack(values))

    def sample(
        self,
        key: Array,
        sample_shape: tuple[int, ...] = (),
        *,
        num_steps: int = 100,
        solver: Solver = multistep,
        spacing: str | ArrayLike | Sequence[float] = "logsnr",
    ) -> Array:
        """Draw by a reverse diffusion with the summed scores: a heuristic, not the composition.

        As `scoreppl.score.reverse_diffusion`. `sp.ScoreSMC` draws from the composition.
        """
        return reverse_diffusion(
            self, key, sample_shape, num_steps=num_steps, solver=solver, spacing=spacing
        )

    def places(self, x: ArrayLike, t: ArrayLike) -> list[tuple[ScoreModel, Array, Any]]:
        """Return each model with the event in data units and the model's own time."""
        u = jnp.asarray(x) / self.noise(t)[0]
        return [
            (model, u, t if shared else model.noise.time(self.noise.log_snr(t)))
            for model, shared in zip(self.models, self.shares_noise, strict=True)
        ]


def _flattened(
    models: tuple[ScoreModel, ...], exponents: ArrayLike
) -> tuple[tuple[ScoreModel, ...], Array]:
    """Check exponents, and put the models of inner compositions in their places."""
    powers = jnp.asarray(exponents, float)
    if powers.shape != (len(models),):
        raise ValueError(
            f"`exponents` has shape {powers.shape}; {len(models)} models need ({len(models)},)."
        )
    # Under `jit` even sums of known arrays are traced, but for those of NumPy.
    known = np.asarray(powers) if is_concrete(powers) else None
    if known is not None and not (np.all(np.isfinite(known)) and np.sum(known) > 0):
        raise ValueError(
            f"The exponents {known} must be finite and of positive sum: at high noise "
            "all models are the same wide Gaussian, and its power must be one, too."
        )
    parts: list[ScoreModel] = []
    kept: list[Array] = []
    for model, power in zip(models, powers, strict=True):
        inner = model.models if isinstance(model, Composition) else (model,)
        inside = model.exponents if isinstance(model, Composition) else jnp.ones(1)
        parts.extend(inner)
        kept.append(power * inside)
    return tuple(parts), jnp.concatenate(kept)
