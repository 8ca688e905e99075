"""Minority samples: how far a denoiser pulls an event to what is common, as shift and as weight."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoreppl.arguments import check_finite
from scoreppl.guidance.unguided import Unguided
from scoreppl.guidance.view import Guidance, Guided, View
from scoreppl.score import ScoreModel

_UNGUIDED = Unguided()


@dataclass(frozen=True)
class Minority:
    r"""Propose rare events: move D(u) away from what its noised copies are denoised to.

    A denoiser pulls rare events towards common ones (Um et al., arXiv:2301.12334), so the distance
    of D(u) to D(D(u) + s z) is a measure of rarity that needs the network alone (Um and Ye,
    arXiv:2407.11555). With c the denoiser's mean squared error, half a gradient step of length c
    on that squared distance over c, the second denoiser held fixed as in the paper, is

    .. math::
        \text{shift} = \lambda \, \frac1n \sum_j \left[D(u) - D(D(u) + s z_j)\right],

    added to the shift of another guidance. The target stays the target: path weights undo the
    preference, which then only makes rare modes of the *target* harder to miss. For rare events as
    they come use the paths without weights, or put `minority_log_weight` into the model.

    Parameters
    ----------
    strength
        The factor lambda.
    num_draws
        How many z_j, even: they are fixed, and come in pairs +-z.
    guidance
        The guidance that is added to; `Unguided` by default.
    seed
        Of the numbers z_j.

    Raises
    ------
    ValueError
        If `num_draws` is not a positive even number.

    Notes
    -----
    The paper noises again to one fixed level; here it is the level of u, so that a guidance needs
    one denoiser. `num_draws` evaluations a step besides those of the other guidance.
    """

    strength: float = 1.0
    num_draws: int = 2
    guidance: Guidance = _UNGUIDED
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the strength and the number of draws."""
        check_finite("strength", self.strength)
        _check_even(self.num_draws)

    @property
    def needs_gradient(self) -> bool:
        """As the other guidance."""
        return getattr(self.guidance, "needs_gradient", False)

    def __call__(self, u: Array, view: View) -> Guided:
        """Add the shift away from the common."""
        found = self.guidance(u, view)
        z = jnp.asarray(_numbers(self.num_draws, u.size, self.seed), u.dtype)
        again = jax.vmap(view.denoise)(found.denoised + view.scale * z)
        away = found.denoised - jnp.mean(again, 0)
        return found._replace(guided=found.guided + self.strength * away)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        cost = getattr(self.guidance, "num_score_evaluations", None)
        return self.num_draws + (cost(size) if cost is not None else 1)


def minority_log_weight(
    model: ScoreModel,
    x: Array,
    *,
    strength: Array | float = 0.5,
    log_snr: Array | float = 0.0,
    num_draws: int = 8,
    seed: int = 0,
) -> Array:
    r"""Log weight of a clean event that prefers the rare: for ``numpyro.factor``.

    .. math::
        \log w(x) = \frac{\lambda}{n} \sum_j \frac{\|x - D(x + s z_j)\|^2}{s^2},

    with fixed numbers z_j: about lambda s^2 times the squared norm of the score at the noise level
    s. As part of the model it is sampled exactly, by any kernel.

    Parameters
    ----------
    model
        The score model of the site.
    x
        A clean event, of the model's event shape.
    strength
        The factor lambda; negative prefers the common. Below 2 the weight has a finite mean under
        any normal prior, at any level.
    log_snr
        Log-SNR of the level s, in which 0 has as much noise as data of unit variance.
    num_draws
        How many z_j, even: they come in pairs +-z. That many evaluations.
    seed
        Of the numbers z_j.

    Returns
    -------
    Array
        The log weight, a scalar.

    Raises
    ------
    ValueError
        If `num_draws` is not a positive even number, or `x` is no event of the model.
    """
    _check_even(num_draws)
    if jnp.shape(x) != tuple(model.event_shape):
        raise ValueError(
            f"`x` of shape {jnp.shape(x)} is no event of the model, whose shape is "
            f"{tuple(model.event_shape)}; map over batches with jax.vmap."
        )
    t = jnp.maximum(model.noise.time(jnp.asarray(log_snr)), model.min_time)
    alpha, sigma = model.noise(t)
    scale = sigma / alpha
    z = jnp.asarray(_numbers(num_draws, jnp.size(x), seed), x.dtype).reshape(-1, *jnp.shape(x))
    again = jax.vmap(lambda z: model.denoise(alpha * (x + scale * z), t))(z)
    return strength * jnp.sum(((x - again) / scale) ** 2) / num_draws


def _numbers(num_draws: int, size: int, seed: int) -> np.ndarray:
    half = np.random.default_rng(seed).standard_normal((num_draws // 2, size))
    return np.concatenate([half, -half])


def _check_even(num_draws: int) -> None:
    if num_draws < 2 or num_draws % 2:
        raise ValueError(f"`num_draws={num_draws}` must be a positive even number.")
