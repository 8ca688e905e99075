"""A posterior of two modes and a scale, known by quadrature; its prior as a score or a density."""

from functools import cache

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

import scoreppl as sp

MEANS, SCALES, WEIGHTS = np.array([-1.0, 1.2]), np.array([0.4, 0.7]), np.array([0.35, 0.65])
PRIOR = sp.analytic.GaussianMixture(
    jnp.asarray(MEANS)[:, None], scales=jnp.asarray(SCALES)[:, None], weights=jnp.asarray(WEIGHTS)
)
Y = np.array([0.2, 0.9, 0.5])


def model(y):
    """Know x by its score."""
    _rest(numpyro.sample("x", sp.ScorePrior(PRIOR, num_steps=10)), y)


def dense_model(y):
    """Know x by its density."""
    modes = dist.Normal(jnp.asarray(MEANS)[:, None], jnp.asarray(SCALES)[:, None]).to_event(1)
    law = dist.MixtureSameFamily(dist.Categorical(jnp.asarray(WEIGHTS)), modes)
    _rest(numpyro.sample("x", law), y)


def _rest(x, y):
    # The scale's prior depends on x.
    s = numpyro.sample("s", dist.LogNormal(0.3 * x[0], 0.6))
    numpyro.deterministic("double", 2 * x)
    numpyro.sample("y", dist.Normal(x[0], s).expand([3]).to_event(1), obs=y)


@cache
def truth():
    """Return log evidence, and means and deviations of x and log s, on a grid."""
    x, log_s = np.meshgrid(np.linspace(-5, 5, 1201), np.linspace(-5, 4, 1201), indexing="ij")
    density = sum(
        w * stats.norm.pdf(x, m, r) for w, m, r in zip(WEIGHTS, MEANS, SCALES, strict=True)
    )
    density = density * stats.norm.pdf(log_s, 0.3 * x, 0.6)
    for value in Y:
        density = density * stats.norm.pdf(value, x, np.exp(log_s))
    mass = density.sum() * (10 / 1200) * (9 / 1200)
    density = density / density.sum()
    moments = {}
    for name, value in {"x": x, "s": log_s}.items():
        mean = np.sum(density * value)
        moments[name] = mean, np.sqrt(np.sum(density * (value - mean) ** 2))
    return np.log(mass), moments


def z_scores(values, share=None):
    """Distances of means from the truth in standard errors, for x and log s."""
    found = []
    for name, (mean, sd) in truth()[1].items():
        draws = np.asarray(values[name], float).reshape(len(values[name]), -1)[:, 0]
        draws = np.log(draws) if name == "s" else draws
        if share is None:
            ess = float(az.ess(draws.reshape(2, -1)))
            found.append((draws.mean() - mean) / (sd / np.sqrt(ess)))
        else:
            error = np.sqrt(np.sum(share**2 * (draws - mean) ** 2))
            found.append((share @ draws - mean) / error)
    return np.abs(found)
