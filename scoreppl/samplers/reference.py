r"""The discretised prior: the reverse process against which path weights are exact.

From a noisy event u of standard deviation s to one of s' < s, in data units,

.. math::
    u' \sim N\!\left(k D(u) + (1 - k) u, \; v I + k^2 \Sigma\right), \qquad
    k = 1 - s'^2 / s^2, \quad v = s'^2 k,

where Sigma stands for the covariance of x_0 given u. With Sigma = 0 this is the ancestral step of
DDPM, which is too narrow: at few steps it biases the evidence, guided or not. Here Sigma is the
mean squared error of the denoiser at the level, the same for all particles, or a guidance's own
covariance. The optimal scalar of Bao et al., arXiv:2201.06503, is the same quantity from the
score's norm; that formula cancels at high noise, so it is measured on noised pilot draws instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.samplers.inner import map_sites
from scoreppl.samplers.renoising import add_noise
from scoreppl.target import Position, Target


class Reference(NamedTuple):
    """What pilot draws say of the prior.

    Attributes
    ----------
    denoising_variance
        Mean squared error of the denoiser, shape ``(num_levels, d)``: one value a site.
    data_scale
        Standard deviation of the prior's draws, root mean square over coordinates.
    """

    denoising_variance: Array
    data_scale: Array


def angle_ladder(num_levels: int, first_log_snr: float = -9.2) -> Array:
    """Log-SNRs uniform in arctan(s), s the noise sd in data units, with data as the next level.

    Few steps are best spent where most of a denoiser's work is done, at s near one; the last step,
    to data, is a large one, for which the reference has the right variance. Data should have a
    standard deviation near one.
    """
    top = jnp.arctan(jnp.exp(-0.5 * first_log_snr))
    return -2.0 * jnp.log(jnp.tan(top * jnp.arange(num_levels, 0, -1) / num_levels))


def score_values(position: Position, target: Target) -> Position:
    """Return the score sites of a position."""
    return {name: position[name] for name in target.score_models}


def draw_prior(
    key: Array, position: Position, target: Target, *, num_draws: int, num_steps: int
) -> Position:
    """Draw the score sites from the prior, leading axis over the draws.

    Parameters
    ----------
    key
        PRNG key.
    position
        Any values of the score sites, for their shapes.
    target
        The target; its weight has no part in this.
    num_draws
        How many.
    num_steps
        Score evaluations for each.
    """
    shapes = score_values(position, target)

    def draw(key: Array) -> Position:
        return map_sites(
            key, shapes, target, lambda key, model, u, name: model.sample(key, num_steps=num_steps)
        )

    return jax.vmap(draw)(jax.random.split(key, num_draws))


def measure_reference(key: Array, clean: Position, target: Target, ladder: Array) -> Reference:
    """Measure the denoiser's error at each level on given draws, noised.

    Path weights are exact for the reference whatever the draws, as long as they enter no estimate.

    Parameters
    ----------
    key
        PRNG key of the noise.
    clean
        Draws of the score sites, leading axis over the draws.
    target
        The target; its weight has no part in this.
    ladder
        Log-SNR of the levels, noisiest first. They cost one score evaluation a draw each.
    """

    def level(inputs: tuple[Array, Array]) -> Array:
        key, log_snr = inputs
        times = target.times(log_snr)
        scales = target.scales(times)

        def error(key: Array, clean: Position) -> Position:
            found = target.denoise(add_noise(key, clean, target, scales), times)
            return {
                name: jnp.full(clean[name].shape, jnp.mean((found[name] - clean[name]) ** 2))
                for name in clean
            }

        count = len(jax.tree.leaves(clean)[0])
        errors = jax.vmap(error)(jax.random.split(key, count), clean)
        return ravel_pytree(jax.tree.map(lambda v: jnp.mean(v, 0), errors))[0]

    variance = jax.lax.map(level, (jax.random.split(key, len(ladder)), ladder))
    spread = ravel_pytree(jax.tree.map(lambda v: jnp.var(v, axis=0), clean))[0]
    return Reference(variance, jnp.sqrt(jnp.mean(spread)))


def fit_reference(
    key: Array,
    position: Position,
    target: Target,
    ladder: Array,
    *,
    num_pilots: int,
    num_steps: int,
) -> Reference:
    """Measure the denoiser's error at each level on noised draws from the prior.

    Parameters
    ----------
    key
        PRNG key.
    position
        Any values of the score sites, for their shapes.
    target
        The target; its weight has no part in this.
    ladder
        Log-SNR of the levels, noisiest first.
    num_pilots
        Draws of the prior; they enter no estimate.
    num_steps
        Score evaluations for each of them. The levels cost one more each.
    """
    key_draws, key_noise = jax.random.split(key)
    clean = draw_prior(key_draws, position, target, num_draws=num_pilots, num_steps=num_steps)
    return measure_reference(key_noise, clean, target, ladder)
