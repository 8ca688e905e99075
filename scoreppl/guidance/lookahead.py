r"""LiDAR: guidance by draws made ahead, without any gradient (arXiv:2602.03211)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.scipy.special import logsumexp

from scoreppl.arguments import check_finite
from scoreppl.guidance.view import Guided, View
from scoreppl.noise.schedule import register_part


@register_part
@dataclass(frozen=True)
class Lookahead:
    r"""Shift the denoiser by a difference of two softmax means over draws made ahead.

    With draws x_j of the prior by any generator, their log weights r_j and
    l_j = -|u - x_j|^2 / (2 s^2),

    .. math::
        \log \hat w(u) = \log \sum_j e^{l_j + \lambda r_j} - \log \sum_j e^{l_j}, \qquad
        \text{shift} = \gamma \sum_j
            \left[\mathrm{softmax}(l + \lambda r)_j - \mathrm{softmax}(l)_j\right] x_j,

    and with gamma = 1 the shift is s^2 times the gradient of the log twist. One evaluation a
    step. In high dimension the softmax picks the nearest draw, so that lambda is no temperature.

    Parameters
    ----------
    draws
        Draws of the score sites, flat, shape ``(n, d)``.
    log_weights
        Their log weights, shape ``(n,)``.
    tilt
        The factor lambda of the log weights.
    strength
        The factor gamma of the shift.
    min_scale
        Guide only where the noise standard deviation is above this.

    Raises
    ------
    ValueError
        If the shapes do not fit, or an argument holds NaN or infinite numbers; a draw of weight
        zero may have the log weight minus infinity, but not all draws.
    """

    draws: Array
    log_weights: Array
    tilt: Array | float = 1.0
    strength: Array | float = 1.0
    min_scale: Array | float = 0.0

    def __post_init__(self) -> None:
        """Check the shapes and the numbers."""
        draws, weights = jnp.shape(self.draws), jnp.shape(self.log_weights)
        if len(draws) != 2 or weights != draws[:1]:
            raise ValueError(
                f"`draws` of shape {draws} and `log_weights` of shape {weights} must be (n, d) "
                "and (n,)."
            )
        for name in ("draws", "tilt", "strength", "min_scale"):
            check_finite(name, getattr(self, name))
        if isinstance(self.log_weights, Tracer):
            return
        if not np.isfinite(np.max(np.asarray(self.log_weights, float), initial=-np.inf)):
            raise ValueError(
                "`log_weights` must be numbers or minus infinity, and finite for one draw at "
                "least: leave out draws without a weight, or make more."
            )

    def __call__(self, u: Array, view: View) -> Guided:
        """Weigh the draws by their distance from `u`, with and without their weights."""
        denoised = view.denoise(u)
        distance = -0.5 * jnp.sum(((u - self.draws) / view.scale) ** 2, -1)
        tilted = distance + self.tilt * self.log_weights
        difference = jax.nn.softmax(tilted) - jax.nn.softmax(distance)
        acts = jnp.mean(view.scale) > self.min_scale
        shift = jnp.where(acts, self.strength * difference @ self.draws, 0.0)
        log_twist = jnp.where(acts, logsumexp(tilted) - logsumexp(distance), 0.0)
        return Guided(denoised, denoised + shift, log_twist)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return 1
