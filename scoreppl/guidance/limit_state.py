r"""Rare events: the probability that a limit state is positive, given the noisy event."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm

from scoreppl.guidance.covariance import denoised_and_covariance, positive_part, square_root
from scoreppl.guidance.random_numbers import standard_numbers
from scoreppl.guidance.view import Guided, View


@dataclass(frozen=True)
class LimitState:
    r"""Guidance for the weight 1[g(x_0) > 0], from values of g alone.

    Given u, g(x_0) is taken as normal with the mean mu and kappa = Cov(x_0, g) that the 2 d sigma
    points of N(m, C) give; sd is their standard deviation of g, times `widening`. Then with Phi and
    phi the normal distribution and density functions and r = phi(mu / sd) / Phi(mu / sd),

    .. math::
        \log \hat w = \log \Phi(\mu / sd), \qquad
        \text{guided} = m + \kappa r / sd, \qquad
        C_+ = C - \kappa \kappa^T r (r + \mu / sd) / sd^2.

    1 + 2 d evaluations a step. The indicator itself says nothing until it is met, the limit
    state does.

    Parameters
    ----------
    limit_state
        The function g of an event (of all score sites, flat), positive where the event happens.
    widening
        Above 1, such as 1.2, the event is seen with an error, by which steps are led less narrowly:
        given u a mixture's tails are heavier than those of a normal law, and paths that cross them
        weigh too much otherwise. For particles that are resampled; weights of whole paths vary more
        by it.

    Raises
    ------
    ValueError
        If `widening` is below 1.
    """

    limit_state: Callable[[Array], Array]
    widening: float = 1.0

    def __post_init__(self) -> None:
        """Check the widening."""
        if not self.widening >= 1.0:
            raise ValueError(f"`widening={self.widening!r}` must be at least 1.")

    def __call__(self, u: Array, view: View) -> Guided:
        """Condition the normal approximation on a positive limit state."""
        denoised, covariance = denoised_and_covariance(u, view)
        root = square_root(covariance)
        numbers = jnp.asarray(standard_numbers(0, u.size, 0), denoised.dtype)
        states = jax.vmap(self.limit_state)(denoised + numbers @ root.T)
        mean = jnp.mean(states)
        sd = self.widening * jnp.sqrt(jnp.mean((states - mean) ** 2) + 1e-12)
        kappa = root @ (numbers.T @ (states - mean)) / len(numbers)
        distance = mean / sd
        log_twist = norm.logcdf(distance)
        ratio = jnp.exp(norm.logpdf(distance) - log_twist)
        narrowing = jnp.clip(ratio * (ratio + distance), 0.0, 0.999) / sd**2
        guided = denoised + kappa * ratio / sd
        narrowed = positive_part(covariance - narrowing * jnp.outer(kappa, kappa))
        return Guided(denoised, guided, log_twist, covariance, narrowed)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1 + 2 * size
