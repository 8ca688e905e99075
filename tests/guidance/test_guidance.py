"""Each guidance against the case in which its formula is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from scoreppl.guidance import (
    LAGS,
    MPGD,
    FullCovariance,
    LimitState,
    LineSearch,
    Lookahead,
    LowRank,
    Minority,
    MomentMatched,
    RandomNumbers,
    Tweedie,
    Unguided,
    View,
)

MEAN = np.array([0.5, -1.0, 0.3])
ROOT = np.array([[0.9, 0.0, 0.0], [0.4, 0.6, 0.0], [-0.2, 0.1, 0.5]])
PRIOR = ROOT @ ROOT.T
ROWS = np.array([[1.0, -0.5, 0.2], [0.0, 0.7, 1.1]])
SEEN = np.array([1.4, -0.6])
NOISE = 0.4
U = np.array([0.9, -0.2, 1.3])
SCALE = 0.7


def quadratic(x):
    return -0.5 * jnp.sum((SEEN - jnp.asarray(ROWS) @ x) ** 2) / NOISE**2


def gaussian_view(log_weight, scale=SCALE, prior=PRIOR, unit=1.0):
    """View a normal prior N(MEAN, prior), with data in multiples of 1 / unit."""
    gain = prior @ np.linalg.inv(prior + scale**2 * np.eye(3))
    remaining = scale**2 * gain
    return View(
        lambda u: unit * (MEAN + jnp.asarray(gain) @ (u / unit - MEAN)),
        lambda x: log_weight(x / unit),
        jnp.full(3, unit * scale),
        jnp.full(3, unit**2 * np.trace(remaining) / 3),
        jnp.asarray(unit * np.sqrt(np.trace(prior) / 3)),
    )


def conditional():
    """Return mean and covariance of x_0 given u under the prior."""
    gain = PRIOR @ np.linalg.inv(PRIOR + SCALE**2 * np.eye(3))
    return MEAN + gain @ (U - MEAN), SCALE**2 * gain


def posterior():
    """Return mean, covariance and log E[w] given u, in closed form."""
    mean, covariance = conditional()
    system = ROWS @ covariance @ ROWS.T + NOISE**2 * np.eye(2)
    gain = covariance @ ROWS.T @ np.linalg.inv(system)
    residual = SEEN - ROWS @ mean
    log_twist = -0.5 * residual @ np.linalg.solve(system, residual)
    log_twist -= 0.5 * np.linalg.slogdet(system / NOISE**2)[1]
    return mean + gain @ residual, covariance - gain @ ROWS @ covariance, log_twist


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def test_full_covariance_is_exact_for_normals():
    mean, covariance, log_twist = posterior()
    found = FullCovariance()(jnp.asarray(U), gaussian_view(quadratic))
    np.testing.assert_allclose(found.denoised, conditional()[0], rtol=1e-10)
    np.testing.assert_allclose(found.covariance, conditional()[1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.guided, mean, rtol=1e-8)
    np.testing.assert_allclose(found.guided_covariance, covariance, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.log_twist, log_twist, rtol=1e-8)


def test_low_rank_is_the_full_covariance_seen_through_the_rows():
    def bent(x):
        """Depend on the two numbers ROWS x, concave and not as a square."""
        seen = jnp.asarray(ROWS) @ x
        return -jnp.logaddexp(0.0, -3.0 * seen[0]) - 0.25 * seen[1] ** 4

    for log_weight in (quadratic, bent):
        view = gaussian_view(log_weight)
        full = FullCovariance()(jnp.asarray(U), view)
        found = LowRank(ROWS)(jnp.asarray(U), view)
        np.testing.assert_allclose(found.guided, full.guided, rtol=1e-8)
        np.testing.assert_allclose(found.log_twist, full.log_twist, rtol=1e-8)
        lost = np.asarray(full.covariance - full.guided_covariance)
        np.testing.assert_allclose(found.narrowing @ found.narrowing.T, lost, atol=1e-8)
        assert np.linalg.norm(lost) > 0.01


def test_line_search_is_exact_for_one_observation_of_a_normal():
    def one(x):
        return -0.5 * (SEEN[0] - jnp.asarray(ROWS[0]) @ x) ** 2 / NOISE**2

    mean, covariance = conditional()
    variance = ROWS[0] @ covariance @ ROWS[0] + NOISE**2
    residual = SEEN[0] - ROWS[0] @ mean
    found = LineSearch()(jnp.asarray(U), gaussian_view(one))
    np.testing.assert_allclose(
        found.guided, mean + covariance @ ROWS[0] * residual / variance, rtol=1e-8
    )
    exact = -0.5 * residual**2 / variance - 0.5 * np.log(variance / NOISE**2)
    np.testing.assert_allclose(found.log_twist, exact, rtol=1e-8)


def test_line_search_stays_where_the_jacobian_points_the_wrong_way():
    view = gaussian_view(quadratic)._replace(denoise=lambda u: -0.3 * u)
    found = LineSearch()(jnp.asarray(U), view)
    np.testing.assert_array_equal(found.guided, found.denoised)
    assert np.isfinite(found.log_twist)


def test_moment_matching_is_exact_for_normals_after_enough_iterations():
    mean, _, _ = posterior()
    guidance = MomentMatched(lambda x: jnp.asarray(ROWS) @ x, jnp.asarray(SEEN), NOISE, 2)
    found = guidance(jnp.asarray(U), gaussian_view(quadratic))
    np.testing.assert_allclose(found.guided, mean, rtol=1e-8)
    # The twist's determinant takes the mean variance, so it is exact where that is the variance.
    view = gaussian_view(quadratic, prior=np.eye(3))
    exact = FullCovariance()(jnp.asarray(U), view).log_twist
    np.testing.assert_allclose(guidance(jnp.asarray(U), view).log_twist, exact, rtol=1e-8)


def test_fixed_draws_approach_the_posterior():
    mean, covariance, log_twist = posterior()
    found = RandomNumbers(200_000)(jnp.asarray(U), gaussian_view(quadratic))
    # Of 200,000 draws about 10,000 are effective: one per cent of each standard deviation, times
    # five; the seed is fixed.
    deviations = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(found.guided - mean) < 0.05 * deviations)
    np.testing.assert_allclose(found.guided_covariance, covariance, atol=0.1 * np.max(covariance))
    assert abs(float(found.log_twist) - log_twist) < 0.05


@pytest.mark.parametrize("num_draws", [2, 64])
def test_fixed_draws_without_any_weight_guide_by_nothing(num_draws):
    view = gaussian_view(lambda x: jnp.where(x[0] > 1e3, 0.0, -jnp.inf))
    found = RandomNumbers(num_draws)(jnp.asarray(U), view)
    np.testing.assert_allclose(found.guided, found.denoised, atol=1e-10)
    np.testing.assert_allclose(found.guided_covariance, found.covariance, atol=1e-8)


def test_the_limit_state_is_exact_for_a_half_space():
    normal, threshold = np.array([0.6, -0.2, 0.9]), 2.0
    mean, covariance = conditional()
    centre, sd = normal @ mean - threshold, np.sqrt(normal @ covariance @ normal)
    found = LimitState(lambda x: jnp.asarray(normal) @ x - threshold)(
        jnp.asarray(U), gaussian_view(quadratic)
    )
    ratio = np.exp(norm.logpdf(centre / sd) - norm.logcdf(centre / sd))
    kappa = covariance @ normal
    np.testing.assert_allclose(found.log_twist, norm.logcdf(centre / sd), rtol=1e-6)
    np.testing.assert_allclose(found.guided, mean + kappa * ratio / sd, rtol=1e-6)
    exact = covariance - np.outer(kappa, kappa) * ratio * (ratio + centre / sd) / sd**2
    np.testing.assert_allclose(found.guided_covariance, exact, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_tweedie_shifts_by_the_gradient_of_its_twist(strength):
    view, guidance = gaussian_view(quadratic), Tweedie(strength)
    found = guidance(jnp.asarray(U), view)
    slope = jax.grad(lambda u: guidance(u, view).log_twist)(jnp.asarray(U))
    np.testing.assert_allclose(found.guided - found.denoised, SCALE**2 * slope, rtol=1e-10)
    np.testing.assert_allclose(found.log_twist, strength * quadratic(found.denoised), rtol=1e-10)


def test_lags_is_a_scheduled_first_order_shift():
    view = gaussian_view(quadratic)
    full = Tweedie()(jnp.asarray(U), view)
    strength = 1.0 / (1.0 + 10.0 * (SCALE / float(view.data_scale)) ** 4)
    found = LAGS()(jnp.asarray(U), view)
    # The denoiser is linear, so the finite difference is exact.
    np.testing.assert_allclose(
        found.guided - found.denoised, strength * (full.guided - full.denoised), rtol=1e-8
    )
    without = LAGS(hvp="none")(jnp.asarray(U), view)
    shift = strength * SCALE**2 * jax.grad(quadratic)(full.denoised)
    np.testing.assert_allclose(without.guided - without.denoised, shift, rtol=1e-8)
    published = LAGS(rescale=False)(jnp.asarray(U), view)
    strength = 1.0 / (1.0 + 10.0 * SCALE**4)
    np.testing.assert_allclose(
        published.guided - published.denoised, strength * (full.guided - full.denoised), rtol=1e-8
    )


@pytest.mark.parametrize("guidance", [LAGS(), LAGS(hvp="none"), LineSearch(), FullCovariance()])
def test_rescaled_data_are_guided_alike(guidance):
    plain = guidance(jnp.asarray(U), gaussian_view(quadratic))
    large = guidance(3.0 * jnp.asarray(U), gaussian_view(quadratic, unit=3.0))
    np.testing.assert_allclose(large.guided, 3.0 * plain.guided, rtol=1e-8)
    np.testing.assert_allclose(large.log_twist, plain.log_twist, rtol=1e-8)


def test_published_lags_does_not_survive_rescaling():
    plain = LAGS(rescale=False)(jnp.asarray(U), gaussian_view(quadratic))
    large = LAGS(rescale=False)(3.0 * jnp.asarray(U), gaussian_view(quadratic, unit=3.0))
    shares = (large.guided - large.denoised) / (3.0 * (plain.guided - plain.denoised))
    assert np.all(np.abs(shares) < 0.1)


def lookahead_draws():
    draws = MEAN + np.random.default_rng(1).standard_normal((50, 3)) @ ROOT.T
    return jnp.asarray(draws), jax.vmap(quadratic)(jnp.asarray(draws))


@pytest.mark.parametrize("tilt", [1.0, 0.3])
def test_lookahead_shifts_by_the_gradient_of_its_twist(tilt):
    guidance, view = Lookahead(*lookahead_draws(), tilt=tilt), gaussian_view(quadratic)
    found = guidance(jnp.asarray(U), view)
    slope = jax.grad(lambda u: guidance(u, view).log_twist)(jnp.asarray(U))
    np.testing.assert_allclose(found.guided - found.denoised, SCALE**2 * slope, atol=1e-6)


def test_lookahead_approaches_the_posterior_with_many_draws():
    _, _, log_twist = posterior()
    draws = MEAN + np.random.default_rng(2).standard_normal((400_000, 3)) @ ROOT.T
    guidance = Lookahead(jnp.asarray(draws), jax.vmap(quadratic)(jnp.asarray(draws)))
    found = guidance(jnp.asarray(U), gaussian_view(quadratic))
    mean, _, _ = posterior()
    np.testing.assert_allclose(found.guided, mean, atol=0.03)
    assert abs(float(found.log_twist) - log_twist) < 0.05


def test_lookahead_acts_above_its_least_noise_alone():
    guidance = Lookahead(*lookahead_draws(), min_scale=0.5)
    shifts = {
        scale: guidance(jnp.asarray(U), gaussian_view(quadratic, scale=scale))
        for scale in (0.4, 0.6)
    }
    np.testing.assert_array_equal(shifts[0.4].guided, shifts[0.4].denoised)
    assert float(shifts[0.4].log_twist) == 0.0
    assert np.all(shifts[0.6].guided != shifts[0.6].denoised)


def test_no_guidance_is_the_prior():
    found = Unguided()(jnp.asarray(U), gaussian_view(quadratic))
    np.testing.assert_array_equal(found.guided, found.denoised)
    assert float(found.log_twist) == 0.0


EVERY = {
    "unguided": Unguided(),
    "tweedie": Tweedie(),
    "lags": LAGS(),
    "lags without product": LAGS(hvp="none"),
    "line search": LineSearch(),
    "full covariance": FullCovariance(),
    "random numbers": RandomNumbers(),
    "limit state": LimitState(lambda x: x[0] - 1.0),
    "moment matched": MomentMatched(lambda x: jnp.asarray(ROWS) @ x, jnp.asarray(SEEN), NOISE, 3),
    "mpgd": MPGD(),
    "minority": Minority(num_draws=4, guidance=LineSearch()),
    "lookahead": Lookahead(jnp.zeros((4, 3)), jnp.zeros(4)),
    "low rank": LowRank(ROWS),
}


@pytest.mark.parametrize("name", EVERY)
def test_the_stated_cost_is_what_is_spent(name):
    """A call of the denoiser counts one, a pull back through it two."""
    spent = []
    plain = gaussian_view(quadratic)

    @jax.custom_vjp
    def denoise(u):
        jax.debug.callback(lambda _: spent.append(1), u)
        return plain.denoise(u)

    def forward(u):
        return denoise(u), u

    def backward(u, cotangent):
        jax.debug.callback(lambda _: spent.append(2), cotangent)
        return jax.vjp(plain.denoise, u)[1](cotangent)

    denoise.defvjp(forward, backward)
    jax.block_until_ready(EVERY[name](jnp.asarray(U), plain._replace(denoise=denoise)))
    jax.effects_barrier()
    assert sum(spent) == EVERY[name].num_score_evaluations(3)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: LAGS(hvp="exact"), "`hvp='exact'`"),
        (lambda: LAGS(c=float("nan")), "`c=nan`"),
        (lambda: LAGS(step=0.0), "`step=0.0`"),
        (lambda: LAGS(step=np.inf), "`step=inf`"),
        (lambda: Tweedie(np.nan), "`strength=nan`"),
        (lambda: FullCovariance(2.5), "`num_newton_steps=2.5` must be an integer"),
        (lambda: MomentMatched(lambda x: x, jnp.ones(3), 0.0), "`noise_scale=0.0`"),
        (lambda: FullCovariance(0), "`num_newton_steps=0`"),
        (lambda: LowRank(np.ones(3)), "`rows` has shape (3,)"),
        (lambda: LowRank(np.ones((3, 2))), "`rows` has shape (3, 2)"),
        (lambda: LowRank(ROWS, 0), "`num_newton_steps=0`"),
        (lambda: LowRank(np.full((1, 3), np.nan)), "`rows` holds NaN"),
        (
            lambda: LowRank(np.ones((1, 4)))(jnp.asarray(U), gaussian_view(quadratic)),
            "`rows` has 4 columns",
        ),
        (lambda: RandomNumbers(3), "`num_draws=3`"),
        (lambda: RandomNumbers(floor=float("nan")), "`floor` holds NaN"),
        (lambda: RandomNumbers(floor=-np.inf), "`floor` holds NaN or infinite"),
        (lambda: Minority(float("nan")), "`strength` holds NaN"),
        (lambda: MomentMatched(lambda x: x, jnp.ones(3), 1.0, 0), "`num_iterations=0`"),
        (lambda: Lookahead(jnp.zeros(3), jnp.zeros(3)), "`draws` of shape (3,)"),
        (lambda: Lookahead(jnp.zeros((3, 2)), jnp.zeros(2)), "`log_weights` of shape (2,)"),
        (lambda: Lookahead(jnp.full((3, 2), jnp.nan), jnp.zeros(3)), "`draws` holds NaN"),
        (lambda: Lookahead(jnp.zeros((3, 2)), jnp.zeros(3), jnp.nan), "`tilt` holds NaN"),
        (lambda: Lookahead(jnp.zeros((2, 2)), jnp.array([0.0, jnp.nan])), "`log_weights` must be"),
        (lambda: Lookahead(jnp.zeros((2, 2)), jnp.full(2, -jnp.inf)), "`log_weights` must be"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError) as error:
        build()
    assert message in str(error.value)


def test_numbers_that_are_traced_are_not_checked():
    u, numbers = jnp.asarray(U), jnp.zeros((2, U.size)).at[1].set(1.0)

    @jax.jit
    def guided(rows, draws, log_weights):
        view = gaussian_view(quadratic)
        parts = (LowRank(rows), Lookahead(draws, log_weights))
        return [part(u, view).guided for part in parts]

    # A draw without weight is one that may not be taken.
    weights = jnp.array([0.0, -jnp.inf])
    for found in guided(jnp.asarray(ROWS), numbers, weights):
        assert np.isfinite(found).all()
    Lookahead(numbers, weights)
