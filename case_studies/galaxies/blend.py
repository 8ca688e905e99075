"""Two galaxies that overlap, in three bands: their fluxes, band by band, against the truth."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.galaxies.coverage import judge
from case_studies.galaxies.draws import Draws, independent_draws
from case_studies.galaxies.methods import NUM_DRAWS
from case_studies.galaxies.model import Corners, Sky, blend
from case_studies.galaxies.scenes import CENTRE, draw_galaxies, flux, gaussian_psf, see, smear

BANDS = ("g", "r", "i")
PSF_SDS, NOISE = (1.9, 1.5, 1.6), 0.1
SHAPE = (36, 40)
# Seven pixels apart: half of most galaxies' width.
PLACES = ((17.5, 16.0), (17.5, 23.0))
PLACE_SD, AMPLITUDE_SD = 0.7, 0.5
AMPLITUDES = ((0.6, 1.0, 1.4), (1.2, 1.0, 0.8))


def simulated_sky() -> Sky:
    """Return what is known of the simulated scenes."""
    return Sky(
        gaussian_psf(PSF_SDS),
        jnp.full((len(BANDS), *SHAPE), NOISE),
        jnp.asarray(PLACES),
        jnp.asarray(PLACE_SD),
        jnp.asarray(AMPLITUDES),
        jnp.asarray(AMPLITUDE_SD),
    )


def corners(places: Sequence[Sequence[float]]) -> Corners:
    """Return where the boxes of galaxies at `places` begin, to the nearest pixel."""
    return tuple((round(row - CENTRE), round(column - CENTRE)) for row, column in places)


class Truth(NamedTuple):
    """Of simulated blends; the leading axis counts scenes, the second sources.

    Attributes
    ----------
    place
        Shape ``(scenes, sources, 2)``.
    flux
        By band, shape ``(scenes, sources, bands)``.
    y
        Observations, shape ``(scenes, bands, height, width)``.
    """

    place: np.ndarray
    flux: np.ndarray
    y: Array


def simulate(prior: sp.ScoreModel, key: Array, count: int) -> Truth:
    """Draw blends from the model."""
    sky = simulated_sky()
    key_x, key_place, key_amplitude, key_noise = jax.random.split(key, 4)
    num_sources = len(PLACES)
    x = draw_galaxies(prior, key_x, count * num_sources)
    x = x.reshape(count, num_sources, *x.shape[1:])
    shift = PLACE_SD * jax.random.normal(key_place, (count, num_sources, 2))
    log_size = jax.random.normal(key_amplitude, (count, num_sources, len(BANDS)))
    amplitude = sky.amplitude * jnp.exp(AMPLITUDE_SD * log_size)
    place = sky.places + shift

    @jax.jit
    @jax.vmap
    def clean(x: Array, place: Array, amplitude: Array) -> Array:
        seen = jnp.zeros(sky.noise.shape)
        for k, (row, column) in enumerate(corners(PLACES)):
            box = x.shape[-1]
            rows = smear(sky.psf.rows, place[k, 0] - CENTRE - row, row, SHAPE[0], box)
            columns = smear(sky.psf.columns, place[k, 1] - CENTRE - column, column, SHAPE[1], box)
            seen += amplitude[k, :, None, None] * see(x[k], rows, columns)
        return seen

    seen = clean(x, place, amplitude)
    y = seen + NOISE * jax.random.normal(key_noise, seen.shape)
    return Truth(np.asarray(place), np.asarray(amplitude * flux(x)[..., None]), y)


def annealed(model: Callable[..., None]) -> sp.AnnealedScoreMCMC:
    """Return the default kernel with more moves of the ordinary latents.

    Brightness may be an amplitude's or an image's, and galaxies share light: in a trial on the real
    pair, of 64 levels, squared residuals were 1.2 to 1.5 of the noise's variance with the default
    four moves a level, and 1.0 to 1.1 with sixteen.
    """
    return sp.AnnealedScoreMCMC(model, num_weight_steps=16, block_size=NUM_DRAWS)


def sample(prior: sp.ScoreModel, key: Array, pilot: Array, y: Array, title: str) -> Draws:
    """Draw from the posteriors of simulated blends."""
    kernel = annealed(partial(blend, corners=corners(PLACES)))
    sites = [f"{name}{k}" for k in range(len(PLACES)) for name in ("place", "flux")]
    arguments = (prior, simulated_sky())
    return independent_draws(kernel, NUM_DRAWS, arguments, pilot, y, key, title, sites)


def labels(places: np.ndarray, catalogue: np.ndarray) -> np.ndarray:
    """Return which of a draw's sources is which of the catalogue's.

    The order with the least sum of squared distances. A model whose sources have one prior does
    not know which is which; with a prior by source a draw may still have swapped them.

    Parameters
    ----------
    places
        Shape ``(..., sources, 2)``.
    catalogue
        Shape ``(sources, 2)``.

    Returns
    -------
    numpy.ndarray
        Indices, shape ``(..., sources)``, for `numpy.take_along_axis`.
    """
    orders = np.array(list(permutations(range(len(catalogue)))))
    distance = np.sum((places[..., orders, :] - catalogue) ** 2, (-1, -2))
    return orders[np.argmin(distance, -1)]


def relabelled(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return values, shape ``(..., sources, n)``, in the order of `labels`."""
    return np.take_along_axis(values, order[..., None], -2)


def table(draws: Draws, truth: Truth) -> str:
    """Return bias and coverage of each galaxy's fluxes and positions."""
    catalogue = np.asarray(PLACES)
    place = np.stack([draws.values[f"place{k}"] for k in range(len(PLACES))], -2)
    found = np.stack([draws.values[f"flux{k}"] for k in range(len(PLACES))], -2)
    order, true_order = labels(place, catalogue), labels(truth.place, catalogue)
    swapped = int(np.sum(order[..., 0] != 0))
    quantities = {
        **{f"flux in {band}": (found[..., b], truth.flux[..., b]) for b, band in enumerate(BANDS)},
        "row": (place[..., 0], truth.place[..., 0]),
        "column": (place[..., 1], truth.place[..., 1]),
    }
    rows = [
        "| galaxy | quantity | mean truth | bias | rms z | 50 % | 90 % | ranks |",
        "|---" * 8 + "|",
    ]
    for k in range(len(PLACES)):
        for name, (values, true) in quantities.items():
            own = relabelled(values[..., None], order)[..., k, 0]
            of_truth = relabelled(true[..., None], true_order)[..., k, 0]
            judged = judge(own, of_truth)
            shares = " | ".join(f"{100 * share:.0f}" for share in judged.shares)
            rows.append(
                f"| {k + 1} | {name} | {of_truth.mean():.2f} | "
                f"{judged.bias:+.2f} ± {judged.bias_error:.2f} | {judged.z:.2f} | {shares} | "
                f"{' '.join(map(str, judged.bins))} |"
            )
    count = len(truth.flux)
    rows += [
        "",
        f"{count} scenes, {NUM_DRAWS} draws each; {swapped} of {order[..., 0].size} draws and "
        f"{int(np.sum(true_order[:, 0] != 0))} truths had their labels swapped. A draw took "
        f"{draws.evaluations:,.0f} evaluations of the network for each galaxy, a scene "
        f"{draws.seconds:.0f} s.",
    ]
    return "\n".join(rows)
