r"""Posteriors that others publish draws of, re-expressed with score priors.

`two_moons` and `gaussian_mixture` are the tasks of sbibm (Lueckmann et al., arXiv:2101.04653): a
uniform prior on a square, which is a standard normal score prior mapped to it by the normal
distribution function, exactly. The weight is the simulator's density. Eight schools, not centred,
is posteriordb's (Magnusson et al., arXiv:2407.04967): the standard normal effects are the score
site, and their common mean and spread ordinary latents.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import ndtr, ndtri
from jax.scipy.stats import norm
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform
from numpyro.infer import MCMC, NUTS

import scoreppl as sp
from case_studies.calibration import published
from case_studies.eight_schools.model import ERRORS, MEAN_SD, SCORES, SPREAD_SCALE

Model = Callable[[sp.ScoreModel, Array], None]
RADIUS, RADIUS_SD, OFFSET = 0.1, 0.01, 0.25
MOONS_BOUND, MIXTURE_BOUND = 1.0, 10.0
WIDE, NARROW = 1.0, 0.1
NUM_REFERENCE = 10_000


class Task(NamedTuple):
    """One posterior with draws to compare with.

    Attributes
    ----------
    name
        In the table.
    prior
        Score model of the score site, a standard normal.
    model
        NumPyro model of prior and observation.
    y
        The observation.
    quantities
        From constrained values of one draw to what is compared.
    reference
        Draws of the posterior, shape ``(draws, quantities)``.
    source
        Who drew them.
    exact
        Independent draws by this study, of the same shape, or None.
    """

    name: str
    prior: sp.ScoreModel
    model: Model
    y: np.ndarray
    quantities: Callable[[dict[str, Array]], Array]
    reference: np.ndarray
    source: str
    exact: np.ndarray | None


class ToSquare(Transform):
    """From standard normal numbers to uniform ones between minus and plus `bound`."""

    domain = constraints.real_vector  # type: ignore[assignment]

    def __init__(self, bound: float) -> None:
        self.bound = bound

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The square."""
        return constraints.independent(constraints.interval(-self.bound, self.bound), 1)

    def __call__(self, x: Array) -> Array:
        """Map to the square."""
        return self.bound * (2 * ndtr(x) - 1)

    def _inverse(self, y: Array) -> Array:
        return ndtri(0.5 * (y / self.bound + 1))

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: None = None) -> Array:
        """Return the log volume."""
        return jnp.sum(norm.logpdf(x) + np.log(2 * self.bound), -1)

    def tree_flatten(self) -> tuple[tuple, tuple]:
        """Take apart for JAX."""
        return (self.bound,), (("bound",), {})


def standard_normal(size: int) -> sp.ScoreModel:
    """Return the score model behind the sites."""
    return sp.analytic.GaussianMixture(np.zeros((1, size)), scales=1.0)


def moons_log_density(theta: Array, y: Array) -> Array:
    """Return the log density of the simulator of two moons, a crescent around a shifted point."""
    shift = jnp.stack([-jnp.abs(theta[0] + theta[1]), theta[1] - theta[0]]) / np.sqrt(2)
    u, v = y - shift - jnp.array([OFFSET, 0.0])
    radius = jnp.sqrt(u**2 + v**2)
    # Uniform angles over a half turn, and their Jacobian.
    inside = norm.logpdf(radius, RADIUS, RADIUS_SD) - jnp.log(np.pi * radius)
    return jnp.where(u > 0, inside, -jnp.inf)


def moons_model(prior: sp.ScoreModel, y: Array) -> None:
    """State two moons."""
    theta = numpyro.sample("theta", sp.ScorePrior(prior, transform=ToSquare(MOONS_BOUND)))
    numpyro.factor("moons", moons_log_density(jnp.asarray(theta), y))


def mixture_model(prior: sp.ScoreModel, y: Array) -> None:
    """State the mixture: a wide and a narrow normal law around the same unknown point."""
    theta = numpyro.sample("theta", sp.ScorePrior(prior, transform=ToSquare(MIXTURE_BOUND)))
    each = jnp.stack([jnp.sum(norm.logpdf(y, theta, scale)) for scale in (WIDE, NARROW)])
    numpyro.factor("mixture", jax.scipy.special.logsumexp(each) - np.log(2))


def schools_model(prior: sp.ScoreModel, y: Array) -> None:
    """State eight schools, not centred."""
    mu = jnp.asarray(numpyro.sample("mu", dist.Normal(0.0, MEAN_SD)))
    tau = jnp.asarray(numpyro.sample("tau", dist.HalfCauchy(SPREAD_SCALE)))
    z = jnp.asarray(numpyro.sample("z", sp.ScorePrior(prior)))
    theta = numpyro.deterministic("theta", mu + tau * z)
    numpyro.sample("y", dist.Normal(theta, ERRORS).to_event(1), obs=y)


def moons_draws(y: np.ndarray, rng: np.random.Generator, count: int = NUM_REFERENCE) -> np.ndarray:
    """Return exact draws: the simulator's noise, solved for theta, where it lies in the square."""
    size = 4 * count
    angle = rng.uniform(-np.pi / 2, np.pi / 2, size)
    radius = RADIUS + RADIUS_SD * rng.standard_normal(size)
    noise = np.stack([OFFSET + radius * np.cos(angle), radius * np.sin(angle)], 1)
    along = (noise[:, 0] - y[0]) * rng.choice([-1.0, 1.0], size)
    across = y[1] - noise[:, 1]
    theta = np.stack([along - across, along + across], 1) / np.sqrt(2)
    # A negative size of the sum has no solution.
    usable = (noise[:, 0] >= y[0]) & np.all(np.abs(theta) <= MOONS_BOUND, 1)
    return theta[usable][:count]


def mixture_draws(
    y: np.ndarray, rng: np.random.Generator, count: int = NUM_REFERENCE
) -> np.ndarray:
    """Return exact draws: of the mixture around the observation, where they lie in the square."""
    size = 8 * count
    scale = rng.choice([WIDE, NARROW], size)[:, None]
    theta = y + scale * rng.standard_normal((size, 2))
    return theta[np.all(np.abs(theta) <= MIXTURE_BOUND, 1)][:count]


SBIBM: dict[str, tuple[Model, Callable, np.ndarray]] = {
    "two_moons": (moons_model, moons_draws, np.array([-0.35, 0.25])),
    "gaussian_mixture": (mixture_model, mixture_draws, np.array([3.0, -9.2])),
}


def sbibm_task(name: str, place: Path | None, number: int) -> Task:
    """Return a task, with sbibm's observation and draws if `place` has them, else with our own."""
    model, draw, y = SBIBM[name]
    rng = np.random.default_rng(number)
    reference, source, title = None, "this study, exact", name
    if place is not None:
        y, reference = published.sbibm(place, name, number)
        source, title = "sbibm", f"{name}, observation {number}"
    exact = draw(y, rng)
    if reference is None:
        reference = draw(y, rng)
    return Task(
        title, standard_normal(2), model, y, lambda values: values["theta"], reference, source,
        exact,
    )  # fmt: skip


def schools_task(place: Path | None) -> Task:
    """Return eight schools, with posteriordb's draws if there are any, else by NumPyro's NUTS."""
    if place is not None:
        mu, tau, theta = published.posteriordb_schools(place)
        source = "posteriordb"
    else:
        mu, tau, theta = nuts_schools(jax.random.key(7))
        source = "NumPyro's NUTS"

    def quantities(values: dict[str, Array]) -> Array:
        return jnp.concatenate([values["mu"][None], jnp.log(values["tau"])[None], values["theta"]])

    reference = np.concatenate([mu[:, None], np.log(tau)[:, None], theta], 1)
    return Task(
        "eight_schools_noncentered", standard_normal(8), schools_model, SCORES, quantities,
        reference, source, None,
    )  # fmt: skip


def nuts_schools(key: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample the ordinary model, whose prior of the effects is a density."""

    def model(y: Array) -> None:
        mu = jnp.asarray(numpyro.sample("mu", dist.Normal(0.0, MEAN_SD)))
        tau = jnp.asarray(numpyro.sample("tau", dist.HalfCauchy(SPREAD_SCALE)))
        z = jnp.asarray(numpyro.sample("z", dist.Normal(0.0, 1.0).expand([8]).to_event(1)))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, ERRORS).to_event(1), obs=y)

    mcmc = MCMC(
        NUTS(model, target_accept_prob=0.95), num_warmup=500, num_samples=NUM_REFERENCE,
        num_chains=10, thinning=10, chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(key, jnp.asarray(SCORES))
    found = mcmc.get_samples()
    mu, tau, theta = (np.asarray(found[name], float) for name in ("mu", "tau", "theta"))
    return mu, tau, theta
