"""Resampling by the Srinivasan sampling process."""

import jax
import jax.numpy as jnp
from jax import Array


def ssp(key: Array, weights: Array, num_samples: int) -> Array:
    """Resample so that a particle has its expected number of copies, rounded up or down.

    Fractional parts are settled in pairs: one of the two passes as much as fits to the other, so
    that one is done. Numbers of copies are negatively associated, and the error is never above
    that of multinomial resampling (Gerber, Chopin and Whiteley, arXiv:1707.01845, algorithm 3),
    which is not known of systematic resampling.

    Parameters
    ----------
    key
        PRNG key.
    weights
        Normalised weights, shape ``(n,)``.
    num_samples
        How many indices to return.

    Returns
    -------
    Array
        Indices, increasing, shape ``(num_samples,)``.
    """
    expected = num_samples * weights
    copies = jnp.floor(expected)
    left = expected - copies
    uniforms = jax.random.uniform(key, (len(weights),))

    def settle(carry: tuple[Array, Array, Array], inputs: tuple[Array, Array]) -> tuple:
        copies, held, fraction = carry
        index, uniform = inputs
        other = left[index]
        # Either `held` is filled up to one or `other` emptied, or the other way round.
        rise = jnp.minimum(1.0 - fraction, other)
        fall = jnp.minimum(fraction, 1.0 - other)
        rises = uniform * (rise + fall) < fall
        fraction = jnp.where(rises, fraction + rise, fraction - fall)
        other = jnp.where(rises, other - rise, other + fall)
        # The pair's whole number is kept; the unsettled one is held on.
        is_one = fraction >= 1.0 - 1e-6
        is_settled = is_one | (fraction <= 1e-6)
        copies = copies.at[held].add(jnp.where(is_settled & is_one, 1.0, 0.0))
        other_is_one = ~is_settled & (other >= 1.0 - 1e-6)
        copies = copies.at[index].add(jnp.where(other_is_one, 1.0, 0.0))
        held = jnp.where(is_settled, index, held)
        return (copies, held, jnp.where(is_settled, other, fraction)), None

    start = (copies, jnp.zeros((), int), left[0])
    (copies, held, fraction), _ = jax.lax.scan(
        settle, start, (jnp.arange(1, len(weights)), uniforms[1:])
    )
    # By rounding the last fraction is not quite whole: it is one if a sample is missing.
    missing = num_samples - jnp.sum(copies)
    copies = copies.at[held].add(jnp.maximum(jnp.round(missing), 0.0))
    return jnp.repeat(jnp.arange(len(weights)), copies.astype(int), total_repeat_length=num_samples)
