"""The models: one galaxy, and several that overlap, with positions and amplitudes of their own."""

from typing import NamedTuple

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

import scoreppl as sp
from case_studies.galaxies.network import to_flux
from case_studies.galaxies.scenes import CENTRE, Psf, flux, see, size, smear


def one_galaxy(
    prior: sp.ScoreModel, rows: Array, columns: Array, noise: Array, y: Array | None = None
) -> None:
    """State that `y`, shape ``(1, height, width)``, is a blurred galaxy with noise."""
    x = jnp.asarray(numpyro.sample("x", sp.ScorePrior(prior, transform=to_flux())))
    numpyro.deterministic("flux", flux(x))
    numpyro.deterministic("size", size(x))
    numpyro.sample("y", dist.Normal(see(x, rows, columns), noise).to_event(3), obs=y)


class Sky(NamedTuple):
    """What is known of a scene beforehand.

    Attributes
    ----------
    psf
        Point spread functions of the bands.
    noise
        Standard deviations, shape ``(bands, height, width)``; infinite in pixels that do not count.
    places
        Catalogue positions in rows and columns, shape ``(sources, 2)``.
    place_sd
        Their error in pixels.
    amplitude
        Median amplitude by band, shape ``(sources, bands)``.
    amplitude_sd
        Standard deviation of its logarithm.
    """

    psf: Psf
    noise: Array
    places: Array
    place_sd: Array
    amplitude: Array
    amplitude_sd: Array


Corners = tuple[tuple[int, int], ...]


def sources(prior: sp.ScoreModel, sky: Sky, corners: Corners, window: Array | float = 1.0) -> Array:
    """Sample galaxies with positions and amplitudes, and return what is seen of them.

    Each galaxy has one image in all bands. The network's peaks lie near one, so that an amplitude
    by band carries the flux.

    Parameters
    ----------
    prior
        Of each galaxy.
    sky
        As above.
    corners
        Rows and columns of the scene where the galaxies' boxes begin.
    window
        What of a pixel of the boxes is seen; default: all.
    """
    _, height, width = sky.noise.shape
    seen = jnp.zeros(sky.noise.shape)
    for k, (row, column) in enumerate(corners):
        x = jnp.asarray(numpyro.sample(f"x{k}", sp.ScorePrior(prior, transform=to_flux())))
        near = dist.Normal(sky.places[k], sky.place_sd).to_event(1)
        place = jnp.asarray(numpyro.sample(f"place{k}", near))
        law = dist.LogNormal(jnp.log(sky.amplitude[k]), sky.amplitude_sd).to_event(1)
        amplitude = jnp.asarray(numpyro.sample(f"amplitude{k}", law))
        box = x.shape[-1]
        rows = smear(sky.psf.rows, place[0] - CENTRE - row, row, height, box)
        columns = smear(sky.psf.columns, place[1] - CENTRE - column, column, width, box)
        numpyro.deterministic(f"flux{k}", amplitude * flux(x))
        image = see(window * x, rows, columns)
        numpyro.deterministic(f"image{k}", image)
        seen = seen + amplitude[:, None, None] * image
    return seen


def look(seen: Array, noise: Array, y: Array | None) -> None:
    """State the noise of a scene; pixels whose noise is infinite say nothing."""
    is_used = jnp.isfinite(noise)
    law = dist.Normal(seen, jnp.where(is_used, noise, 1.0)).mask(is_used)
    numpyro.sample("y", law.to_event(3), obs=y)


def blend(prior: sp.ScoreModel, sky: Sky, y: Array | None = None, *, corners: Corners = ()) -> None:
    """State that galaxies overlap in the bands of `y`, shape ``(bands, height, width)``."""
    look(sources(prior, sky, corners), sky.noise, y)
