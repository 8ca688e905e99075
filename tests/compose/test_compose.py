"""Composed score models: their scores, densities and draws, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from scoreppl.compose import Composition
from tests.compose.laws import FIRST, LAWS, SECOND, mixture

KEY, X = jax.random.key(0), jnp.zeros(1)
COMPOSED = [name for name, law in LAWS.items() if law.log_weight is None]


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_the_score_is_the_gradient_of_the_products_density(name, t):
    model, x = LAWS[name].model, jnp.array([0.7])
    found = model.score(x, t)
    np.testing.assert_allclose(found, jax.grad(model.log_prob)(x, t), rtol=2e-4)
    alpha, sigma = model.noise(t)
    np.testing.assert_allclose(
        model.denoise(x, t), (x + sigma**2 * found) / alpha, rtol=2e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", COMPOSED)
def test_the_density_at_data_is_the_composition(name):
    law = LAWS[name]
    grid = np.linspace(-14.0, 14.0, 20_001)
    at = np.array([6_000, 10_500, 11_200])
    found = [float(law.model.log_prob(jnp.array([grid[i]]))) for i in at]
    np.testing.assert_allclose(found, law.log_values[at], rtol=1e-4, atol=1e-4)


def test_models_under_schedules_of_their_own_meet_at_equal_log_snr():
    other = mixture([-0.5, 1.5], [0.6, 0.9], [0.4, 0.6], sp.noise.VE(0.01, 50.0))
    x, t = jnp.array([0.3]), 0.4
    same, mixed = sp.product(FIRST, SECOND), sp.product(FIRST, other)
    np.testing.assert_allclose(mixed.score(x, t), same.score(x, t), rtol=1e-3)
    np.testing.assert_allclose(mixed.log_prob(x), same.log_prob(x), rtol=1e-4)
    assert mixed.min_time >= FIRST.noise.time(other.noise.log_snr(other.min_time)) - 1e-6


def test_compositions_of_compositions_are_flat():
    nested = sp.temper(sp.product(FIRST, sp.temper(SECOND, 0.5)), 2.0)
    assert nested.models == (FIRST, SECOND)
    np.testing.assert_allclose(nested.exponents, [2.0, 1.0])


def test_compositions_pass_through_transformations():
    model = sp.product(FIRST, SECOND)
    batch = jnp.linspace(-1, 1, 5)[:, None]
    direct = jnp.stack([model.score(x, 0.3) for x in batch])
    found = jax.jit(jax.vmap(lambda model, x: model.score(x, 0.3), (None, 0)))(model, batch)
    np.testing.assert_allclose(found, direct, rtol=1e-5)


def test_a_mixture_is_one_at_every_level():
    means, scales, weights = [-1.5, 0.5, 2.0, -0.5, 1.5], [0.3, 0.5, 0.25, 0.6, 0.9], [
        0.2 * 0.3, 0.5 * 0.3, 0.3 * 0.3, 0.4 * 0.7, 0.6 * 0.7,
    ]  # fmt: skip
    whole = mixture(means, scales, weights)
    model = sp.mixture([FIRST, SECOND], jnp.log(jnp.array([0.3, 0.7])))
    for t in (0.05, 0.5):
        x = jnp.array([0.2])
        np.testing.assert_allclose(model.score(x, t), whole.score(x, t), rtol=1e-4)
        np.testing.assert_allclose(model.denoise(x, t), whole.denoise(x, t), rtol=1e-4)
        np.testing.assert_allclose(model.log_prob(x, t), whole.log_prob(x, t), rtol=1e-4)
    draws = np.asarray(model.sample(jax.random.key(0), (4_000,), num_steps=60))[:, 0]
    exact = np.asarray(whole.sample_exact(jax.random.key(1), (40_000,)))[:, 0]
    for f in (np.abs, np.sin, lambda x: x > 1.0):
        difference = f(draws).mean() - f(exact).mean()
        error = np.sqrt(f(draws).var() / 4_000 + f(exact).var() / 40_000)
        # Three functions at 4.5 standard errors: false-alarm rate 2e-5.
        assert abs(difference) < 4.5 * error + 2e-3


def test_mixtures_of_mixtures_are_flat():
    inner = sp.mixture([FIRST, SECOND], jnp.log(jnp.array([0.25, 0.75])))
    nested = sp.mixture([inner, FIRST], jnp.log(jnp.array([0.4, 0.6])))
    assert nested.models == (FIRST, SECOND, FIRST)
    np.testing.assert_allclose(jnp.exp(nested.log_weights), [0.1, 0.3, 0.6], rtol=1e-5)


def test_a_composition_reaches_as_far_as_its_shortest_schedule():
    short = mixture([-0.5, 1.5], [0.6, 0.9], [0.4, 0.6], sp.noise.VE(0.002, 3.0))
    for models in ((FIRST, short), (short, FIRST)):
        found = sp.product(*models).first_log_snr
        np.testing.assert_allclose(found, -2 * np.log(3.0), rtol=1e-4)


def test_a_plain_reverse_diffusion_is_not_the_composition():
    """What the page says of `sample`, seen: the modes of a sharpened law keep their old masses."""
    law = LAWS["sharpened"]
    draws = np.asarray(law.model.sample(jax.random.key(2), (20_000,), num_steps=100))[:, 0]
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - law.mean()) > 6 * error


class NoDensity:
    """A score model without a density, of two numbers."""

    noise, event_shape, min_time, has_log_density = FIRST.noise, (2,), 1e-3, False

    def score(self, x, t):
        return -x

    def denoise(self, x, t):
        return 0 * x

    def log_prob(self, x, t):
        raise ValueError("no density")

    def sample(self, key, sample_shape=(), **options):
        return jnp.zeros((*sample_shape, 2))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: sp.product(), "`models` is empty"),
        (lambda: sp.product(FIRST, 3.0), "holds a float"),
        (lambda: sp.product(FIRST, NoDensity()), "different event shapes"),
        (lambda: sp.temper(FIRST, 0.0), "`beta=0.0` must be positive"),
        (lambda: sp.temper(FIRST, -1.0), "`beta=-1.0`"),
        (lambda: sp.temper(FIRST, np.nan), "`beta=nan`"),
        (lambda: sp.temper(FIRST, "2"), "must be one number"),
        (lambda: sp.temper(FIRST, [2.0]), "must be one number"),
        (lambda: sp.negate(FIRST, SECOND, -0.5), "`strength=-0.5`"),
        (lambda: sp.mixture(FIRST, SECOND), "give a list"),
        (lambda: sp.mixture([FIRST, SECOND], [0.0, np.nan]), "numbers or -inf"),
        (lambda: sp.mixture([sp.temper(FIRST, 2.0), SECOND]).sample(KEY), "Use sp.ScoreSMC"),
        (lambda: sp.mixture([sp.temper(FIRST, 2.0), SECOND]).score(X, 0.5), "every noise level"),
        (lambda: sp.negate(FIRST, SECOND, 1.0), "`strength=1.0`"),
        (lambda: Composition([FIRST, SECOND], [1.0, -1.0]), "positive sum"),
        (lambda: Composition([FIRST, SECOND], [1.0, np.inf]), "must be finite"),
        (lambda: sp.geometric_average([FIRST, SECOND], [0.5, 0.6]), "have the sum 1.1"),
        (lambda: sp.geometric_average([FIRST, SECOND], [1.0]), "shape (1,)"),
        (lambda: sp.mixture([FIRST, SECOND], [0.0]), "`log_weights` has shape (1,)"),
        (lambda: sp.mixture([FIRST, SECOND], [-np.inf, -np.inf]), "one of them finite"),
        (
            lambda: sp.mixture([FIRST, mixture([0.0], [1.0], [1.0], sp.noise.VPCosine())]),
            "share one noise schedule",
        ),
        (lambda: sp.temper(NoDensity(), 2.0).log_prob(jnp.zeros(2), 0.5), "has no `log_prob`"),
        (lambda: sp.mixture([NoDensity()] * 2).score(jnp.zeros(2), 0.5), "ratios of its models"),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)
