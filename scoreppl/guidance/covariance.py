"""The covariance of x_0 given a noisy event, from the denoiser's Jacobian, and matrices from it."""

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.guidance.view import View
from scoreppl.linear_algebra import eigh

# Up to this many dimensions the covariance of x_0 given the noisy event pays for itself.
FULL_COVARIANCE_LIMIT = 10


def denoised_and_covariance(u: Array, view: View) -> tuple[Array, Array]:
    """Return D(u) and s^2 D'(u), by d vector-Jacobian products: 1 + 2 d evaluations.

    The Jacobian of a network is symmetrised and its negative eigenvalues are set to zero.
    """
    denoised, covariance = denoised_and_symmetric(u, view)
    return denoised, positive_part(covariance)


def denoised_and_symmetric(u: Array, view: View) -> tuple[Array, Array]:
    """Return D(u) and the symmetric part of s^2 D'(u), which may be indefinite for a network."""
    denoised, pull = jax.vjp(view.denoise, u)
    rows = jax.vmap(lambda row: pull(row)[0])(jnp.eye(u.size, dtype=denoised.dtype))
    rows = rows * view.scale**2
    return denoised, 0.5 * (rows + rows.T)


def positive_part(matrix: Array) -> Array:
    """Symmetrise, and set negative eigenvalues to zero; zero where it is not a number."""
    matrix = jnp.where(jnp.all(jnp.isfinite(matrix)), matrix, 0.0)
    values, vectors = eigh(0.5 * (matrix + matrix.T))
    return (vectors * jnp.maximum(values, 0.0)) @ vectors.T


def square_root(covariance: Array) -> Array:
    """Return L with L L^T = covariance, also where it is singular."""
    values, vectors = eigh(covariance)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))
