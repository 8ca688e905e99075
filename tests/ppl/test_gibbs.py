"""The kernels as blocks of numpyro.infer.Gibbs, against a conjugate posterior."""

import arviz as az
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import NUTS
from numpyro.infer.gibbs import DiscreteGibbs, Gibbs
from scipy import stats

from scoreppl.analytic import GaussianMixture
from scoreppl.ppl.local_kernels import ScoreHMC, ScoreMALA, ScoreNUTS
from scoreppl.ppl.prior import ScorePrior
from tests.ppl.chains import draws_of, sampler

GAUSSIAN_MEAN = np.array([0.5, -1.0])
GAUSSIAN_COVARIANCE = np.array([[1.0, 0.5], [0.5, 0.8]])
GAUSSIAN = GaussianMixture(GAUSSIAN_MEAN[None], covariances=GAUSSIAN_COVARIANCE[None])
SEEN, SHIFT = np.array([1.9, -0.7]), 2.0


def mixed_model(seen):
    b = numpyro.sample("b", dist.Bernoulli(0.3))
    x = numpyro.sample("x", ScorePrior(GAUSSIAN))
    theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
    numpyro.deterministic("sum", x[0] + theta)
    numpyro.sample("sum_seen", dist.Normal(x[0] + theta + SHIFT * b, 0.8), obs=seen[0])
    numpyro.sample("difference_seen", dist.Normal(x[1] - theta, 0.6), obs=seen[1])


def mixed_truth():
    """E of b, x0, x1, theta, their products with b, and the six products of the last three."""
    mean = np.array([*GAUSSIAN_MEAN, 0.0])
    prior = np.zeros((3, 3))
    prior[:2, :2], prior[2, 2] = GAUSSIAN_COVARIANCE, 1.0
    rows = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]])
    spread = rows @ prior @ rows.T + np.diag([0.64, 0.36])
    gain = prior @ rows.T @ np.linalg.inv(spread)
    covariance = prior - gain @ rows @ prior
    offsets = np.array([[0.0, 0.0], [SHIFT, 0.0]])
    weights = np.array([0.7, 0.3]) * [
        stats.multivariate_normal(rows @ mean + offset, spread).pdf(SEEN) for offset in offsets
    ]
    weights /= weights.sum()
    means = [mean + gain @ (SEEN - offset - rows @ mean) for offset in offsets]
    seconds = [covariance + np.outer(m, m) for m in means]
    second = sum(w * s for w, s in zip(weights, seconds, strict=True))
    return np.array(
        [weights[1], *(weights @ means), *(weights[1] * means[1]), *second[np.triu_indices(3)]]
    )


BLOCKS = {
    "mala, NumPyro's NUTS and discrete": lambda: [
        (ScoreMALA(mixed_model, quadrature="simpson"), ["x"]),
        (NUTS(mixed_model), ["theta"]),
        (DiscreteGibbs(mixed_model), ["b"]),
    ],
    "discrete, NumPyro's NUTS and hmc": lambda: [
        (DiscreteGibbs(mixed_model), ["b"]),
        (NUTS(mixed_model), ["theta"]),
        (ScoreHMC(mixed_model, num_steps=3), None),
    ],
    "nuts and nuts": lambda: [
        (ScoreNUTS(mixed_model, quadrature="simpson"), ["x"]),
        (ScoreNUTS(mixed_model), ["theta"]),
        (DiscreteGibbs(mixed_model), ["b"]),
    ],
    "one nuts": lambda: [
        (ScoreNUTS(mixed_model, quadrature="simpson"), ["theta", "x"]),
        (DiscreteGibbs(mixed_model), ["b"]),
    ],
}


@pytest.mark.parametrize(
    "blocks",
    [pytest.param(b, marks=() if i == 0 else pytest.mark.slow) for i, b in enumerate(BLOCKS)],
)
def test_gibbs_agrees_with_a_conjugate_posterior(blocks):
    mcmc = sampler(
        Gibbs(BLOCKS[blocks]()), 4000, num_warmup=300, num_chains=4, chain_method=jax.vmap
    )
    mcmc.run(random.key(10), SEEN)
    draws = draws_of(mcmc)
    np.testing.assert_allclose(draws["sum"], draws["x"][..., 0] + draws["theta"], atol=1e-5)
    b = draws["b"].astype(float)
    z = np.stack([*np.moveaxis(draws["x"], -1, 0), draws["theta"]]).astype(float)
    products = [z[i] * z[j] for i, j in zip(*np.triu_indices(3), strict=True)]
    functions = [b, *z, *(b * z), *products]
    scores = [
        (f.mean() - expected) / float(az.mcse(f, method="mean"))
        for f, expected in zip(functions, mixed_truth(), strict=True)
    ]
    # 13 comparisons of about 1e-4: 1e-3 false alarms.
    assert np.abs(scores).max() < 4.0, np.round(scores, 2)
