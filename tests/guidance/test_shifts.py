"""Shifts of the denoiser that need no pull back through it: MPGD and minority guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import scoreppl as sp
from scoreppl.analytic import GaussianMixture
from scoreppl.guidance import MPGD, LineSearch, Minority, Unguided, View, minority_log_weight
from scoreppl.samplers.guided import guide
from scoreppl.samplers.reference import angle_ladder
from scoreppl.target import Target
from tests.given_ladder import reference_at

SCALE, SD, MEAN = 0.7, 1.3, 0.4
U = jnp.asarray([0.9, -0.2, 1.3])
ROWS, SEEN = jnp.asarray([[1.0, -0.5, 0.2], [0.0, 0.7, 1.1]]), jnp.asarray([1.4, -0.6])


def quadratic(x):
    return -0.5 * jnp.sum((SEEN - ROWS @ x) ** 2)


def normal_view(log_weight, unit=1.0):
    """View N(MEAN, SD^2 I), with data in multiples of 1 / unit."""
    gain = SD**2 / (SD**2 + SCALE**2)
    return View(
        lambda u: unit * (MEAN + gain * (u / unit - MEAN)),
        lambda x: log_weight(x / unit),
        jnp.full(3, unit * SCALE),
        jnp.full(3, unit**2 * SCALE**2 * gain),
        jnp.asarray(unit * SD),
    )


def test_mpgd_is_exact_for_a_linear_log_weight_and_an_isotropic_normal():
    slope = jnp.asarray([0.3, -1.0, 0.5])
    view = normal_view(lambda x: slope @ x)
    found = MPGD()(U, view)
    variance = SCALE**2 * SD**2 / (SD**2 + SCALE**2)
    np.testing.assert_allclose(found.guided - found.denoised, variance * slope, rtol=1e-5)
    half = MPGD(0.5)(U, view)
    np.testing.assert_allclose(half.guided - half.denoised, 0.5 * variance * slope, rtol=1e-5)


def test_a_normalised_step_has_the_length_of_the_spread():
    for factor in (1e-3, 1.0, 1e3):
        view = normal_view(lambda x, factor=factor: factor * quadratic(x))
        found = MPGD(0.8, normalize=True)(U, view)
        shift = np.asarray(found.guided - found.denoised)
        spread = float(view.denoising_variance[0]) ** 0.5
        np.testing.assert_allclose(np.sqrt(np.mean(shift**2)), 0.8 * spread, rtol=1e-5)
        assert shift @ np.asarray(jax.grad(quadratic)(found.denoised)) > 0
    flat = MPGD(normalize=True)(U, normal_view(lambda x: 0.0 * x[0]))
    np.testing.assert_array_equal(flat.guided, flat.denoised)


@pytest.mark.parametrize("guidance", [MPGD(), MPGD(normalize=True), Minority()])
def test_rescaled_data_are_guided_alike(guidance):
    plain = guidance(U, normal_view(quadratic))
    large = guidance(3.0 * U, normal_view(quadratic, unit=3.0))
    np.testing.assert_allclose(large.guided, 3.0 * plain.guided, rtol=1e-5)


def test_minority_guidance_of_a_normal_moves_away_from_its_mean():
    view = normal_view(quadratic)
    found = Minority(0.7, num_draws=4)(U, view)
    gain = SD**2 / (SD**2 + SCALE**2)
    # The pairs +-z cancel in a linear denoiser.
    away = 0.7 * (1.0 - gain) * (found.denoised - MEAN)
    np.testing.assert_allclose(found.guided - found.denoised, away, rtol=1e-5, atol=1e-6)
    assert float(found.log_twist) == 0.0
    both, base = Minority(0.7, guidance=LineSearch())(U, view), LineSearch()(U, view)
    np.testing.assert_allclose(both.guided - base.guided, away, rtol=1e-4, atol=1e-6)
    assert float(both.log_twist) == float(base.log_twist)
    assert Minority(num_draws=4, guidance=LineSearch()).num_score_evaluations(3) == 7


# A common wide mode and a rare one.
MIXTURE = GaussianMixture(
    jnp.asarray([[-1.0, 0.0], [2.0, 1.0]]), scales=0.4, weights=jnp.asarray([0.9, 0.1])
)


@jax.jit
def _share_of_the_rare_mode(key, strength):
    target = Target({"x": MIXTURE}, {"x": 0.0}, lambda z: jnp.zeros(()))
    ladder, count = angle_ladder(30), 2_000
    reference = reference_at(
        jax.random.key(9), {"x": jnp.zeros(2)}, target, ladder, num_pilots=500, num_steps=50
    )
    found = guide(
        jax.random.split(key, count), {"x": jnp.zeros((count, 2))}, jnp.zeros(count), target,
        ladder, reference, Minority(strength),
    )  # fmt: skip
    rare = jax.vmap(MIXTURE.mode_probabilities)(found.position["x"])[:, 1]
    return jnp.mean(rare), jax.nn.softmax(found.log_weight) @ rare, found.log_weight


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_minority_guidance_finds_the_rare_mode_and_weights_undo_it(seed):
    plain, _, _ = _share_of_the_rare_mode(jax.random.key(seed), 0.0)
    found, weighted, log_weight = _share_of_the_rare_mode(jax.random.key(seed), 0.5)
    # 2,000 draws: the standard error of a share of 0.1 is 0.007.
    assert abs(plain - 0.1) < 0.035
    assert found > 1.2 * plain
    assert sp.estimators.log_evidence(log_weight).ess > 200
    # Five standard errors of 200 draws.
    assert abs(weighted - 0.1) < 0.11 and abs(weighted - 0.1) < abs(found - 0.1)


def test_minority_weight_of_a_normal_in_closed_form():
    prior = GaussianMixture(jnp.full((1, 3), MEAN), scales=SD)
    scale = float(np.exp(-0.5 * 0.6))
    gain = SD**2 / (SD**2 + scale**2)
    numbers = np.random.default_rng(4).standard_normal((3, 3))
    numbers = np.concatenate([numbers, -numbers])
    x = np.array([1.0, -0.5, 2.0])
    gaps = (1 - gain) * (x - MEAN) - gain * scale * numbers
    found = minority_log_weight(
        prior, jnp.asarray(x, float), strength=0.8, log_snr=0.6, num_draws=6, seed=4
    )
    np.testing.assert_allclose(found, 0.8 * np.mean(np.sum(gaps**2, 1)) / scale**2, rtol=1e-4)


def test_minority_weight_prefers_the_rare_mode_and_is_part_of_a_program():
    def model():
        x = numpyro.sample("x", sp.ScorePrior(MIXTURE))
        numpyro.factor("rare", minority_log_weight(MIXTURE, x, strength=0.8))

    common, rare = (minority_log_weight(MIXTURE, x, strength=0.8) for x in MIXTURE.means)
    assert rare > common + 0.3
    opposite = minority_log_weight(MIXTURE, MIXTURE.means[1], strength=-0.8)
    np.testing.assert_allclose(opposite, -rare, rtol=1e-6)
    found = sp.log_weight(model)({"x": MIXTURE.means[1]})
    np.testing.assert_allclose(found, rare, rtol=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: MPGD(-1.0), "`strength=-1.0`"),
        (lambda: MPGD(float("nan")), "`strength=nan`"),
        (lambda: Minority(num_draws=3), "`num_draws=3`"),
        (lambda: minority_log_weight(MIXTURE, jnp.zeros(2), num_draws=0), "`num_draws=0`"),
        (lambda: minority_log_weight(MIXTURE, jnp.zeros((4, 2))), "`x` of shape (4, 2)"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError) as error:
        build()
    assert message in str(error.value)


def test_what_needs_a_gradient_says_so():
    assert MPGD().needs_gradient and Minority(guidance=LineSearch()).needs_gradient
    assert not Minority().needs_gradient and not getattr(Unguided(), "needs_gradient", False)
