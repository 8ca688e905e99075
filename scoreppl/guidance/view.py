"""What a guidance sees of the target at one noise level, and what it answers."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from jax import Array


class View(NamedTuple):
    """Prior and weight at one noise level, for one particle, on flat vectors in data units.

    A position u = x_0 + s z is the data plus noise of standard deviation s.

    Attributes
    ----------
    denoise
        The prior's denoiser, ``denoise(u)`` = E[x_0 | u], shape ``(d,)``.
    log_weight
        Log weight of an event x_0, a scalar; ordinary latents are held fixed in it.
    scale
        The noise standard deviation s of each coordinate, shape ``(d,)``.
    denoising_variance
        Mean squared error of the denoiser at this level, by coordinate, shape ``(d,)``.
    data_scale
        Standard deviation of the prior's draws, a scalar.
    """

    denoise: Callable[[Array], Array]
    log_weight: Callable[[Array], Array]
    scale: Array
    denoising_variance: Array
    data_scale: Array


class Guided(NamedTuple):
    """A guidance's answer at a position.

    What is said of the prior defines the discretised prior, against which weights are exact:
    `denoised` must be the view's ``denoise(u)``, and `covariance`, if given, the denoiser's. All
    the rest is free: what is poor costs effective draws, and what is not a number guides by
    nothing.

    Attributes
    ----------
    denoised
        E[x_0 | u] of the prior, shape ``(d,)``.
    guided
        Its estimate under the target, E[x_0 w(x_0) | u] / E[w(x_0) | u].
    log_twist
        Estimate of log E[w(x_0) | u], a scalar; what is not finite, minus infinity as well, counts
        as unknown.
    covariance, guided_covariance
        Covariance of x_0 given u under the prior and its estimate under the target, shape
        ``(d, d)`` and positive semi-definite; None for both where only the variance of the level
        is used.
    narrowing
        Columns N, shape ``(d, k)``: where the level's variance is used, the target's covariance
        of x_0 given u is taken as that variance less N N^T; None for no difference.
    """

    denoised: Array
    guided: Array
    log_twist: Array
    covariance: Array | None = None
    guided_covariance: Array | None = None
    narrowing: Array | None = None


class Guidance(Protocol):
    """A map from a position to the guided denoiser: one function is enough.

    However it guides, path weights stay exact for the discretised prior: a poor guidance costs
    effective draws. Parts that state their price have a method ``num_score_evaluations(d)``, and
    those that follow the weight's gradient an attribute ``needs_gradient = True``.
    """

    def __call__(self, u: Array, view: View) -> Guided:
        """Guide the denoiser at the position `u`, shape ``(d,)``."""
        ...
