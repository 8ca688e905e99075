"""The proposal of ordinary latents: its density, its fit, and moves that leave them their law."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import scoreppl as sp
from scoreppl.samplers import proposal
from scoreppl.target import Target
from tests.oracle import one_step_oracle

PRIOR = sp.analytic.GaussianMixture(jnp.zeros((1, 1)), scales=1.0)


def log_weight(z):
    """Weigh a skewed number whose law depends on the event, and one that depends on it."""
    g = z["a"] - 0.5 * z["x"][0]
    skewed = 2.0 * g - jnp.exp(g)
    return skewed - 0.5 * jnp.sum(((z["b"] - z["a"]) / jnp.array([0.3, 2.0])) ** 2)


def target(weight):
    return Target({"x": PRIOR}, {"x": 0.0}, weight)


def draw(key, count):
    """Draw exactly: exp(g) is gamma distributed."""
    key_x, key_a, key_b = jax.random.split(key, 3)
    x = jax.random.normal(key_x, (count, 1))
    a = 0.5 * x[:, 0] + jnp.log(jax.random.gamma(key_a, 2.0, (count,)))
    b = a[:, None] + jnp.array([0.3, 2.0]) * jax.random.normal(key_b, (count, 2))
    return {"x": x, "a": a, "b": b}


class Refresh(NamedTuple):
    """The moves as the oracle asks for them."""

    target: Target

    def init(self, position, key):
        return position

    def step(self, key, position):
        return proposal.refresh(key, position, self.target, 5), None


def functions(z):
    both = jnp.concatenate([z["a"][None], z["b"]])
    return jnp.concatenate([both, both**2, jnp.abs(both - z["x"][0]), jnp.tanh(z["a"] * z["x"])])


def results(weight):
    check = one_step_oracle(Refresh(target(weight)), functions, false_alarm_rate=1e-3)
    return [check(jax.random.key(s), draw(jax.random.key(100 + s), 100_000)) for s in range(3)]


def test_refreshed_latents_keep_their_law_given_the_event():
    # A correct move raises an alarm in one of three seeds with probability 3e-3.
    assert not any(result.alarm for result in results(log_weight))


@pytest.mark.parametrize(
    "mutant", [lambda z: jnp.zeros(()), lambda z: log_weight(z | {"x": 0 * z["x"]})]
)
def test_mutants_without_the_weight_or_without_the_event_are_seen(mutant):
    assert all(result.alarm for result in results(mutant))


def test_events_stay_and_latents_without_weight_leave():
    start = {"x": jnp.ones(1), "a": jnp.full((), jnp.nan), "b": jnp.zeros(2)}
    moved = proposal.refresh(jax.random.key(0), start, target(lambda z: jnp.where(
        jnp.isnan(z["a"]), jnp.nan, log_weight(z))), 5)  # fmt: skip
    np.testing.assert_array_equal(moved["x"], start["x"])
    # A step from what is not a number goes nowhere: the path keeps its weight of zero.
    assert np.isnan(moved["a"])
    still = proposal.refresh(jax.random.key(0), draw(jax.random.key(0), 1), target(log_weight), 0)
    np.testing.assert_array_equal(still["b"], draw(jax.random.key(0), 1)["b"])


def test_the_density_is_that_of_the_draws():
    root = jnp.array([[0.5, 0.0], [0.3, 0.2]])
    fitted = proposal.LatentProposal(jnp.array([1.0, -1.0]), root, jnp.asarray(0.8))
    values = np.random.default_rng(0).standard_normal((5, 2))
    log_prior = stats.norm.logpdf(values).sum(1)
    found = jax.vmap(lambda v, p: proposal.log_density(fitted, v, p))(values, log_prior)
    normal = stats.multivariate_normal(fitted.mean, np.asarray(root @ root.T)).pdf(values)
    np.testing.assert_allclose(found, np.log(0.2 * np.exp(log_prior) + 0.8 * normal), rtol=1e-4)

    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = jax.vmap(lambda key: proposal.draw(key, fitted, jnp.array([9.0, 9.0])))(keys)
    from_prior = np.all(np.asarray(drawn) == 9.0, axis=1)
    # Four standard errors of a share, and of means.
    assert abs(from_prior.mean() - 0.2) < 4 * np.sqrt(0.16 / 20_000)
    rest = np.asarray(drawn, float)[~from_prior]
    error = np.sqrt(np.diag(root @ root.T) / len(rest))
    assert np.all(np.abs(rest.mean(0) - fitted.mean) < 4 * error)
    np.testing.assert_allclose(np.cov(rest.T), root @ root.T, atol=0.01)


def test_a_fit_follows_the_weights_and_keeps_the_old_one_without_any():
    rng = np.random.default_rng(2)
    values = jnp.asarray(rng.standard_normal((400, 2)), jnp.float32)
    log_weight = -0.5 * jnp.sum((values - 1.0) ** 2, 1)
    fitted = proposal.fit(proposal.unfitted(2), values, log_weight)
    # A standard normal times one around 1 has mean 1/2; some 200 draws are effective.
    np.testing.assert_allclose(fitted.mean, 0.5, atol=0.25)
    assert float(fitted.share) == pytest.approx(0.8)
    nothing = jnp.full(400, -jnp.inf)
    for unusable in (nothing, nothing.at[0].set(0.0), nothing.at[:].set(jnp.nan)):
        kept = proposal.fit(fitted, values, unusable)
        jax.tree.map(np.testing.assert_array_equal, kept, fitted)
