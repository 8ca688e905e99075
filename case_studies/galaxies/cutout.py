"""A real pair of galaxies, from a cut-out of the Hyper Suprime-Cam survey in five bands.

The file is ``data/hsc_cosmos_35.npz`` of the repository pmelchior/scarlet (MIT licence): images,
variances, point spread functions, and positions of seven sources. Sources 3 and 5 are fitted. A
star (0) and a large galaxy (1) outshine source 5: their cores are masked, as is the faint source 6,
and what reaches beyond is fitted as falling brightness with an amplitude by band.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

import scoreppl as sp
from case_studies.galaxies.blend import annealed, corners
from case_studies.galaxies.draws import independent_draws
from case_studies.galaxies.methods import NUM_DRAWS
from case_studies.galaxies.model import Corners, Sky, look, sources
from case_studies.galaxies.network import SIZE
from case_studies.galaxies.scenes import CENTRE, measured_psf

# Rows and columns that are fitted.
ROWS, COLUMNS = slice(0, 31), slice(6, 41)
FITTED = (3, 5)
# Sources whose surroundings are masked, and how far, in pixels.
MASKED = {0: 12.0, 1: 14.0, 6: 5.5}
# The bright ones among them, whose light falls off beyond the mask over so many pixels.
BRIGHT, FALL = (0, 1), 4.0
PLACE_SD, AMPLITUDE_SD = 0.7, 0.4
# A galaxy's light counts up to so many pixels from its place: beyond, an image may take what
# belongs to its neighbours, and under the masks nothing would hold it back.
EXTENT = 8.0
# Fluxes are those within so many pixels: farther out masks leave the image to the prior.
APERTURE = 6.0


class Cutout(NamedTuple):
    """The fitted part of the file.

    Attributes
    ----------
    bands
        Names.
    y
        Images, shape ``(bands, height, width)``.
    sky
        What is known beforehand, for `sources`.
    wings
        Patterns of what else may shine: one everywhere, and one around each bright neighbour,
        shape ``(1 + len(BRIGHT), height, width)``.
    wing_sd
        Prior standard deviations of their amplitudes, shape ``(bands,)``.
    """

    bands: tuple[str, ...]
    y: Array
    sky: Sky
    wings: Array
    wing_sd: Array


def read(file: Path) -> Cutout:
    """Read the file and choose priors: amplitudes around the brightness at the catalogue's places.

    Raises
    ------
    ValueError
        If the file lacks one of the arrays.
    """
    with np.load(file) as data:
        needed = ("images", "variance", "psfs", "catalog", "filters")
        missing = [name for name in needed if name not in data]
        if missing:
            raise ValueError(
                f"`--data {file}` lacks {', '.join(missing)}; it should be hsc_cosmos_35.npz of "
                "pmelchior/scarlet."
            )
        images, variance = data["images"], data["variance"]
        psfs, bands = data["psfs"], tuple(map(str, data["filters"]))
        places = np.stack([data["catalog"]["y"], data["catalog"]["x"]], -1)
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    distance = np.hypot(rows - places[:, 0, None, None], columns - places[:, 1, None, None])
    is_masked = np.any([distance[k] < radius for k, radius in MASKED.items()], 0)
    noise = np.where(is_masked, np.inf, np.sqrt(variance))
    wings = [np.ones(rows.shape)]
    wings += [np.exp(-np.maximum(distance[k] - MASKED[k], 0.0) / FALL) for k in BRIGHT]
    part = (slice(None), ROWS, COLUMNS)
    # A galaxy's peak after convolution is a fraction of its own, hence twice what is seen there.
    seen = [images[:, distance[k] < 1.5].mean(-1) for k in FITTED]
    level = np.median(np.sqrt(variance), (1, 2))
    sky = Sky(
        measured_psf(psfs),
        jnp.asarray(noise[part], jnp.float32),
        jnp.asarray(places[list(FITTED)] - [ROWS.start, COLUMNS.start], jnp.float32),
        jnp.asarray(PLACE_SD),
        jnp.asarray(np.maximum(2.0 * np.stack(seen), level), jnp.float32),
        jnp.asarray(AMPLITUDE_SD),
    )
    return Cutout(
        bands,
        jnp.asarray(images[part], jnp.float32),
        sky,
        jnp.asarray(np.stack(wings)[part], jnp.float32),
        jnp.asarray(3.0 * level, jnp.float32),
    )


def distance_from_centre() -> Array:
    """Return the distance of each pixel of a galaxy's box from its middle."""
    pixels = jnp.arange(SIZE) - CENTRE
    return jnp.hypot(pixels[:, None], pixels)


def window() -> Array:
    """Return what of each pixel of a galaxy's box counts, falling from 1 to 0 at `EXTENT`."""
    return jax.nn.sigmoid(2.0 * (EXTENT - distance_from_centre()))


def real_pair(
    prior: sp.ScoreModel, sky: Sky, wings: Array, wing_sd: Array, y: Array | None = None,
    *, corners: Corners = (),
) -> None:  # fmt: skip
    """State that galaxies and their neighbours' wings make up the bands of `y`."""
    seen = sources(prior, sky, corners, window())
    amplitude = numpyro.sample(
        "wing", dist.Normal(0.0, wing_sd).expand([len(wings), len(wing_sd)]).to_event(2)
    )
    light = jnp.einsum("kb,khw->bhw", amplitude, wings)
    numpyro.deterministic("wings", light)
    numpyro.deterministic("seen", seen + light)
    look(seen + light, sky.noise, y)


class Fitted(NamedTuple):
    """Posterior draws.

    Attributes
    ----------
    values
        By site, shape ``(draws, *site)``.
    evaluations, seconds
        Of the network for each galaxy of a draw, and of wall time for all draws.
    """

    values: dict[str, np.ndarray]
    evaluations: float
    seconds: float


def fit(
    prior: sp.ScoreModel, cutout: Cutout, key: Array, title: str,
    kernel: Callable = annealed,
) -> Fitted:  # fmt: skip
    """Draw from the posterior of the real pair."""
    places = np.asarray(cutout.sky.places)
    model = partial(real_pair, corners=corners([tuple(place) for place in places]))
    sites = [f"{name}{k}" for k in range(len(FITTED)) for name in ("x", "place", "flux", "image")]
    sites += [f"amplitude{k}" for k in range(len(FITTED))]
    arguments = (prior, cutout.sky, cutout.wings, cutout.wing_sd)
    found = independent_draws(
        kernel(model), NUM_DRAWS, arguments, cutout.y, cutout.y[None], key,
        title, [*sites, "seen", "wings"],
    )  # fmt: skip
    values = {site: draws[0] for site, draws in found.values.items()}
    return Fitted(values, found.evaluations, found.seconds)


def residuals(cutout: Cutout, fitted: Fitted) -> np.ndarray:
    """Return data less the mean of what the draws show, in noise; NaN where it is masked."""
    noise = np.asarray(cutout.sky.noise)
    rest = (np.asarray(cutout.y) - fitted.values["seen"].mean(0)) / noise
    return np.where(np.isfinite(noise), rest, np.nan)


def aperture_flux(fitted: Fitted, k: int) -> np.ndarray:
    """Return the flux of galaxy `k` within `APERTURE` of its place, shape ``(draws, bands)``."""
    x = fitted.values[f"x{k}"]
    is_inside = np.asarray(distance_from_centre() <= APERTURE)
    return fitted.values[f"amplitude{k}"] * np.sum(x * is_inside, (1, 2))[:, None]


def table(cutout: Cutout, fitted: Fitted) -> str:
    """Return fluxes with errors and the residuals' mean square, band by band."""
    square = np.nanmean(residuals(cutout, fitted) ** 2, (1, 2))
    fluxes = [aperture_flux(fitted, k) for k in range(len(FITTED))]
    names = [f"flux of source {source}" for source in FITTED]
    rows = [f"| band | {' | '.join(names)} | chi2 per pixel |", "|---" * (2 + len(names)) + "|"]
    for b, band in enumerate(cutout.bands):
        cells = []
        for k in range(len(FITTED)):
            flux = fluxes[k][:, b]
            cells.append(f"{flux.mean():.2f} ± {flux.std(ddof=1):.2f}")
        rows.append(f"| {band} | {' | '.join(cells)} | {square[b]:.2f} |")
    used = int(np.isfinite(np.asarray(cutout.sky.noise))[0].sum())
    rows += [
        "",
        f"Fluxes within {APERTURE:g} pixels, in the file's units, mean and standard deviation of "
        f"{NUM_DRAWS} draws; {used} pixels a band. {fitted.evaluations:,.0f} evaluations of the "
        f"network for each galaxy of a draw, {fitted.seconds:.0f} s for all draws.",
    ]
    return "\n".join(rows)
