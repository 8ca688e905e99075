"""The tomography study: operator, metrics and model; deepinv's side where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from numpyro import handlers

import scoreppl as sp
from case_studies.tomography import metrics, radon, run, scenes, study, tables
from case_studies.tomography.annealing import Drawn, warmed_up
from case_studies.tomography.model import (
    MEDIAN_NOISE,
    NOISE_SD,
    blocks,
    ink,
    slant,
    tomography_model,
    total,
)

SIZE = 8
needs_peers = pytest.mark.skipif(not study.has_peers(), reason="deepinv is not installed")


def normal_score(_, x, t, condition):
    return -x


NORMAL = sp.ScoreNetwork(
    normal_score, None, noise=sp.noise.VPLinear(), prediction="score", event_shape=(SIZE, SIZE)
)


@pytest.fixture(scope="module")
def transform():
    return radon.matrix()


@pytest.fixture(scope="module")
def small():
    return radon.matrix(SIZE, num_angles=4, num_bins=12)


def gaussian(row, column, sd, size=radon.SIZE):
    pixels = np.arange(size) - (size - 1) / 2
    return np.exp(-0.5 * ((pixels[:, None] - row) ** 2 + (pixels - column) ** 2) / sd**2)


def test_the_transform_of_a_gaussian_is_known(transform):
    row, column, sd = 3.0, -2.0, 2.5
    found = (transform @ gaussian(row, column, sd).ravel()).reshape(radon.NUM_ANGLES, -1)
    theta = radon.angles()[:, None]
    from_centre = radon.bins() - (column * np.cos(theta) + row * np.sin(theta))
    exact = np.sqrt(2 * np.pi) * sd * np.exp(-0.5 * (from_centre / sd) ** 2)
    # Interpolating between pixels blurs: the variance grows by a sixth to a third of a pixel.
    np.testing.assert_allclose(found, exact, atol=0.03 * exact.max())


def test_every_angle_sees_the_whole_mass_of_a_disc(transform):
    disc = gaussian(4.0, 5.0, 1.0) > np.exp(-0.5 * 16)
    mass = (transform @ disc.ravel()).reshape(radon.NUM_ANGLES, -1).sum(1)
    np.testing.assert_allclose(mass, disc.sum(), rtol=0.01)


def test_projection_matrix_and_adjoint_agree(transform):
    rng = np.random.default_rng(0)
    image, sinogram = rng.normal(size=(28, 28)), rng.normal(size=(radon.NUM_ANGLES, radon.NUM_BINS))
    theta = jnp.asarray(radon.angles())
    seen, pull_back = jax.vjp(lambda x: radon.project(x, theta), jnp.asarray(image, jnp.float32))
    np.testing.assert_allclose(seen.ravel(), transform @ image.ravel(), atol=1e-3)
    (back,) = pull_back(jnp.asarray(sinogram, jnp.float32))
    np.testing.assert_allclose(back.ravel(), transform.T @ sinogram.ravel(), atol=1e-3)


def test_back_projection_from_many_angles_gives_the_image_back():
    image = gaussian(1.0, -1.0, 2.0, size=16)
    transform = radon.matrix(16, num_angles=24, num_bins=24)
    sinogram = (transform @ image.ravel()).reshape(24, 24)
    found = radon.filtered_back_projection(transform, sinogram)
    # The ramp filter on bins of a pixel and the interpolation blur a peak of two pixels.
    assert np.abs(found - image).max() < 0.1
    assert found.sum() == pytest.approx(image.sum(), rel=0.05)


def test_functionals_of_a_known_image():
    image = np.zeros((28, 28), np.float32)
    image[2, 3] = image[10, 11] = 1.0
    assert float(total(image)) == 2.0
    parts = np.asarray(blocks(image))
    assert parts[0] == parts[5] == 1.0 and parts.sum() == 2.0
    assert float(slant(image)) == pytest.approx(16.0, abs=1e-4)


def test_crps_of_normal_draws_is_the_closed_form():
    rng, y, count = np.random.default_rng(1), 0.7, 20_000
    scores = metrics.crps(rng.normal(size=(5, count)), np.full(count, y))
    density, below = np.exp(-0.5 * y**2) / np.sqrt(2 * np.pi), 0.7580363
    exact = y * (2 * below - 1) + 2 * density - 1 / np.sqrt(np.pi)
    # Five standard errors: a false alarm in two million.
    assert abs(scores.mean() - exact) < 5 * scores.std() / np.sqrt(count)


@pytest.mark.parametrize("sd, is_right", [(1.0, True), (0.7, False), (1.4, False)])
def test_coverage_is_right_for_draws_of_the_truths_law_alone(sd, is_right):
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(1000, 2))
    draws = sd * rng.normal(size=(1000, metrics.NUM_DRAWS, 2))
    for level in metrics.LEVELS:
        found = metrics.coverage(draws, truth, level)
        # Four standard errors: a false alarm in 16,000.
        assert (abs(found.mean - level) < 4 * found.error) == is_right


def test_psnr_of_a_constant_error():
    image = np.zeros((3, 28, 28))
    np.testing.assert_allclose(metrics.psnr(image + 0.1, image), 20.0)


def test_psnr_of_the_mean_of_infinitely_many_draws():
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 28, 28))
    # Their law's mean is off by 0.1, which is 20 dB; the mean of four draws is 0.1 off, too.
    draws = truth[:, None] + 0.1 + 0.2 * rng.normal(size=(40, 4, 28, 28))
    found, few = metrics.psnr_of_exact_mean(draws, truth), metrics.psnr(draws.mean(1), truth)
    # Standard error 0.03 dB of the mean over digits; 3 dB are the four draws' own error.
    assert abs(found.mean() - 20) < 0.15
    assert abs(few.mean() - 17) < 0.15


def normal_posterior(transform, y):
    """Mean and covariance of a standard normal image's pixels and, last, the noise scale."""
    operator, centred = transform / 2, y - transform.sum(1) / 2
    grid = MEDIAN_NOISE * np.exp(NOISE_SD * np.linspace(-4, 4, 81))
    log_weight, means, covariances = [], [], []
    for scale in grid:
        law = scipy.stats.multivariate_normal(cov=operator @ operator.T + scale**2 * np.eye(len(y)))
        log_prior = -0.5 * (np.log(scale / MEDIAN_NOISE) / NOISE_SD) ** 2
        log_weight.append(law.logpdf(centred) + log_prior)
        covariance = np.linalg.inv(np.eye(SIZE**2) + operator.T @ operator / scale**2)
        means.append(np.append(covariance @ operator.T @ centred / scale**2, scale))
        covariances.append(np.pad(covariance, (0, 1)))
    weight, means = scipy.special.softmax(log_weight), np.array(means)
    mean = weight @ means
    spread = np.einsum("g,gi,gj->ij", weight, means - mean, means - mean)
    return mean, np.einsum("g,gij->ij", weight, covariances) + spread


@pytest.mark.slow
def test_posterior_of_a_standard_normal_image_is_right(small):
    key, num_draws = jax.random.key(0), 200
    images = ink(jax.random.normal(key, (1, SIZE, SIZE)))
    y = scenes.look(images, small, key, jnp.full(1, 0.5)).y[0]
    drawn = warmed_up(NORMAL, small, y, key, num_draws)(y)
    mean, covariance = normal_posterior(small, y)
    sd = np.sqrt(np.diag(covariance))
    pixels = (2 * drawn.images - 1).reshape(num_draws, -1)
    found = np.column_stack([pixels, drawn.noise_scale])
    z = (found.mean(0) - mean) / (sd / np.sqrt(num_draws))
    # Four standard deviations of a mean of squares of correlated normal numbers, whose skewness
    # makes a false alarm less rare than for a normal one: one in 1,700 by simulation.
    correlation = covariance / np.outer(sd, sd)
    assert np.mean(z**2) < 1 + 4 * np.sqrt(2 * np.sum(correlation**2)) / len(z)
    assert abs(z[-1]) < 4
    ratio = found.std(0, ddof=1) / sd
    # Of one pixel the ratio has a standard error of 0.05.
    assert np.mean(ratio[:-1]) == pytest.approx(1.0, abs=0.05)


def test_the_model_states_line_integrals_of_the_ink_in_noise(small):
    rng = np.random.default_rng(6)
    x, y, scale = rng.normal(size=(SIZE, SIZE)), rng.normal(size=48), 0.3
    held = handlers.substitute(tomography_model, {"x": jnp.asarray(x), "noise_scale": scale})
    sites = handlers.trace(held).get_trace(NORMAL, jnp.asarray(small), jnp.asarray(y))
    exact = scipy.stats.norm(small @ ((x + 1) / 2).ravel(), scale).logpdf(y).sum()
    assert float(sites["y"]["fn"].log_prob(y)) == pytest.approx(exact, rel=1e-4)
    law = scipy.stats.lognorm(NOISE_SD, scale=MEDIAN_NOISE)
    prior = float(sites["noise_scale"]["fn"].log_prob(scale))
    assert prior == pytest.approx(law.logpdf(scale), rel=1e-4)


@pytest.mark.slow
def test_our_side_of_the_study_at_its_smallest(small):
    images = ink(jax.random.normal(jax.random.key(0), (2, SIZE, SIZE)))
    scene = scenes.look(images, small, jax.random.key(1))
    assert scene.y.shape == (2, 48) and np.all(scene.noise_scales > 0)
    found = study.compare(
        NORMAL, small, scene, scene.y[0], {}, jax.random.key(2), "test", 0,
        num_draws=3, num_levels=3,
    )  # fmt: skip
    ((name, drawn),) = found.items()
    assert name == study.OURS and len(drawn) == 2
    assert drawn[0].images.shape == (3, SIZE, SIZE) and drawn[0].evaluations == 6
    assert not np.array_equal(drawn[0].images, drawn[1].images)


def judged(num_digits=4):
    rng = np.random.default_rng(3)
    images = rng.uniform(size=(num_digits, 28, 28))
    scene = scenes.Scene(images, np.full(num_digits, 0.5), np.zeros((num_digits, 320)))
    found = {
        name: [
            Drawn(image + 0.1 * rng.normal(size=(19, 28, 28)), scale, 256.0, 1.0)
            for image in images[:count]
        ]
        for name, scale, count in (
            (study.OURS, rng.uniform(size=19), num_digits), ("DPS", None, num_digits - 1)
        )
    }  # fmt: skip
    all_images = {name: np.stack([one.images for one in each]) for name, each in found.items()}
    return tables.Judged("made up", scene, found, all_images, images)


def test_tables_have_a_row_for_each_method_and_count():
    made = judged()
    for text, rows in ((tables.errors(made), 2), (tables.intervals(made), 4)):
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + rows
        assert len({line.count("|") for line in lines}) == 1


def test_peers_draws_get_the_truths_noise_and_ours_do_not():
    found = judged().found
    images = study.at_pixel_noise(NORMAL, found, jax.random.key(0))
    np.testing.assert_array_equal(images[study.OURS][0], found[study.OURS][0].images)
    added = images["DPS"][0] - found["DPS"][0].images
    assert added.std() == pytest.approx(scenes.pixel_noise(NORMAL), rel=0.05)


@needs_peers
def test_the_denoiser_is_the_network_at_the_right_time_and_has_its_gradient():
    import torch

    from case_studies.tomography.denoiser import Denoiser

    prior, rng = sp.pretrained.load("digits8"), np.random.default_rng(4)
    x = torch.tensor(rng.uniform(size=(2, 1, 8, 8)), dtype=torch.float32, requires_grad=True)
    denoiser, t = Denoiser(prior), 0.4
    alpha, sigma = prior.noise(t)
    clean = denoiser(x, torch.tensor(float(sigma / alpha) / 2))
    at = alpha * (2 * x.detach().numpy()[:, 0] - 1)
    exact = (1 + jax.jit(jax.vmap(prior.denoise, (0, None)))(jnp.asarray(at), t)) / 2
    np.testing.assert_allclose(clean.detach().numpy()[:, 0], exact, atol=1e-4)

    towards = torch.tensor(rng.normal(size=x.shape), dtype=torch.float32)
    weight = torch.tensor(rng.normal(size=x.shape), dtype=torch.float32)
    (clean * weight).sum().backward()
    assert denoiser.evaluations == 3
    assert x.grad is not None
    level, step = float(sigma / alpha) / 2, 1e-2
    with torch.no_grad():
        ahead, behind = (denoiser(x + s * step * towards, level) for s in (1, -1))
    slope = float(((ahead - behind) * weight).sum()) / (2 * step)
    assert float((x.grad * towards).sum()) == pytest.approx(slope, rel=0.02, abs=0.02)
    with pytest.raises(ValueError, match="one number"):
        denoiser(x, torch.tensor([0.1, 0.2]))


@needs_peers
def test_peers_see_our_matrix_and_noise(small):
    import torch

    from case_studies.tomography.peers import seen

    rng = np.random.default_rng(5)
    y, x = rng.normal(size=48), torch.tensor(rng.uniform(size=(1, 1, SIZE, SIZE)))
    at = seen(small, y, 0.5)
    norm = np.linalg.norm(small, 2)
    np.testing.assert_allclose(
        at.physics.A(x)[0] * norm, small @ x.numpy().ravel(), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(at.y * norm, y, rtol=1e-5)
    assert float(at.physics.noise_model.sigma) * norm == pytest.approx(0.5, rel=1e-5)
    other = torch.tensor(rng.normal(size=(1, 48)), dtype=torch.float32)
    forward, backward = at.physics.A(x) @ other.T, (at.physics.A_adjoint(other) * x).sum()
    assert float(forward) == pytest.approx(float(backward), rel=1e-4, abs=1e-5)


@needs_peers
@pytest.mark.slow
def test_peers_reconstruct_a_digit_and_differ_by_seed():
    prior, transform = sp.pretrained.load("digits"), radon.matrix()
    images = scenes.real_digits(prior, jax.random.key(0))[:1]
    scene = scenes.look(images, transform, jax.random.key(1), jnp.full(1, 0.3))
    runner = study.peer_runner(prior, transform, 2)
    for name, peer in run.chosen().items():
        drawn, again = (runner(peer, scene.y[0], 0.3, seed) for seed in (1, 2))
        assert metrics.psnr(drawn.images.mean(0), scene.images[0]) > 20, name
        assert drawn.evaluations == {"DPS": 297, "DiffPIR": 100}[name]
        assert not np.array_equal(drawn.images, again.images)
