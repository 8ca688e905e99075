"""The reference of a ladder that a test chooses, where the library would fit one."""

import jax

from scoreppl.samplers.reference import Reference, draw_prior, measure_reference
from scoreppl.target import Position, Target


def reference_at(
    key: jax.Array,
    position: Position,
    target: Target,
    ladder: jax.Array,
    *,
    num_pilots: int,
    num_steps: int,
) -> Reference:
    """Draw `num_pilots` events of the prior and measure the reference on them."""
    key_draws, key_noise = jax.random.split(key)
    clean = draw_prior(key_draws, position, target, num_draws=num_pilots, num_steps=num_steps)
    return measure_reference(key_noise, clean, target, ladder)
