"""Pictures: what they show, on which scales, and that pyplot knows nothing of them."""

import io
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from scoreppl import plots

ROOT = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 6, 5, 4))
LEVELS = np.array([5.0, 0.5, 0.05])


def drawn(figure):
    """Draw the figure; return its axes that hold an image, by title."""
    figure.savefig(io.BytesIO())
    return [axes for axes in figure.get_axes() if axes.get_images()]


def pixels(axes):
    return axes.get_images()[0].get_array()


def stats(rates, dims=("chain", "draw", "noise_level")):
    data = xr.Dataset({"acceptance_rate_level": (dims, rates)})
    return {
        "sample_stats": data.assign_coords(noise_level=LEVELS) if "noise_level" in dims else data
    }


@pytest.fixture(autouse=True)
def pyplot_is_left_alone():
    yield
    assert plt.get_fignums() == []


# Draws.


def test_draws_shows_every_image_on_one_scale():
    figure = plots.draws(IMAGES, num_columns=5)
    shown = drawn(figure)
    assert isinstance(figure, Figure) and len(shown) == 12
    for axes, image in zip(shown, IMAGES.reshape(-1, 5, 4), strict=True):
        np.testing.assert_array_equal(pixels(axes), image)
    assert len({axes.get_images()[0].get_clim() for axes in shown}) == 1
    assert any(axes.get_ylabel() == "pixel value" for axes in figure.get_axes())


def test_draws_takes_limits_titles_and_a_label():
    figure = plots.draws(IMAGES[0, :2], titles=["one", "two"], limits=(-1, 1), label="counts")
    shown = drawn(figure)
    assert [axes.get_title() for axes in shown] == ["one", "two"]
    assert shown[0].get_images()[0].get_clim() == (-1, 1)
    assert any(axes.get_ylabel() == "counts" for axes in figure.get_axes())


def test_one_image_and_a_flat_one():
    assert len(drawn(plots.draws(IMAGES[0, 0]))) == 1
    (axes,) = drawn(plots.draws(np.zeros((3, 3))))
    low, high = axes.get_images()[0].get_clim()
    assert low < 0 < high


def test_colour_images_are_clipped_and_have_no_colour_bar():
    figure = plots.draws(RNG.uniform(-0.5, 1.5, (4, 6, 6, 3)))
    shown = drawn(figure)
    assert len(figure.get_axes()) == len(shown) == 4
    assert pixels(shown[0]).min() >= 0 and pixels(shown[0]).max() <= 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"images": np.zeros(3)}, "`images` has shape"),
        ({"images": np.zeros((0, 3, 3))}, "`images` has shape"),
        ({"images": IMAGES, "num_columns": 0}, "`num_columns=0`"),
        ({"images": IMAGES, "titles": ["one"]}, "1 entries for 12 images"),
    ],
)
def test_bad_draws(settings, message):
    with pytest.raises(ValueError, match=message):
        plots.draws(**settings)


# Posterior images.


def test_posterior_images_shows_truth_observation_moments_and_draws():
    truth, observation = IMAGES[0, 0], IMAGES[0, 1].copy()
    observation[3:] = np.nan
    figure = plots.posterior_images(IMAGES, truth=truth, observation=observation, num_draws=3)
    panels = {axes.get_title(): axes for axes in drawn(figure)[:4]}
    assert list(panels) == [
        "truth",
        "observation\n(blue: not observed)",
        "posterior mean",
        "posterior sd",
    ]
    flat = IMAGES.reshape(-1, 5, 4)
    np.testing.assert_array_equal(pixels(panels["truth"]), truth)
    np.testing.assert_allclose(pixels(panels["posterior mean"]), flat.mean(0))
    np.testing.assert_allclose(pixels(panels["posterior sd"]), flat.std(0))
    hidden = pixels(panels["observation\n(blue: not observed)"])
    assert np.ma.getmaskarray(hidden)[3:].all() and not np.ma.getmaskarray(hidden)[:3].any()
    draws = drawn(figure)[4:]
    for axes, index in zip(draws, (0, 6, 11), strict=True):
        np.testing.assert_array_equal(pixels(axes), flat[index])
    # One scale but for the standard deviation, which starts at 0.
    scales = {
        axes.get_images()[0].get_clim() for title, axes in panels.items() if "sd" not in title
    }
    assert scales == {draws[0].get_images()[0].get_clim()}
    assert panels["posterior sd"].get_images()[0].get_clim()[0] == 0.0
    labels = {axes.get_ylabel() for axes in figure.get_axes()}
    assert {"pixel value", "sd of pixel value"} <= labels


def test_only_samples():
    figure = plots.posterior_images(IMAGES[0], num_draws=20)
    titles = [axes.get_title() for axes in drawn(figure)]
    assert titles[:2] == ["posterior mean", "posterior sd"] and len(titles) == 2 + 6


def test_an_observation_of_another_size():
    figure = plots.posterior_images(IMAGES, observation=np.zeros((2, 7)), num_draws=1)
    assert drawn(figure)[0].get_title() == "observation"


def test_colour_posterior():
    images = RNG.uniform(size=(9, 4, 4, 3))
    figure = plots.posterior_images(images, truth=images[0], num_draws=9)
    assert pixels(drawn(figure)[2]).shape == (4, 4)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"samples": np.zeros(4)}, "`samples` has shape"),
        ({"samples": IMAGES, "truth": IMAGES}, "`truth` has shape"),
        ({"samples": IMAGES, "observation": np.zeros(9)}, "`observation` has shape"),
        ({"samples": IMAGES, "num_draws": 0}, "`num_draws=0`"),
    ],
)
def test_bad_posterior_images(settings, message):
    with pytest.raises(ValueError, match=message):
        plots.posterior_images(**settings)


# Acceptance by level.


def test_acceptance_by_level_shows_means_and_spread():
    rates = RNG.uniform(size=(2, 10, 3))
    figure = plots.acceptance_by_level(stats(rates))
    figure.savefig(io.BytesIO())
    (axes,) = figure.get_axes()
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_xdata(), LEVELS)
    np.testing.assert_allclose(line.get_ydata(), rates.mean((0, 1)))
    corners = axes.collections[0].get_paths()[0].vertices
    low, high = np.quantile(rates.reshape(-1, 3), [0.1, 0.9], axis=0)
    assert corners[:, 1].min() == pytest.approx(low.min())
    assert corners[:, 1].max() == pytest.approx(high.max())
    left, right = axes.get_xlim()
    assert left > right and axes.get_xscale() == "log"
    assert "noise standard deviation" in axes.get_xlabel() and "rate" in axes.get_ylabel()


def test_acceptance_goes_where_it_is_asked_to():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.acceptance_by_level(stats(np.full((1, 4, 3), 0.5)), axes=right) is figure
    assert right.get_lines() and not left.get_lines()


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"sample_stats": xr.Dataset()},
        # As ArviZ itself names it: the levels are not known.
        stats(np.ones((1, 4, 3)), ("chain", "draw", "acceptance_rate_level_dim_0")),
    ],
)
def test_a_run_without_levels(run):
    with pytest.raises(ValueError, match="AnnealedScoreMCMC"):
        plots.acceptance_by_level(run)


def test_importing_the_package_imports_no_matplotlib():
    script = "import sys, scoreppl.plots\nprint('matplotlib' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "False"
