"""The published practice: a prior of log density zero whose gradient is the score, under NUTS.

It is scarlet2's `ScorePrior` (0.5.1), which NumPyro's NUTS takes without a warning. Where that
package is installed its own class is used, and otherwise the same construction, in a few lines.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from case_studies.galaxies.scenes import flux, see, size

Score = Callable[[Array], Array]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def zero(score: Score, x: Array) -> Array:
    """Return 0, with the score of `x` as its gradient."""
    return jnp.zeros(())


def _forward(score: Score, x: Array) -> tuple[Array, Array]:
    return jnp.zeros(()), score(x)


def _backward(score: Score, found: Array, cotangent: Array) -> tuple[Array]:
    return (cotangent * found,)


zero.defvjp(_forward, _backward)


class ZeroDensity(dist.Distribution):
    """A distribution of log density zero whose gradient is a score."""

    support = constraints.real_vector  # type: ignore[assignment]
    pytree_aux_fields = ("score",)

    def __init__(self, score: Score) -> None:
        self.score = score
        super().__init__((), ())

    def log_prob(self, value: Array) -> Array:
        """Return 0."""
        return zero(self.score, value)


def is_original() -> bool:
    """Whether scarlet2's own class is there to be run."""
    return importlib.util.find_spec("scarlet2") is not None


def zero_density(score: Score, shape: tuple[int, ...]) -> dist.Distribution:
    """Return scarlet2's prior of a score, or the same construction without that package."""
    if not is_original():
        return ZeroDensity(score)
    from scarlet2.nn import ScorePrior

    return ScorePrior(_Called(score), shape)


class _Called:
    """A score as scarlet2 takes one: it binds ``model.__call__`` and adds a leading axis."""

    def __init__(self, score: Score) -> None:
        self.score = score

    def __call__(self, x: Array) -> Array:
        return jax.vmap(self.score)(x)


def one_galaxy(
    rows: Array, columns: Array, noise: Array, y: Array, *, score: Score, shape: tuple[int, ...]
) -> None:
    """State the model of one galaxy as practised: in pixels, with the package's gradient."""
    x = jnp.asarray(numpyro.sample("x", zero_density(score, shape)))
    numpyro.deterministic("flux", flux(x))
    numpyro.deterministic("size", size(x))
    numpyro.sample("y", dist.Normal(see(x, rows, columns), noise).to_event(3), obs=y)
