"""Conditioning of one Gaussian on a linear observation, in square-root form.

Everything is computed from factors of the covariances and never from a difference of
covariances, so that float32 survives observations much sharper than the prior.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike, DTypeLike

from scoreppl.analytic.parameters import as_array
from scoreppl.noise.schedule import is_concrete


class Observation(NamedTuple):
    """A linear observation in units of its noise: ``value = operator @ x + N(0, I)``.

    Attributes
    ----------
    operator
        Shape (m, d).
    value
        Shape (m,).
    log_volume
        Log density of the noise in its own units at zero, ``-log det(2 pi R) / 2``.
    """

    operator: Array
    value: Array
    log_volume: Array


class Conditioned(NamedTuple):
    """A Gaussian after an observation.

    Attributes
    ----------
    mean
        Shape (d,).
    scales, axes
        Shapes (d,) and (d, d): the covariance is ``axes @ diag(scales**2) @ axes.T``.
    log_evidence
        Log density of the observation under the Gaussian before it.
    """

    mean: Array
    scales: Array
    axes: Array
    log_evidence: Array


def whiten(
    operator: ArrayLike,
    value: ArrayLike,
    noise_covariance: ArrayLike,
    event_shape: tuple[int, ...],
    dtype: DTypeLike,
) -> Observation:
    """Check an observation ``value = operator @ x + N(0, noise_covariance)`` and rescale it.

    Parameters
    ----------
    operator
        Shape ``(*value.shape, *event_shape)`` or ``(value.size, event_size)``.
    value
        The observation, any shape.
    noise_covariance
        One variance for all entries, or a variance per entry (the shape of ``value``), or a full
        covariance matrix of shape ``(value.size, value.size)``.
    event_shape
        Shape of x.
    dtype
        Floating type of the result.

    Raises
    ------
    ValueError
        If the shapes do not agree, a value is not finite or the noise is not positive definite.
    """
    operator, value, noise = as_array(operator), as_array(value), as_array(noise_covariance)
    shape, rows, columns = value.shape, math.prod(value.shape), math.prod(event_shape)
    if operator.shape not in (shape + event_shape, (rows, columns)):
        raise ValueError(
            f"`A` has shape {operator.shape}; an observation of shape {shape} of an event of "
            f"shape {event_shape} needs {shape + event_shape} or {(rows, columns)}."
        )
    if noise.shape not in ((), shape, (rows, rows)):
        raise ValueError(
            f"`noise_covariance` has shape {noise.shape}; give one variance, a "
            f"variance per entry {shape}, or a matrix {(rows, rows)}."
        )
    for name, argument in (("A", operator), ("y", value), ("noise_covariance", noise)):
        if is_concrete(argument) and not np.all(np.isfinite(argument)):
            raise ValueError(f"`{name}` holds NaN or infinite values; every entry must be finite.")
    matrix = jnp.asarray(operator, dtype).reshape(rows, columns)
    vector = jnp.asarray(value, dtype).reshape(rows)
    noise = jnp.asarray(noise, dtype)
    if noise.shape == (rows, rows):
        factor = jnp.linalg.cholesky(noise)
        deviations = jnp.diagonal(factor)
        matrix = solve_triangular(factor, matrix, lower=True)
        vector = solve_triangular(factor, vector, lower=True)
    else:
        deviations = jnp.broadcast_to(jnp.sqrt(noise).ravel(), (rows,))
        matrix, vector = matrix / deviations[:, None], vector / deviations
    # Cholesky factors and square roots of anything that is no variance are NaN.
    if is_concrete(deviations) and not np.all(np.asarray(deviations) > 0):
        raise ValueError("`noise_covariance` must be positive definite.")
    log_volume = -jnp.sum(jnp.log(deviations)) - 0.5 * rows * math.log(2 * math.pi)
    return Observation(matrix, vector, log_volume)


def condition(mean: Array, factor: Array, observation: Observation) -> Conditioned:
    r"""Condition ``N(mean, factor @ factor.T)`` on a whitened observation.

    With ``x = mean + factor @ z`` and ``W = operator @ factor`` the posterior of z has the
    precision :math:`I + W^T W = T^T T`, T from the QR decomposition of W stacked below I. The
    evidence follows from :math:`\det(I + W W^T) = \det(T)^2` and from the least-squares residual
    :math:`\min_z |z|^2 + |r - W z|^2`, a sum of squares without cancellation.

    Parameters
    ----------
    mean
        Shape (d,).
    factor
        Shape (d, d), any factor of the covariance.
    observation
        From `whiten`.
    """
    size = mean.shape[0]
    operator = jnp.matmul(observation.operator, factor, precision="highest")
    residual = observation.value - jnp.matmul(observation.operator, mean, precision="highest")
    stacked = jnp.concatenate([jnp.eye(size, dtype=mean.dtype), operator])
    orthogonal, triangle = jnp.linalg.qr(stacked)
    projected = jnp.matmul(orthogonal[size:].T, residual, precision="highest")
    shift = solve_triangular(triangle, projected)
    misfit = residual - jnp.matmul(operator, shift, precision="highest")
    log_evidence = (
        observation.log_volume
        - jnp.sum(jnp.log(jnp.abs(jnp.diagonal(triangle))))
        - 0.5 * (jnp.sum(shift**2) + jnp.sum(misfit**2))
    )
    posterior_factor = solve_triangular(triangle, factor.T, trans=1).T
    axes, scales, _ = jnp.linalg.svd(posterior_factor, full_matrices=False)
    shifted_mean = mean + jnp.matmul(factor, shift, precision="highest")
    return Conditioned(shifted_mean, scales, axes, log_evidence)
