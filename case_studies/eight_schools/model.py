r"""Eight schools three ways: the hierarchical model, its prior learned, and its prior as a density.

The effects :math:`\theta_j \sim N(\mu, \tau)` with :math:`\mu \sim N(0, 5)` and
:math:`\tau \sim \mathrm{HalfCauchy}(5)` are seen as :math:`y_j \sim N(\theta_j, \sigma_j)` (Rubin,
Journal of Educational Statistics 6, 1981). With mu and tau integrated out the effects have one
joint law with tails as heavy as Cauchy's. The network knows it in the coordinates
:math:`z = \operatorname{arcsinh}(\theta / 10)`, where the tails are exponential.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.scipy.stats import norm
from numpyro.distributions import constraints

import scoreppl as sp

SCORES = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
NUM_SCHOOLS = len(SCORES)
MEAN_SD, SPREAD_SCALE = 5.0, 5.0
UNIT = 10.0  # points of the test below which z is nearly proportional to theta


def to_effects(z: Array) -> Array:
    """Return effects theta, in points, from the network's coordinates."""
    return UNIT * jnp.sinh(z)


def draw_effects(key: Array, num_draws: int) -> Array:
    """Draw effects from the prior, in the network's coordinates, shape (num_draws, 8)."""
    key_mean, key_spread, key_effect = jax.random.split(key, 3)
    mean = MEAN_SD * jax.random.normal(key_mean, (num_draws, 1))
    spread = SPREAD_SCALE * jnp.abs(jax.random.cauchy(key_spread, (num_draws, 1)))
    effects = mean + spread * jax.random.normal(key_effect, (num_draws, NUM_SCHOOLS))
    return jnp.arcsinh(effects / UNIT)


def _observe(effects: Array) -> None:
    numpyro.sample("y", dist.Normal(effects, ERRORS).to_event(1), obs=jnp.asarray(SCORES))


def hierarchical() -> None:
    """State the model as it is usually sampled: not centred."""
    mean = numpyro.sample("mu", dist.Normal(0.0, MEAN_SD))
    spread = numpyro.sample("tau", dist.HalfCauchy(SPREAD_SCALE))
    effect = numpyro.sample("effect", dist.Normal().expand([NUM_SCHOOLS]).to_event(1))
    _observe(numpyro.deterministic("theta", mean + spread * effect))


def learned(prior: sp.ScoreModel) -> None:
    """State the model with a network in place of the hierarchy."""
    z = numpyro.sample("z", sp.ScorePrior(prior))
    _observe(numpyro.deterministic("theta", to_effects(z)))


# Nodes of the trapezoid rule over log tau, a tenth apart.
_LOG_SPREADS = jnp.linspace(-7.0, 14.0, 211)


def log_prior(z: Array) -> Array:
    """Return the exact log density of the effects' prior in the network's coordinates.

    Given tau the effects are normal, so that what remains is an integral over tau.
    """
    effects, spread = to_effects(z), jnp.exp(_LOG_SPREADS)
    centre = jnp.mean(effects)
    within = jnp.sum((effects - centre) ** 2)
    log_effects = (
        norm.logpdf(centre, 0.0, jnp.sqrt(MEAN_SD**2 + spread**2 / NUM_SCHOOLS))
        - 0.5 * within / spread**2
        - (NUM_SCHOOLS - 1) * (jnp.log(spread) + 0.5 * jnp.log(2 * jnp.pi))
        - 0.5 * jnp.log(NUM_SCHOOLS)
    )
    log_spread = dist.HalfCauchy(SPREAD_SCALE).log_prob(spread) + _LOG_SPREADS
    width = _LOG_SPREADS[1] - _LOG_SPREADS[0]
    log_theta = jax.nn.logsumexp(log_effects + log_spread) + jnp.log(width)
    return log_theta + jnp.sum(jnp.log(UNIT * jnp.cosh(z)))


class Effects(dist.Distribution):
    """The effects' prior as a distribution with a density, in the network's coordinates."""

    support = constraints.real_vector

    def __init__(self) -> None:
        super().__init__((), (NUM_SCHOOLS,))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw from the hierarchy."""
        size = int(np.prod(sample_shape, dtype=int))
        return draw_effects(key, size).reshape(*sample_shape, NUM_SCHOOLS)

    def log_prob(self, value: Array) -> Array:
        """Return the exact log density of one event."""
        return log_prior(value)


def exact() -> None:
    """State the model with the hierarchy's density."""
    z = numpyro.sample("z", Effects())
    _observe(numpyro.deterministic("theta", to_effects(z)))
