"""A score that is known at one noise level alone."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise import as_float, register_part
from scoreppl.score.model import check_shape

_ONE_LEVEL = (
    "sp.LocalScore is known at one noise level alone, and {needs} all of them. Use sp.ScoreMALA, "
    "sp.ScoreHMC or sp.ScoreNUTS, whose moves stay at one level, or give the network with its "
    "schedule to sp.ScoreNetwork."
)


@register_part
@dataclass(frozen=True)
class _OneLevel:
    """The schedule of a score that has none: data as they are, and no time but 0."""

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return 1 and 0."""
        return jnp.ones(jnp.shape(t)), jnp.zeros(jnp.shape(t))

    def log_snr(self, t: ArrayLike) -> Array:
        """Raise, as there are no levels."""
        raise ValueError(_ONE_LEVEL.format(needs="this needs"))

    def time(self, log_snr: ArrayLike) -> Array:
        """Raise, as there are no levels."""
        raise ValueError(_ONE_LEVEL.format(needs="this needs"))


@register_part
@dataclass(frozen=True, eq=False)
class LocalScore:
    """A score at one noise level, without a schedule, for the local kernels.

    The law that `ScoreMALA`, `ScoreHMC` and `ScoreNUTS` sample is that of this score, with what
    noise it was trained at. Chains start at standard normal values unless `init_params` says where:
    without other levels there is no way from noise to data, and none between modes.

    Parameters
    ----------
    score_fn
        ``score_fn(params, x)`` returns the gradient of the log density at one event.
    params
        Pytree of its parameters, which stay arguments of compiled programs; None if it has none.
    event_shape
        Shape of one event.

    Raises
    ------
    ValueError
        If `score_fn` is not callable or `event_shape` no shape.
    """

    score_fn: Callable[[Any, Array], Array] = field(metadata={"static": True})
    params: Any = None
    event_shape: tuple[int, ...] = field(kw_only=True, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not callable(self.score_fn):
            raise ValueError(
                f"`score_fn` of type {type(self.score_fn).__name__} is not callable; it must be "
                "score_fn(params, x)."
            )
        try:
            inspect.signature(self.score_fn).bind(None, None)
        except TypeError:
            raise ValueError(
                "`score_fn` does not take two arguments; it must be score_fn(params, x), so wrap "
                "score(x) as `lambda _, x: score(x)`."
            ) from None
        except ValueError:
            pass  # Functions written in C may have no signature.
        object.__setattr__(self, "event_shape", check_shape("event_shape", self.event_shape))

    @property
    def noise(self) -> _OneLevel:
        """A schedule of one level, without noise."""
        return _OneLevel()

    @property
    def min_time(self) -> float:
        """The one time."""
        return 0.0

    @property
    def has_log_density(self) -> bool:
        """Whether there is a density: no."""
        return False

    def score(self, x: ArrayLike, t: ArrayLike = 0.0) -> Array:
        """Return the score of one event; `t` has no part in it.

        Raises
        ------
        ValueError
            If the score has another shape than the event.
        """
        x = as_float(x)
        found = self.score_fn(self.params, x)
        if jnp.shape(found) != x.shape:
            raise ValueError(
                f"`score_fn` returned shape {jnp.shape(found)} for an event of shape {x.shape}; it "
                "must return the gradient at one event."
            )
        return found

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Raise, as there is no noise to be taken off."""
        raise ValueError(_ONE_LEVEL.format(needs="denoising needs"))

    def log_prob(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Raise, as there is no density."""
        raise ValueError("sp.LocalScore has a score and no density: use a line integral.")

    def sample(self, key: Array, sample_shape: tuple[int, ...] = (), **options: Any) -> Array:
        """Raise, as there is no way from noise to data."""
        raise ValueError(_ONE_LEVEL.format(needs="drawing from it needs"))
