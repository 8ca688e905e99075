"""A noise level whose targets have exact draws, for the one-step oracle of the inner moves.

A skewed mixture in two dimensions, three logistic observations of it, and their unknown
sharpness. The likelihood is at most 1, so rejection from the prior is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VPLinear, register_part
from scoreppl.samplers.inner import Level
from scoreppl.samplers.split_gibbs import STRETCH
from scoreppl.target import Position, Target
from tests.oracle import one_step_oracle

PRIOR = GaussianMixture(
    means=jnp.array([[1.6, 0.0], [-1.4, 1.0], [-0.3, -1.5]]),
    covariances=jnp.array(
        [[[0.36, 0.1], [0.1, 0.25]], [[0.8, -0.4], [-0.4, 0.6]], [[0.2, 0.0], [0.0, 0.3]]]
    ),
    weights=jnp.array([0.5, 0.3, 0.2]),
)
DIRECTIONS = jnp.array([[1.0, -0.5], [0.2, 0.8], [-0.6, 0.9]])
LABELS = jnp.array([1.0, -1.0, -1.0])
LOG_SNR, TOP_LOG_SNR = 0.5, -4.0

# Five seeds a test, each at this family-wise rate: at most 1 % of false alarms a test.
SEEDS = range(5)
FALSE_ALARM_RATE = 0.002


def log_likelihood(position: Position) -> Array:
    logits = jnp.exp(position["theta"]) * (DIRECTIONS @ position["x"] - 0.2)
    return jnp.sum(jax.nn.log_sigmoid(LABELS * logits))


def log_weight(position: Position) -> Array:
    """Likelihood, and the Gamma(3, 1) prior of exp(theta) with its Jacobian."""
    theta = position["theta"]
    return 3.0 * theta - jnp.exp(theta) + log_likelihood(position)


@register_part
@dataclass(frozen=True)
class ExactReverse:
    """Score model of which one reverse step is exact, however long.

    Its denoiser does not average x_0 given x_t but draws it from the closed form, with a key
    from the bits of x_t; between x_t and x_0 the way is Gaussian.
    """

    prior: GaussianMixture

    event_shape = (2,)
    min_time = 0.0
    has_log_density = False

    @property
    def noise(self) -> VPLinear:
        return self.prior.noise

    def denoise(self, x: Array, t: Array) -> Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), bits[0]), bits[1])
        return self.prior.posterior_given(x, t).sample_exact(key)


def target(model: Any = PRIOR, weight: Callable[[Position], Array] = log_weight) -> Target:
    return Target({"x": model}, {"x": 0.0}, weight)


def level(
    target: Target, log_snr: float = LOG_SNR, *, is_entry: bool = False, is_last: bool = False
) -> Level:
    """The level at `log_snr`, entered (if at all) from itself."""
    times = target.times(jnp.asarray(log_snr))
    return Level(
        times,
        times,
        jnp.asarray(is_entry),
        jnp.asarray(is_last),
        jnp.asarray(log_snr),
        jnp.asarray(TOP_LOG_SNR),
    )


class Draws(NamedTuple):
    """Cleaner events v, and the positions that the weight has judged; leading axis over draws."""

    cleaner: Array
    position: Position


@cache
def draw(seed: int, count: int, judged: str = "noisy") -> Draws:
    """Draw exactly from p_r(v) N(u; v, s^2 - r^2) w, w at u ("noisy") or at D(u) ("denoised")."""
    draws, accepted = _propose(jax.random.key(1000 + seed), 12 * count, judged)
    (kept,) = jnp.nonzero(accepted)
    assert len(kept) >= count, f"rejection sampling kept {len(kept)} of {count} wanted"
    return jax.tree.map(lambda v: v[kept[:count]], draws)


def noisy_pairs(key_x: Array, key_noise: Array, count: int, log_snr: float) -> tuple[Array, Array]:
    """Draw v of the level LOG_SNR and u at `log_snr` from the prior, without the weight."""
    clean = PRIOR.sample_exact(key_x, (count,))
    noise = jax.random.normal(key_noise, (2, *clean.shape))
    cleaner = clean + jnp.exp(-0.5 * (LOG_SNR + STRETCH)) * noise[0]
    added = jnp.sqrt(jnp.exp(-log_snr) - jnp.exp(-(LOG_SNR + STRETCH)))
    return cleaner, cleaner + added * noise[1]


@partial(jax.jit, static_argnames=("count", "judged"))
def _propose(key: Array, count: int, judged: str) -> tuple[Draws, Array]:
    key_x, key_noise, key_theta, key_accept = jax.random.split(key, 4)
    time = PRIOR.noise.time(LOG_SNR)
    alpha, _ = PRIOR.noise(time)
    cleaner, x = noisy_pairs(key_x, key_noise, count, LOG_SNR)
    theta = jnp.log(jax.random.gamma(key_theta, 3.0, (count,)))
    seen = jax.vmap(lambda u: PRIOR.denoise(alpha * u, time))(x) if judged == "denoised" else x
    log_uniform = -jax.random.exponential(key_accept, (count,))
    accepted = log_uniform < jax.vmap(log_likelihood)({"x": seen, "theta": theta})
    return Draws(cleaner, {"theta": theta, "x": x}), accepted


def moments(*arrays: Array) -> Array:
    """All moments to order 2, a sine each, and one of order 4."""
    x = jnp.concatenate([jnp.atleast_1d(array) for array in arrays])
    products = jnp.outer(x, x)[jnp.triu_indices(x.size)]
    return jnp.concatenate([x, products, jnp.sin(2 * x), jnp.sum(x**2)[None] ** 2])


def alarms(
    kernel: Any, functions: Callable[[Any], Array], *, count: int = 10_000, judged: str = "noisy"
) -> list[bool]:
    """Run the one-step oracle on each seed."""
    check = one_step_oracle(kernel, functions, false_alarm_rate=FALSE_ALARM_RATE)
    return [check(jax.random.key(seed), draw(seed, count, judged)).alarm for seed in SEEDS]
