"""Checks of mixture parameters: arguments as typed in, arrays ready for use out.

Values that JAX is tracing cannot be looked at. Their shapes are still checked, and a traced
value that breaks a rule turns the parameters into NaN, so that it can never pass for a number.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise.schedule import as_float, is_concrete

_WEIGHT_TOLERANCE = 1e-5
_SYMMETRY_TOLERANCE = 1e-5


def as_array(value: ArrayLike) -> Array | np.ndarray:
    """Return a numpy array, which can be checked, or a JAX array if `value` is being traced."""
    concrete = is_concrete(*jax.tree.leaves(value))
    return np.asarray(value) if concrete else jnp.asarray(value)


def component_means(means: ArrayLike) -> Array:
    """Return the component means, shape ``(K, *event)``, in float32 or wider."""
    array = as_float(means)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            f"`means` has shape {array.shape}; give an array of shape (components, *event_shape) "
            "with at least one component and one entry."
        )
    if is_concrete(array) and not np.all(np.isfinite(array)):
        raise ValueError("`means` holds NaN or infinite values; every mean must be finite.")
    return array


def component_log_weights(weights: ArrayLike | None, means: Array) -> Array:
    """Return the log weights, shape ``(K,)``; equal weights where none are given."""
    count = means.shape[0]
    if weights is None:
        return jnp.full((count,), -math.log(count), means.dtype)
    weights = as_array(weights)
    if weights.shape != (count,):
        raise ValueError(
            f"`weights` has shape {weights.shape}; `means` holds {count} components, so give "
            f"shape ({count},)."
        )
    if not is_concrete(weights):
        traced = jnp.asarray(weights, means.dtype)
        valid = jnp.all(traced > 0) & (jnp.abs(jnp.sum(traced) - 1) <= _WEIGHT_TOLERANCE)
        return jnp.where(valid, jnp.log(traced / jnp.sum(traced)), jnp.nan)
    values = np.asarray(weights, np.float64)
    if not np.all(values > 0):
        raise ValueError("`weights` must all be positive; drop the components that have none.")
    if not abs(values.sum() - 1) <= _WEIGHT_TOLERANCE:
        raise ValueError(f"`weights` sum to {values.sum():.6g}; divide them by their sum.")
    return jnp.asarray(np.log(values / values.sum()), means.dtype)


def component_scales(scales: ArrayLike, means: Array) -> Array:
    """Return the standard deviations of diagonal components, shape ``(K, *event)``."""
    scales = as_array(scales)
    shape, count = scales.shape, means.shape[0]
    if shape not in ((), (count,), means.shape):
        raise ValueError(
            f"`scales` has shape {shape}; give one number, one per component ({count},), or one "
            f"per entry {means.shape}."
        )
    if is_concrete(scales):
        values = np.asarray(scales, np.float64)
        if not (np.all(values > 0) and np.all(np.isfinite(values))):
            raise ValueError("`scales` are standard deviations: all must be positive and finite.")
    array = jnp.asarray(scales, means.dtype)
    array = jnp.where(array > 0, array, jnp.nan)
    if shape == (count,):
        array = array.reshape((count,) + (1,) * (means.ndim - 1))
    return jnp.broadcast_to(array, means.shape)


def component_spectrum(covariances: ArrayLike, means: Array) -> tuple[Array, Array]:
    """Split full covariances into scales ``(K, *event)`` and orthonormal axes ``(K, d, d)``.

    Component k has the covariance ``axes[k] @ diag(scales[k].ravel()**2) @ axes[k].T``.
    """
    size = math.prod(means.shape[1:])
    shape = (means.shape[0], size, size)
    covariances = as_array(covariances)
    if covariances.shape != shape:
        raise ValueError(
            f"`covariances` has shape {covariances.shape}; `means` of shape {means.shape} "
            f"need {shape} (events are flattened). For diagonal components give `scales`."
        )
    if not is_concrete(covariances):
        array = jnp.asarray(covariances, means.dtype)
        asymmetry = jnp.max(jnp.abs(array - array.mT), axis=(1, 2))
        valid = asymmetry <= _SYMMETRY_TOLERANCE * jnp.max(jnp.abs(array), axis=(1, 2))
        variances, axes = jnp.linalg.eigh(jnp.where(valid[:, None, None], array, jnp.nan))
        return jnp.sqrt(jnp.where(variances > 0, variances, jnp.nan)).reshape(means.shape), axes
    given = np.asarray(covariances)
    values = given.astype(np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError("`covariances` hold NaN or infinite values; every entry must be finite.")
    asymmetry = np.abs(values - np.swapaxes(values, 1, 2)).max()
    if asymmetry > _SYMMETRY_TOLERANCE * np.abs(values).max():
        raise ValueError(
            f"`covariances` are not symmetric: the largest difference between an entry and its "
            f"mirror image is {asymmetry:.3g}. Give (C + C.T) / 2 if that is rounding."
        )
    variances, axes = np.linalg.eigh((values + np.swapaxes(values, 1, 2)) / 2)
    # Below this ratio the sign of an eigenvalue is rounding of the entries that were given.
    rounding = np.finfo(given.dtype if given.dtype.kind == "f" else np.float64).eps * size
    if np.any(variances[:, 0] <= rounding * variances[:, -1]):
        raise ValueError(
            "`covariances` must be positive definite; the smallest eigenvalue is "
            f"{variances[:, 0].min():.3g}. Add a small multiple of the identity."
        )
    scales = jnp.asarray(np.sqrt(variances), means.dtype).reshape(means.shape)
    return scales, jnp.asarray(axes, means.dtype)
