"""Coordinates of a score model that are not those of the NumPyro site."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to
from numpyro.distributions.util import sum_rightmost

from scoreppl.noise import is_concrete


class Image(constraints.Constraint):
    """The values that a transform of a score model's coordinates takes.

    `biject_to` of it is the transform, so that the kernels, which move unconstrained values, move
    the score model's own coordinates.
    """

    def __init__(self, transform: Transform, event_dim: int) -> None:
        self.transform = transform
        self._event_dim = event_dim

    @property
    def event_dim(self) -> int:
        """Number of dimensions of an event."""
        return self._event_dim

    def __call__(self, x: Array) -> Array:
        """Whether events lie in the transform's codomain."""
        codomain = self.transform.codomain
        extra = self._event_dim - codomain.event_dim
        inside = constraints.independent(codomain, extra)(x) if extra else codomain(x)
        return jnp.asarray(inside)

    def feasible_like(self, prototype: Array) -> Array:
        """Return values inside, of the shape of `prototype`."""
        return jnp.asarray(self.transform(jnp.zeros_like(prototype)))

    def tree_flatten(self) -> tuple[tuple, tuple]:
        """Take apart for JAX."""
        return (self.transform,), (("transform",), {"_event_dim": self._event_dim})


@biject_to.register(Image)
def _transform_of(image: Image) -> Transform:
    return image.transform


class Unmeasured(Transform):
    """A transform that counts no volume: for what is flat in the coordinates it starts from."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    @property
    def domain(self) -> constraints.Constraint:
        """Domain of the transform."""
        return self.transform.domain

    @property
    def codomain(self) -> constraints.Constraint:
        """Codomain of the transform."""
        return self.transform.codomain

    def __call__(self, x: Array) -> Array:
        """Transform."""
        return jnp.asarray(self.transform(x))

    def _inverse(self, y: Array) -> Array:
        return jnp.asarray(self.transform.inv(y))

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        """Return zeros."""
        return jnp.zeros_like(self.transform.log_abs_det_jacobian(x, y))

    def tree_flatten(self) -> tuple[tuple, tuple]:
        """Take apart for JAX."""
        return (self.transform,), (("transform",), {})


def check_transform(transform: Any, event_shape: tuple[int, ...]) -> None:
    """Refuse what is no transform between events of one shape.

    Raises
    ------
    ValueError
        If it is not.
    """
    if transform is None:
        return
    if not isinstance(transform, Transform):
        raise ValueError(
            f"`transform` of type {type(transform).__name__} is no transform of "
            "numpyro.distributions.transforms, from the score model's coordinates to the site's."
        )
    try:
        found = transform.forward_shape(event_shape)
    except ValueError:
        found = None
    if found != event_shape or not transform.domain.event_dim <= len(event_shape):
        raise ValueError(
            f"`transform={type(transform).__name__}` takes events of shape {event_shape} to "
            f"{found}; it must keep their shape."
        )
    _check_invertible(transform, event_shape)


def _check_invertible(transform: Transform, event_shape: tuple[int, ...]) -> None:
    size = math.prod(event_shape)
    u = jnp.linspace(-1.5, 1.5, 7)[:, None] + jnp.linspace(0.0, 0.2, size)
    u = u.reshape(-1, *event_shape)
    try:
        with warnings.catch_warnings():
            # Of what is no bijection: it is refused below.
            warnings.simplefilter("ignore")
            back = transform.inv(transform(u))
    except NotImplementedError:
        back = jnp.nan
    if is_concrete(back) and not np.allclose(np.asarray(back), np.asarray(u), atol=1e-2):
        raise ValueError(
            f"`transform={type(transform).__name__}` is not inverted by its own `inv` on all real "
            "numbers: it must be one to one there, as the score model's coordinates may be any."
        )


def log_volume(transform: Transform, u: Array, x: Array, event_dim: int) -> Array:
    """Return log |det dx/du| of events, of their batch shape."""
    volume = transform.log_abs_det_jacobian(u, x)
    return sum_rightmost(volume, jnp.ndim(volume) - jnp.ndim(x) + event_dim)


def transformed_score(transform: Transform, x: Array, score: Array, event_dim: int) -> Array:
    r"""Return the gradient of the log density of x = T(u) from the score of u.

    .. math:: \nabla_x \log p(x) = (du/dx)^\top \nabla_u \log p(u) - \nabla_x \log |dx/du|
    """
    _, pull = jax.vjp(transform.inv, x)

    def total(x: Array) -> Array:
        return jnp.sum(log_volume(transform, jnp.asarray(transform.inv(x)), x, event_dim))

    return pull(score)[0] - jax.grad(total)(x)
