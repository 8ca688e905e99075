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

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.guidance import View
from scoreppl.guidance.covariance import denoised_and_symmetric
from scoreppl.linear_algebra import cholesky
from scoreppl.samplers.inner import map_sites
from scoreppl.samplers.renoising import add_noise
from scoreppl.target import Position, Target

# Reverse steps, of one evaluation each, that a pilot draw takes.
_NUM_PILOT_STEPS = 100
# In standard deviations of the data: what is left of them at the first level is one per cent.
_MAX_NOISE = 100.0


class Reference(NamedTuple):
    """What pilot draws say of the prior.

    Attributes
    ----------
    denoising_variance
        Mean squared error of the denoiser, shape ``(num_levels, d)``: one value a site, less what
        `factor` explains.
    data_scale
        Standard deviation of the prior's draws, root mean square over coordinates.
    factor
        Columns F of the errors' covariance F F^T beyond that, shape ``(num_levels, d, rank)``, or
        None.
    """

    denoising_variance: Array
    data_scale: Array
    factor: Array | None = None


def angle_ladder(
    num_levels: int,
    scale: Array | float = 1.0,
    first_log_snr: Array | float = -jnp.inf,
    last_log_snr: Array | float = jnp.inf,
) -> Array:
    """Log-SNRs uniform in arctan(s / scale), s the noise sd, with data as the next level.

    Few steps are best spent where most of a denoiser's work is done, at noise like the data's own
    standard deviation; the last step, to data, is a large one, for which the reference has the
    right variance.

    Parameters
    ----------
    num_levels
        How many levels.
    scale
        Standard deviation of the data.
    first_log_snr, last_log_snr
        The ladder stays between these; its first noise sd is at most 100 scales.
    """
    most = jnp.arctan(jnp.minimum(_MAX_NOISE, jnp.exp(-0.5 * first_log_snr) / scale))
    least = jnp.maximum(most / num_levels, jnp.arctan(jnp.exp(-0.5 * last_log_snr) / scale))
    return -2.0 * jnp.log(scale * jnp.tan(jnp.linspace(most, least, num_levels)))


def score_values(position: Position, target: Target) -> Position:
    """Return the score sites of a position."""
    return {name: position[name] for name in target.score_models}


def draw_prior(
    key: Array, position: Position, target: Target, *, num_draws: int, num_steps: int
) -> Position:
    """Draw the score sites by reverse diffusion; `position` has any values, for their shapes."""
    shapes = score_values(position, target)

    def draw(key: Array) -> Position:
        return map_sites(
            key, shapes, target, lambda key, model, u, name: model.sample(key, num_steps=num_steps)
        )

    return jax.vmap(draw)(jax.random.split(key, num_draws))


def measure_reference(
    key: Array, clean: Position, target: Target, ladder: Array, *, rank: int = 0
) -> Reference:
    """Measure the denoiser's error at each level on noised draws, one evaluation each a level.

    Parameters
    ----------
    key
        PRNG key.
    clean
        Pilot draws of the score sites, leading axis over the draws; they enter no estimate.
    target
        The target; its weight has no part in this.
    ladder
        Log-SNR of the levels, noisiest first.
    rank
        Directions in which the errors' covariance is kept, from principal components; fewer than
        the pilot draws.
    """
    count = len(jax.tree.leaves(clean)[0])

    def level(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        key, log_snr = inputs
        times = target.times(log_snr)
        scales = target.scales(times)

        def error(key: Array, clean: Position) -> Position:
            found = target.denoise(add_noise(key, clean, target, scales), times)
            return {name: found[name] - clean[name] for name in clean}

        errors = jax.vmap(error)(jax.random.split(key, count), clean)
        return _components(errors, rank)

    variance, factor = jax.lax.map(level, (jax.random.split(key, len(ladder)), ladder))
    return Reference(variance, data_scale(clean), factor if rank else None)


def _components(errors: Position, rank: int) -> tuple[Array, Array]:
    """Probabilistic principal components: what is left in each site, and columns of the rest."""
    flat = jax.vmap(lambda v: ravel_pytree(v)[0])(errors)
    unravel = ravel_pytree(jax.tree.map(lambda v: v[0], errors))[1]
    whole = jnp.mean(flat**2, 0)

    def by_site(variance: Array) -> Array:
        means = jax.tree.map(lambda v: jnp.full(v.shape, jnp.mean(v)), unravel(variance))
        return ravel_pytree(means)[0]

    if rank == 0:
        return by_site(whole), jnp.zeros((len(whole), 0))
    _, values, rows = jnp.linalg.svd(flat / jnp.sqrt(len(flat)), full_matrices=False)
    values, rows = values[:rank], rows[:rank]
    # What is left lies in fewer directions than there are numbers, and is never nothing.
    left = (whole - values**2 @ rows**2) * len(whole) / max(len(whole) - rank, 1)
    variance = by_site(jnp.maximum(left, 1e-4 * whole))
    excess = jnp.maximum(values**2 - rows**2 @ variance, 0.0)
    return variance, rows.T * jnp.sqrt(excess)


def fit_ladder(clean: Position, target: Target, num_levels: int) -> Array:
    """Return an angle ladder for draws of the prior, inside what the schedules reach."""
    models = target.score_models.items()
    first = [
        getattr(model, "first_log_snr", model.noise.log_snr(jnp.ones(()))) for _, model in models
    ]
    last = [model.noise.log_snr(target.floors[name]) for name, model in models]
    return angle_ladder(
        num_levels, data_scale(clean), jnp.max(jnp.stack(first)), jnp.min(jnp.stack(last))
    )


def data_scale(clean: Position) -> Array:
    """Return the standard deviation of draws, root mean square over coordinates."""
    spread = ravel_pytree(jax.tree.map(lambda v: jnp.var(v, axis=0), clean))[0]
    return jnp.sqrt(jnp.mean(spread))


def fit_reference(
    key: Array,
    position: Position,
    target: Target,
    *,
    num_levels: int,
    num_pilots: int,
    rank: int = 0,
) -> tuple[Array, Reference]:
    """Fit the ladder to `num_pilots` draws of the prior; return it, and the reference there."""
    key_draws, key_noise = jax.random.split(key)
    clean = draw_prior(
        key_draws, position, target, num_draws=num_pilots, num_steps=_NUM_PILOT_STEPS
    )
    ladder = fit_ladder(clean, target, num_levels)
    return ladder, measure_reference(key_noise, clean, target, ladder, rank=rank)


def reverse_kernel(
    position: Position,
    target: Target,
    ladder: Array,
    reference: Reference,
    *,
    uses_covariance: bool,
) -> tuple[Array, Callable[[Array, Array], tuple[Array, Array]]]:
    """Return the levels' noise scales and the unguided reverse kernels, on flat events.

    Levels count from 1, the cleanest; from an event there the kernel gives mean and root (standard
    deviations, or a Cholesky factor) of the event one level below, and below level 1 of the data.

    Parameters
    ----------
    position
        Any values of the score sites, for their shapes.
    target, ladder, reference
        The target, and log-SNRs of the levels, noisiest first, with what was measured there.
    uses_covariance
        Whether the root is that of the covariance of x_0 given the event, from the denoiser's
        Jacobian (1 + 2 d evaluations), or that of the level's mean squared error (1).
    """
    shapes = score_values(position, target)
    flat, unravel = ravel_pytree(shapes)

    def scale_at(log_snr: Array) -> Array:
        scales = target.scales(target.times(log_snr))
        return ravel_pytree({name: jnp.full_like(v, scales[name]) for name, v in shapes.items()})[0]

    scales = jnp.concatenate([jnp.zeros((1, flat.size)), jax.vmap(scale_at)(ladder[::-1])])
    variances = reference.denoising_variance[::-1]

    def reverse(u: Array, level: Array) -> tuple[Array, Array]:
        times = target.times(ladder[len(ladder) - level])
        view = View(
            lambda u: ravel_pytree(target.denoise(unravel(u), times))[0],
            lambda x: jnp.zeros(()),
            scales[level],
            variances[level - 1],
            reference.data_scale,
        )
        if not uses_covariance:
            return transition(u, view, scales[level - 1], view.denoise(u), None)
        denoised, covariance = denoised_and_symmetric(u, view)
        mean, root = transition(u, view, scales[level - 1], denoised, covariance)
        # Where a network's Jacobian is no covariance, the level's variance stands in.
        spread = transition(u, view, scales[level - 1], denoised, None)[1]
        return mean, jnp.where(jnp.all(jnp.isfinite(root)), root, jnp.diag(spread))

    return scales, reverse


def transition(
    u: Array, view: View, next_scale: Array, denoised: Array, covariance: Array | None
) -> tuple[Array, Array]:
    """Return mean and root of the step from `u` to noise of standard deviation `next_scale`."""
    ratio = (next_scale / view.scale) ** 2
    gain = 1.0 - ratio
    mean = gain * denoised + ratio * u
    floor = next_scale**2 * gain
    if covariance is None:
        return mean, jnp.sqrt(floor + gain**2 * view.denoising_variance)
    return mean, cholesky_root(floor, gain, covariance)


def cholesky_root(floor: Array, gain: Array, covariance: Array) -> Array:
    """Cholesky factor of diag(floor) + K covariance K, with rounding's share on the diagonal."""
    full = jnp.diag(floor) + gain[:, None] * covariance * gain
    return cholesky(full + 1e-6 * jnp.mean(jnp.diagonal(full)) * jnp.eye(len(floor)))
