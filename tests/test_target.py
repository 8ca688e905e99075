"""Target: data units, plates, times and floors, against autodiff and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import EDM, VE, DiscreteVP, FlowMatching, VPCosine, VPLinear
from scoreppl.score import ScoreNetwork
from scoreppl.target import Target

SCHEDULES = (
    VPLinear(),
    VPCosine(),
    VE(0.01, 20.0),
    EDM(),
    FlowMatching(),
    DiscreteVP.linear(),
)
LEVELS = (0.05, 0.4, 0.8)
FLOORS = {"image": 0.0, "number": 0.0}


def pair(noise):
    return GaussianMixture(
        jnp.array([[1.0, 0.5], [-1.0, 0.0]]),
        covariances=jnp.array([[[0.4, 0.1], [0.1, 0.3]], [[0.2, 0.0], [0.0, 0.9]]]),
        weights=jnp.array([0.7, 0.3]),
        noise=noise,
    )


def scalar(noise):
    return GaussianMixture(
        jnp.array([-1.0, 2.0]), scales=jnp.array([0.5, 1.0]), weights=[0.4, 0.6], noise=noise
    )


def target_of(noise, floors=FLOORS):
    """A site of events of shape (2,), one of scalar events, and an ordinary latent."""
    return Target({"image": pair(noise), "number": scalar(noise)}, floors, lambda z: jnp.zeros(()))


def position(key, scale=1.0):
    keys = random.split(key, 3)
    return {
        "image": scale * random.normal(keys[0], (3, 2)),
        "number": scale * random.normal(keys[1], (2, 3)),
        "theta": random.normal(keys[2], (4,)),
    }


def both(t):
    return {"image": t, "number": t}


@pytest.mark.parametrize("noise", SCHEDULES, ids=lambda noise: type(noise).__name__)
def test_the_score_is_the_gradient_of_the_log_density(noise):
    target, z = target_of(noise), position(random.key(0))
    score = jax.jit(target.score)
    gradient = jax.jit(jax.grad(target.log_density))
    for t in LEVELS:
        found, expected = score(z, both(t)), gradient(z, both(t))
        for name in z:
            # Rounding: float32 keeps 1e-7 of terms that reach 1e2 where the noise is small.
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-4)
    assert float(jnp.abs(found["image"]).max()) > 0.0
    assert not found["theta"].any()


def mixture_density(u, r, weights, means, covariances):
    """Density of data plus noise of standard deviation r, by scipy in float64."""
    return sum(
        w * stats.multivariate_normal(m, np.asarray(c) + r**2 * np.eye(len(m))).pdf(u)
        for w, m, c in zip(weights, means, covariances, strict=True)
    )


@pytest.mark.parametrize("noise", SCHEDULES, ids=lambda noise: type(noise).__name__)
def test_positions_are_data_plus_noise(noise):
    target, z = target_of(noise), position(random.key(1))
    for t in LEVELS:
        alpha, sigma = (np.asarray(value, float) for value in noise(t))
        scales = target.scales(both(t))
        np.testing.assert_allclose(scales["image"], sigma / alpha, rtol=1e-6)
        np.testing.assert_allclose(scales["number"], sigma / alpha, rtol=1e-6)
        expected = np.log(
            mixture_density(
                np.asarray(z["image"], float),
                sigma / alpha,
                [0.7, 0.3],
                [[1.0, 0.5], [-1.0, 0.0]],
                [[[0.4, 0.1], [0.1, 0.3]], [[0.2, 0.0], [0.0, 0.9]]],
            )
        )
        one = Target({"image": pair(noise)}, {"image": 0.0}, lambda z: jnp.zeros(()))
        found = [one.log_density({"image": u}, both(t)) for u in z["image"]]
        # Up to a constant: differences between the events. float32 at values up to 1e2.
        np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("noise", SCHEDULES, ids=lambda noise: type(noise).__name__)
def test_denoising_follows_tweedie_in_data_units(noise):
    target, z = target_of(noise), position(random.key(2))
    t = both(0.5)
    denoised, score, scales = target.denoise(z, t), target.score(z, t), target.scales(t)
    for name in ("image", "number"):
        expected = z[name] + scales[name] ** 2 * score[name]
        atol = 1e-5 * float(1.0 + scales[name] ** 2)
        np.testing.assert_allclose(denoised[name], expected, rtol=1e-4, atol=atol)
    np.testing.assert_array_equal(denoised["theta"], z["theta"])


def test_a_plate_is_independent_events():
    target, z = target_of(VPLinear()), position(random.key(3))
    t = both(0.3)
    score, total = target.score(z, t), target.log_density(z, t)
    assert score["image"].shape == (3, 2) and score["number"].shape == (2, 3)
    expected = 0.0
    for index in range(3):
        alone = {"image": z["image"][index]}
        one = Target({"image": pair(VPLinear())}, FLOORS, target.log_weight)
        np.testing.assert_allclose(one.score(alone, t)["image"], score["image"][index], rtol=1e-5)
        expected += one.log_density(alone, t)
    for row in range(2):
        for column in range(3):
            alone = {"number": z["number"][row, column]}
            one = Target({"number": scalar(VPLinear())}, FLOORS, target.log_weight)
            np.testing.assert_allclose(
                one.score(alone, t)["number"], score["number"][row, column], rtol=1e-5
            )
            expected += one.log_density(alone, t)
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_sites_have_their_own_times():
    target, z = target_of(VPLinear()), position(random.key(4))
    mixed = target.score(z, {"image": 0.1, "number": 0.7})
    np.testing.assert_array_equal(mixed["image"], target.score(z, both(0.1))["image"])
    np.testing.assert_array_equal(mixed["number"], target.score(z, both(0.7))["number"])


def test_times_follow_the_log_snr_down_to_the_floors():
    models = {"image": pair(VPLinear()), "number": scalar(VPCosine())}
    target = Target(models, {"image": 0.2, "number": 0.05}, lambda z: jnp.zeros(()))
    times = target.times(-1.0)
    for name, model in models.items():
        # The same log-SNR on both schedules, which is another time on each.
        np.testing.assert_allclose(model.noise.log_snr(times[name]), -1.0, atol=1e-4)
    assert abs(float(times["image"] - times["number"])) > 0.01
    np.testing.assert_allclose(target.scales(times)["image"], np.exp(0.5), rtol=1e-4)
    low = target.times(9.0)
    assert float(low["image"]) == pytest.approx(0.2) and float(low["number"]) == pytest.approx(0.05)


def test_which_targets_have_a_log_density():
    def silent(params, x, t, condition):
        return x

    network = ScoreNetwork(silent, None, noise=VPLinear(), prediction="epsilon", event_shape=(2,))
    weight = lambda z: jnp.zeros(())  # noqa: E731
    assert Target({"image": pair(VPLinear())}, FLOORS, weight).has_log_density
    assert not Target({"image": pair(VPLinear()), "n": network}, FLOORS, weight).has_log_density
    # Without score sites the prior's part is the constant 0, which is exact.
    empty = Target({}, {}, weight)
    z = {"theta": jnp.ones(3)}
    assert empty.has_log_density and empty.times(0.0) == {} and empty.scales({}) == {}
    assert float(empty.log_density(z, {})) == 0.0
    np.testing.assert_array_equal(empty.score(z, {})["theta"], np.zeros(3))


def test_it_can_be_jitted_and_vmapped_over_positions_and_times():
    target = target_of(VPLinear())
    z = jax.vmap(position)(random.split(random.key(5), 7))
    times = {"image": jnp.linspace(0.1, 0.9, 7), "number": jnp.linspace(0.9, 0.1, 7)}
    batch = jax.jit(jax.vmap(target.score))(z, times)
    for index in (0, 6):
        pick = jax.tree.map(lambda leaf, i=index: leaf[i], (z, times))
        for name, value in target.score(*pick).items():
            np.testing.assert_allclose(batch[name][index], value, rtol=1e-5, atol=1e-6)
