"""The galaxies study: its optics, statistics and models; the network itself where it is installed.

A network that knows a standard normal law, pixel by pixel, stands in for that of galaxies.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import handlers
from numpyro.infer import MCMC
from numpyro.infer.util import log_density
from scipy.signal import convolve2d
from scipy.stats import chisquare

import scoreppl as sp
from case_studies.galaxies import blend, coverage, cutout, methods, network, one_dimension, run
from case_studies.galaxies.draws import Draws, independent_draws
from case_studies.galaxies.model import one_galaxy
from case_studies.galaxies.published import ZeroDensity
from case_studies.galaxies.scenes import (
    CENTRE,
    WINDOW_SD,
    Scene,
    draw_galaxies,
    flux,
    gaussian_psf,
    measured_psf,
    observe,
    psnr,
    see,
    single_matrices,
    size,
    smear,
)

BOX = 32
needs_network = pytest.mark.skipif(not network.installed(), reason="galaxygrad is not installed")


def normal_score(_, x, t, condition):
    return -x


NORMAL = sp.ScoreNetwork(
    normal_score, None, noise=sp.noise.VPLinear(10.0, 10.0), prediction="score",
    event_shape=(BOX, BOX), min_time=network.MIN_TIME,
)  # fmt: skip


def point(row=int(CENTRE), column=int(CENTRE)):
    return jnp.zeros((BOX, BOX)).at[row, column].set(1.0)


def seen_with(psf, x, shift=(0.0, 0.0), corner=(0, 0), shape=(BOX, BOX)):
    rows = smear(psf.rows, shift[0], corner[0], shape[0], BOX)
    columns = smear(psf.columns, shift[1], corner[1], shape[1], BOX)
    return np.asarray(see(x, rows, columns))


def test_a_shifted_galaxy_lies_where_it_should_and_keeps_its_flux():
    image = seen_with(gaussian_psf([1.5]), point(), (0.3, -0.7), (5, 2), (44, 40))[0]
    rows, columns = np.mgrid[:44, :40]
    assert image.sum() == pytest.approx(1.0, abs=1e-4)
    assert (image * rows).sum() == pytest.approx(CENTRE + 5.3, abs=1e-3)
    assert (image * columns).sum() == pytest.approx(CENTRE + 1.3, abs=1e-3)


def test_a_measured_psf_convolves_as_scipy_does():
    rng = np.random.default_rng(0)
    psf = np.einsum("tr,tc->rc", rng.normal(size=(3, 11)), rng.normal(size=(3, 11)))
    x = rng.normal(size=(BOX, BOX))
    image = seen_with(measured_psf(psf[None], 3), jnp.asarray(x, jnp.float32))[0]
    np.testing.assert_allclose(image, convolve2d(x, psf, mode="same"), atol=2e-4)


def test_light_beyond_the_scene_is_lost_and_not_wrapped():
    image = seen_with(gaussian_psf([1.5]), point(), corner=(-14, 0), shape=(20, BOX))[0]
    assert image[:8].sum() == pytest.approx(image.sum(), abs=1e-4)
    assert 0.5 < image.sum() < 1.0


def test_flux_size_and_psnr_of_a_gaussian():
    sd = 2.0
    pixels = np.arange(BOX) - CENTRE
    x = jnp.asarray(np.exp(-0.5 * (pixels[:, None] ** 2 + pixels**2) / sd**2))
    assert float(flux(x)) == pytest.approx(2 * np.pi * sd**2, rel=1e-4)
    assert float(size(x)) == pytest.approx((sd**-2 + WINDOW_SD**-2) ** -0.5, rel=1e-4)
    assert float(psnr(x + 0.01, x)) == pytest.approx(40.0, abs=1e-2)


def test_nineteen_draws_give_exact_intervals():
    ranks = np.arange(methods.NUM_DRAWS + 1)
    assert [coverage.inside(ranks, level).mean() for level in coverage.LEVELS] == [0.5, 0.9]
    with pytest.raises(ValueError, match="level=0.95"):
        coverage.inside(ranks, 0.95)


@pytest.mark.parametrize("sd, is_right", [(1.0, True), (0.7, False), (1.4, False)])
def test_ranks_are_uniform_for_draws_of_the_right_law_alone(sd, is_right):
    rng = np.random.default_rng(1)
    truth = rng.normal(size=1000)
    draws = sd * rng.normal(size=(1000, methods.NUM_DRAWS))
    bins = coverage.judge(draws, truth).bins
    # False alarms: one in 1,000, at this fixed seed none.
    assert (chisquare(bins).pvalue > 1e-3) == is_right


def test_lines_of_a_table_are_read_back():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(20, BOX, BOX))
    x = rng.normal(size=(20, methods.NUM_DRAWS, BOX, BOX))
    names = ("`AnnealedScoreMCMC`", "log density zero, NUTS")
    lines = [coverage.row(0.3, name, methods.Drawn(x, None, 1.0, 1.0), truth) for name in names]
    rows = coverage.rows_of("\n".join([coverage.HEAD, *lines, "", "Shares in per cent."]))
    assert rows == {("0.3", name): line for name, line in zip(names, lines, strict=True)}
    true_flux = np.asarray(flux(jnp.asarray(truth)))
    wanted = coverage.judge(np.asarray(flux(jnp.asarray(x))), true_flux).bins
    np.testing.assert_array_equal(coverage.bins_of(lines[0]), wanted)


def test_bounds_of_shares():
    low, high = coverage.allowed(0.9, 100)
    assert low < 0.9 < high and high - low < 0.12


def test_labels_follow_the_catalogue():
    catalogue = np.array([[10.0, 10.0], [10.0, 17.0]])
    places = np.stack([catalogue + 0.5, catalogue[::-1] - 0.5])
    order = blend.labels(places, catalogue)
    np.testing.assert_array_equal(order, [[0, 1], [1, 0]])
    np.testing.assert_allclose(np.abs(blend.relabelled(places, order) - catalogue), 0.5)


def test_the_published_prior_is_flat_with_a_score_for_a_gradient():
    prior, x = ZeroDensity(lambda x: -x), jnp.array([0.3, -2.0])
    value, gradient = jax.value_and_grad(prior.log_prob)(x)
    assert float(value) == 0.0
    np.testing.assert_allclose(gradient, -x)


@pytest.mark.slow
def test_in_one_dimension_the_prior_drops_out():
    found = {
        name: one_dimension.sample(kernel(), jax.random.key(0), 1.0, 2_000, fields)
        for name, (kernel, fields) in one_dimension.KERNELS.items()
    }
    for name, each in found.items():
        wanted = (1.5, 1.0) if "zero" in name else (0.75, 0.5**0.5)
        # Five Monte Carlo errors.
        assert abs(each.mean - wanted[0]) < 5 * each.mean_error + 1e-3, name
        assert each.sd == pytest.approx(wanted[1], rel=0.1), name
        assert each.r_hat < 1.02


def observed_log_density(model, values, *args):
    with handlers.seed(rng_seed=0), handlers.substitute(data=values):
        trace = handlers.trace(model).get_trace(*args)
    site = trace["y"]
    return float(jnp.sum(site["fn"].log_prob(site["value"])))


def test_pixels_of_infinite_noise_say_nothing():
    sky = blend.simulated_sky()
    sky = sky._replace(noise=sky.noise.at[:, :10].set(jnp.inf))
    corners = blend.corners(blend.PLACES)
    y = jnp.zeros(sky.noise.shape)

    def model(y):
        blend.blend(NORMAL, sky, y, corners=corners)

    values = {f"x{k}": point() for k in range(2)}
    same = observed_log_density(model, values, y.at[:, :10].set(100.0))
    assert same == pytest.approx(observed_log_density(model, values, y))
    assert observed_log_density(model, values, y.at[:, 10:].set(1.0)) < same - 100


def test_simulated_blends_show_what_the_model_says():
    truth = blend.simulate(NORMAL, jax.random.key(0), 2)
    assert truth.y.shape == (2, 3, *blend.SHAPE)
    assert truth.flux.shape == (2, 2, 3) and truth.place.shape == (2, 2, 2)
    # 2 scenes, 2 sources and 2 axes: within five standard deviations of the catalogue.
    assert np.all(np.abs(truth.place - np.asarray(blend.PLACES)) < 5 * blend.PLACE_SD)


def test_the_table_of_blends_puts_swapped_draws_right():
    rng, shape = np.random.default_rng(0), (30, methods.NUM_DRAWS + 1)
    place = np.asarray(blend.PLACES) + 0.7 * rng.normal(size=(*shape, 2, 2))
    flux = np.array([[5.0], [20.0]]) + rng.normal(size=(*shape, 2, 3))
    truth = blend.Truth(place[:, 0], flux[:, 0], jnp.zeros(()))
    place, flux = place[:, 1:].copy(), flux[:, 1:].copy()
    place[:, :5], flux[:, :5] = place[:, :5, ::-1], flux[:, :5, ::-1]
    values = {f"place{k}": place[:, :, k] for k in range(2)}
    values |= {f"flux{k}": flux[:, :, k] for k in range(2)}
    found = blend.table(Draws(values, 256.0, 1.0), truth)
    assert f"{30 * 5} of {30 * methods.NUM_DRAWS} draws" in found
    for line in found.splitlines():
        if "flux" in line:
            # Thirty scenes: the bias has a standard deviation of 0.19.
            assert abs(float(line.split("|")[4].split("±")[0])) < 1.0


@pytest.mark.slow
def test_draws_of_each_observation_are_its_own(capsys):
    x = draw_galaxies(NORMAL, jax.random.key(0), 3)
    scene = observe(x, 0.01, jax.random.key(1))
    # Two skies far apart, whose posteriors must be, too.
    y = scene.y[1:] + jnp.array([0.0, 0.3])[:, None, None, None]
    kernel = sp.AnnealedScoreMCMC(one_galaxy, num_levels=12, block_size=4)
    arguments = (NORMAL, *single_matrices(BOX), jnp.asarray(0.01))
    found = independent_draws(
        kernel, 4, arguments, scene.y[0], y, jax.random.key(2), "two skies", ("x", "flux")
    )
    assert found.values["x"].shape == (2, 4, BOX, BOX)
    # The warm-up is the third of them.
    assert "3/3" in capsys.readouterr().err
    assert found.evaluations == 24
    # A dozen levels do not get to the posteriors, and far enough to tell them apart.
    assert found.values["flux"][1].min() > found.values["flux"][0].max() + 5
    assert len(np.unique(found.values["flux"])) == 8


@pytest.mark.slow
def test_chains_of_the_published_prior_and_of_ours_run():
    x = draw_galaxies(NORMAL, jax.random.key(0), 3)
    scene = observe(x, 0.1, jax.random.key(1))
    problem = methods.Problem(NORMAL, Scene(x[1:], scene.y[1:]), scene.y[0], 0.1)
    starts, lengths = np.asarray(x[1:, None] + jnp.zeros((1, 2, 1, 1))), methods.Lengths(5, 20, 3)
    key = jax.random.key(3)
    chains = [
        methods.practised(
            problem, key, "test", starts, score=lambda x: -100.0 * x, lengths=lengths
        ),
        *[
            methods.local(problem, key, "test", starts, make=make, lengths=lengths)
            for make in methods.LOCAL.values()
        ],
    ]
    guided = methods.independent(problem, key, "test", make=methods.guided)
    assert guided.x.shape == chains[0].x.shape and guided.r_hat is None
    # Nothing of the first galaxy's draws is left in the second's.
    assert len(np.unique(guided.x.sum((2, 3)))) == 2 * methods.NUM_DRAWS
    for drawn in chains:
        assert drawn.x.shape == (2, methods.NUM_DRAWS, BOX, BOX)
        assert np.all(np.isfinite(drawn.x)) and drawn.r_hat is not None
        assert coverage.row(0.1, "name", drawn, np.asarray(x[1:])).count("|") == 15


def cutout_file(folder, **changes):
    rng = np.random.default_rng(0)
    pixels = np.arange(43) - 21
    psf = np.exp(-0.5 * (pixels[:, None] ** 2 + pixels**2) / 1.5**2)
    places = [(14, 33), (31, 36), (19, 47), (25, 15), (37, 51), (22, 23), (34, 5)]
    content = {
        "images": 0.02 * rng.normal(size=(2, 58, 48)),
        "variance": np.full((2, 58, 48), 0.02**2),
        "psfs": np.stack([psf / psf.sum()] * 2),
        "catalog": np.array(places, [("x", float), ("y", float)]),
        "filters": np.array(["g", "i"]),
    }
    file = folder / "cutout.npz"
    np.savez(file, **{name: changes.get(name, value) for name, value in content.items()})
    return file


def test_the_cutout_masks_the_bright_neighbours(tmp_path):
    seen = cutout.read(cutout_file(tmp_path))
    height, width = seen.y.shape[1:]
    is_used = np.isfinite(np.asarray(seen.sky.noise))
    assert seen.bands == ("g", "i") and is_used.shape == (2, height, width)
    # In rows and columns of the part that is fitted: a place near the star, and the two galaxies.
    assert not is_used[0, 28, 14 - cutout.COLUMNS.start]
    for row, column in np.asarray(seen.sky.places):
        assert is_used[0, round(float(row)), round(float(column))]


def test_a_file_that_is_not_the_cutout_is_named(tmp_path):
    file = tmp_path / "other.npz"
    np.savez(file, images=np.zeros(3))
    with pytest.raises(ValueError, match="lacks variance"):
        cutout.read(file)


def test_the_real_pair_has_all_its_sites(tmp_path):
    seen = cutout.read(cutout_file(tmp_path))
    corners = blend.corners([tuple(place) for place in np.asarray(seen.sky.places)])
    arguments = (NORMAL, seen.sky, seen.wings, seen.wing_sd, seen.y)
    with handlers.seed(rng_seed=0):
        trace = handlers.trace(cutout.real_pair).get_trace(*arguments, corners=corners)
    latents = {name for name, site in trace.items() if site["type"] == "sample" and name != "y"}
    assert latents == {"x0", "x1", "place0", "place1", "amplitude0", "amplitude1", "wing"}
    assert trace["seen"]["value"].shape == seen.y.shape


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(network, "installed", lambda: False)
    network.original.cache_clear()
    with pytest.raises(ValueError, match=r"\[galaxies\]"):
        network.original()


def test_the_real_pair_is_left_out_without_its_file(tmp_path, capsys):
    run.main(tmp_path, None, ("real",))
    assert "--data" in capsys.readouterr().out and not list(tmp_path.iterdir())


@needs_network
def test_the_network_is_the_packages_own():
    u = 4.0 * jax.random.normal(jax.random.key(0), (3, BOX, BOX))
    times = jnp.array([network.MIN_TIME, 0.1, 1.0])
    module, model = network.original(), network.load()
    wanted = jax.jit(jax.vmap(lambda v, t: module(v[None], 10.0 * t)[0]))(u, times)
    found = jax.jit(jax.vmap(model.score))(u, times)
    # Scores reach 50 here; a wrong kernel, time or order of pixels is off by more than one.
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@needs_network
def test_the_gradient_in_pixels_lacks_the_jacobians_own():
    x = 0.2 + 0.1 * jax.random.uniform(jax.random.key(0), (BOX, BOX))
    prior = sp.ScorePrior(network.load(), transform=network.to_flux())
    alpha = float(network.load().noise(network.MIN_TIME)[0])
    # The site's law is that of x_t / alpha_t, and the package's that of x_t.
    u = alpha * network.to_flux().inv(x)
    partial_score = alpha * network.load().score(u, network.MIN_TIME) * 10.0 / (1.0 + x)
    np.testing.assert_allclose(prior.score(x) - partial_score, -1.0 / (1.0 + x), atol=2e-3)
    wanted = network.load().score(u / alpha, network.MIN_TIME) * 10.0 / (1.0 + x)
    np.testing.assert_allclose(network.score_in_flux(x), wanted, rtol=1e-4, atol=1e-3)


@pytest.fixture
def scarlet_scene():
    """A scene of one image under a standard normal prior, seen with noise of 0.5."""
    scarlet2 = pytest.importorskip("scarlet2")
    x = jax.random.normal(jax.random.key(0), (BOX, BOX))
    frame = scarlet2.Frame(scarlet2.Box((1, BOX, BOX)), channels=["i"])
    with scarlet2.Scene(frame) as scene:
        scarlet2.Source(jnp.array([16.0, 16.0]), jnp.ones(1), x)
    y = x + 0.5 * jax.random.normal(jax.random.key(1), x.shape)
    seen = scarlet2.Observation(y[None], weights=jnp.full((1, BOX, BOX), 4.0), channels=["i"])
    seen.match(frame)
    with scarlet2.Parameters(scene):
        scarlet2.Parameter(scene.sources[0].morphology, name="image", prior=sp.ScorePrior(NORMAL))

    def model():
        sites = scene.parameters.items()
        values = {name: numpyro.sample(name, parameter.prior) for name, (_, parameter) in sites}
        numpyro.factor("observed", seen.log_likelihood(scene.set(values)()))

    return scene, seen, model, x, y


def test_a_scene_of_scarlet2_is_sampled_after_two_lines_are_changed(scarlet_scene):
    _, _, model, x, y = scarlet_scene
    step = jnp.zeros((BOX, BOX)).at[3, 4].set(1.0)
    weight = sp.log_weight(model)
    change = float(weight({"image": x + step}) - weight({"image": x}))
    wanted = 2.0 * float(jnp.sum((x - y) ** 2) - jnp.sum((x + step - y) ** 2))
    assert change == pytest.approx(wanted, abs=2e-2)
    mcmc = MCMC(
        sp.AnnealedScoreMCMC(model, num_levels=32), num_warmup=8, num_samples=8, progress_bar=False
    )
    mcmc.run(jax.random.key(2))
    draws = np.asarray(mcmc.get_samples()["image"])
    # The posterior of each pixel is N(0.8 y, 0.2). Of 8 x 1024 squares the mean has a standard
    # error of 1.6 %; ladders of 32 levels, which end at noise, are given 10 %.
    assert np.mean((draws - 0.8 * np.asarray(y)) ** 2) == pytest.approx(0.2, rel=0.1)


def test_scarlet2_counts_the_likelihood_of_an_image_once_a_row(scarlet_scene):
    from scarlet2.infer import _ObsDistribution

    scene, seen, _, x, _ = scarlet_scene

    def as_packaged():
        numpyro.sample("seen", _ObsDistribution(seen, scene.set({"image": x})()), obs=seen.data)

    found = log_density(as_packaged, (), {}, {})[0]
    once = seen.log_likelihood(scene.set({"image": x})())
    assert float(found) == pytest.approx(BOX * float(once), rel=1e-4)
