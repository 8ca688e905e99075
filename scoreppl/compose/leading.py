r"""The reverse diffusion that leads a composition's particles.

At noise of standard deviation s the product of the noised models, with exponents of sum Gamma, is
about as narrow as if its data had noise of s / sqrt(Gamma). Seen so, the average of the models'
denoisers is its denoiser, and everything that guides one score model guides a composition. What
this leaves to be corrected is the weight of `scoreppl.samplers.correctors` with c = zeta^2 =
1 / Gamma.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from scoreppl.compose.composition import Composition
from scoreppl.noise import Schedule, register_part
from scoreppl.score import ScoreModel, reverse_diffusion
from scoreppl.solvers import Solver, multistep


@register_part
@dataclass(frozen=True)
class Narrowed:
    """A schedule with less noise for the same signal: sigma / sqrt(power).

    Attributes
    ----------
    noise
        The schedule.
    power
        What its variance is divided by.
    """

    noise: Schedule
    power: Array

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return ``(alpha, sigma)``."""
        alpha, sigma = self.noise(t)
        return alpha, sigma / jnp.sqrt(self.power)

    def log_snr(self, t: ArrayLike) -> Array:
        """Return 2 log(alpha / sigma)."""
        return self.noise.log_snr(t) + jnp.log(self.power)

    def time(self, log_snr: ArrayLike) -> Array:
        """Return the time of a log-SNR."""
        return self.noise.time(jnp.asarray(log_snr) - jnp.log(self.power))


@register_part
@dataclass(frozen=True)
class Leading:
    """A composition as a score model whose reverse diffusion leads to it, but for weights.

    Attributes
    ----------
    composition
        The composition.
    """

    composition: Composition

    @property
    def noise(self) -> Narrowed:
        """The composition's schedule with its noise narrowed by the sum of the exponents."""
        return Narrowed(self.composition.noise, jnp.sum(self.composition.exponents))

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.composition.event_shape

    @property
    def min_time(self) -> Array:
        """The smallest time at which every model can be used."""
        return self.composition.min_time

    @property
    def first_log_snr(self) -> Array:
        """The log-SNR of the most noise that every model reaches."""
        power = jnp.sum(self.composition.exponents)
        return self.composition.first_log_snr + jnp.log(power)

    @property
    def has_log_density(self) -> bool:
        """It has none: it is a process rather than a law."""
        return False

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the average of the models' denoisers by their exponents."""
        u = jnp.asarray(x) / self.composition.noise(t)[0]
        power = jnp.sum(self.composition.exponents)
        return u + (self.composition.denoise(x, t) - u) / power

    def score(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the composition's score, from the average denoiser and the narrowed noise."""
        return self.composition.score(x, t)

    def log_prob(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Refuse: there is none."""
        raise ValueError("The process that leads a composition has no log density.")

    def sample(
        self,
        key: Array,
        sample_shape: tuple[int, ...] = (),
        *,
        num_steps: int = 100,
        solver: Solver = multistep,
        spacing: str | ArrayLike | Sequence[float] = "logsnr",
    ) -> Array:
        """Draw by the reverse diffusion, without weights."""
        return reverse_diffusion(
            self, key, sample_shape, num_steps=num_steps, solver=solver, spacing=spacing
        )


def lead(models: dict[str, ScoreModel]) -> dict[str, ScoreModel]:
    """Put the leading process in the place of each composition."""
    return {
        name: Leading(model) if isinstance(model, Composition) else model
        for name, model in models.items()
    }
