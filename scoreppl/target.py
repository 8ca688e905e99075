r"""The target: score priors on some sites, an exact weight on all of them.

.. math:: \pi(x, \theta) \propto w(x, \theta) \prod_i p_i(x_i)

A position is a dictionary of arrays, one a site. Sites with a score model are in *data units*
at noise level t: u = x_t / alpha_t, the data plus noise of standard deviation
sigma_t / alpha_t, so that the weight, which knows only data, applies to u as it stands. In
these units the prior's score is alpha_t s(alpha_t u, t).

The prior's part and the weight's part are separate functions throughout: the first is estimated
from a score, the second is exact, and they meet only in an acceptance.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.score import ScoreModel

Position = dict[str, Array]
Times = Mapping[str, Array]


@dataclass(frozen=True)
class Target:
    """Score models by site name, and the log weight of all sites.

    Attributes
    ----------
    score_models
        One score model for each site that has no density.
    floors
        For each of these sites the smallest time, at which its law is wanted.
    log_weight
        Exact log weight of a position, a scalar; ordinary priors, likelihoods, factors and
        Jacobians are all part of it.
    """

    score_models: Mapping[str, ScoreModel]
    floors: Times
    log_weight: Callable[[Position], Array]

    @property
    def has_log_density(self) -> bool:
        """Whether every score site also has a log density, so that log-ratios are exact."""
        return all(model.has_log_density for model in self.score_models.values())

    def with_models(self, score_models: Mapping[str, ScoreModel]) -> "Target":
        """Return the same weight with other score models at the sites."""
        return Target(score_models, self.floors, self.log_weight)

    def times(self, log_snr: Array) -> dict[str, Array]:
        """Each site's time at a common log-SNR, not below its floor."""
        return {
            name: jnp.maximum(model.noise.time(log_snr), self.floors[name])
            for name, model in self.score_models.items()
        }

    def scales(self, times: Times) -> dict[str, Array]:
        """Noise standard deviation sigma / alpha of each site in data units."""
        levels = {name: model.noise(times[name]) for name, model in self.score_models.items()}
        return {name: sigma / alpha for name, (alpha, sigma) in levels.items()}

    def score(self, position: Position, times: Times) -> Position:
        """Score of the prior alone: zero at sites without a score model."""
        return {
            name: self._each(name, _score, value, times)
            if name in self.score_models
            else jnp.zeros_like(value)
            for name, value in position.items()
        }

    def log_density(self, position: Position, times: Times) -> Array:
        """Log density of the prior up to a constant; only if `has_log_density`."""
        return sum(
            (
                jnp.sum(self._each(name, _log_density, position[name], times))
                for name in self.score_models
            ),
            start=jnp.zeros(()),
        )

    def denoise(self, position: Position, times: Times) -> Position:
        """Replace every score site by its posterior mean E[x_0 | x_t]; keep the others."""
        return {
            name: self._each(name, _denoise, value, times) if name in self.score_models else value
            for name, value in position.items()
        }

    def _each(
        self, name: str, fn: Callable[[Any, Array, Array], Array], value: Array, times: Times
    ) -> Array:
        """Apply a function of one event to a site, over all its plates."""
        model = self.score_models[name]
        event = tuple(model.event_shape)
        batch = value.shape[: value.ndim - len(event)]
        if batch == ():
            return fn(model, value, times[name])
        flat = jax.vmap(lambda u: fn(model, u, times[name]))(value.reshape((-1, *event)))
        return flat.reshape(batch + flat.shape[1:])


def _score(model: ScoreModel, u: Array, t: Array) -> Array:
    alpha, _ = model.noise(t)
    return alpha * model.score(alpha * u, t)


def _log_density(model: ScoreModel, u: Array, t: Array) -> Array:
    return model.log_prob(model.noise(t)[0] * u, t)


def _denoise(model: ScoreModel, u: Array, t: Array) -> Array:
    return model.denoise(model.noise(t)[0] * u, t)
