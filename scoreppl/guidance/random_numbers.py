r"""The weight's mean over fixed draws from the Gaussian approximation of x_0 given u."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from scoreppl.arguments import check_finite
from scoreppl.guidance.covariance import denoised_and_covariance, square_root
from scoreppl.guidance.view import Guided, View


@dataclass(frozen=True)
class RandomNumbers:
    r"""Any cheap weight in low dimension: no gradient, no concavity.

    With draws x_j = m + C^{1/2} z_j from fixed numbers z_j, standardised and in pairs +-z,

    .. math::
        \log \hat w = \log \frac1n \sum_j w(x_j),

    and the guided denoiser and covariance are the weighted mean and covariance of the x_j; the
    covariance as far as the effective number of draws supports it, else C. 1 + 2 d evaluations
    of the score and n of the weight a step.

    Parameters
    ----------
    num_draws
        How many draws, even and more than twice the dimension; otherwise 2 d sigma points.
    floor
        Log weights below this count as this, so that a step from where all weights vanish is
        guided by nothing.
    seed
        Of the fixed numbers.

    Raises
    ------
    ValueError
        If `num_draws` is not a positive even number, or `floor` is not finite.
    """

    num_draws: int = 64
    floor: float = -60.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the number of draws and the floor."""
        if self.num_draws < 2 or self.num_draws % 2:
            raise ValueError(f"`num_draws={self.num_draws}` must be a positive even number.")
        check_finite("floor", self.floor)

    def __call__(self, u: Array, view: View) -> Guided:
        """Weigh the draws."""
        denoised, covariance = denoised_and_covariance(u, view)
        numbers = jnp.asarray(standard_numbers(self.num_draws, u.size, self.seed), denoised.dtype)
        draws = denoised + numbers @ square_root(covariance).T
        found = jax.vmap(view.log_weight)(draws)
        log_weights = jnp.maximum(jnp.where(jnp.isnan(found), -jnp.inf, found), self.floor)
        share = jax.nn.softmax(log_weights)
        guided = share @ draws
        spread = (draws - guided) * jnp.sqrt(share)[:, None]
        effective = 1.0 / jnp.sum(share**2)
        trust = jnp.clip((effective - u.size) / (effective + 1.0), 0.0, 1.0)
        narrowed = trust * spread.T @ spread + (1.0 - trust) * covariance
        log_twist = logsumexp(log_weights) - jnp.log(len(numbers))
        return Guided(denoised, guided, log_twist, covariance, narrowed)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1 + 2 * size


def standard_numbers(num_draws: int, size: int, seed: int) -> np.ndarray:
    """Return fixed numbers of mean zero and unit covariance: normal, or sigma points if few."""
    if num_draws <= 2 * size:
        corners = np.sqrt(size) * np.eye(size)
        return np.concatenate([corners, -corners])
    half = np.random.default_rng(seed).standard_normal((num_draws // 2, size))
    numbers = np.concatenate([half, -half])
    root = np.linalg.cholesky(numbers.T @ numbers / num_draws)
    return np.linalg.solve(root, numbers.T).T
