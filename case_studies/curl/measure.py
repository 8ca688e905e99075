r"""What is measured of one network: levels, points of them, and three diagnostics at each.

The levels are even in log-SNR, from the cleanest at which the network is to be used, where the
local kernels move, up to noise e^2 = 7.4 times the signal. Points are draws of the prior noised to
the level, :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from tqdm import tqdm

import scoreppl as sp
from scoreppl.diagnostics import LoopDefect, PathAgainstChord
from scoreppl.line_integral import Quadrature, gauss_legendre

CLEANEST, NOISIEST = 10.0, -4.0  # log-SNR
NUM_STEPS = 5
FEW = 100
"""Entries of an event below which there are few."""


class Sizes(NamedTuple):
    """How much is measured.

    Attributes
    ----------
    levels, points
        Noise levels, and points at each.
    loops, trajectories, probes
        From each point.
    prior_steps
        Evaluations of the denoiser that a draw of the prior takes.
    step_factors
        At the cleanest level also leapfrog steps of so much of that of 75 % acceptance; the
        Langevin step goes with the square.
    """

    levels: int = 6
    points: int = 32
    loops: int = 4
    trajectories: int = 2
    probes: int = 8
    prior_steps: int = 64
    step_factors: tuple[float, ...] = (0.5, 0.25)


USUAL = Sizes()
FULL = Sizes(levels=9, points=128, trajectories=4)


class Level(NamedTuple):
    """What was found at one noise level.

    Attributes
    ----------
    network
        Its name.
    noise
        Noise over signal, sigma / alpha: the noise's standard deviation in units of the data.
    denoiser_asymmetry
        Of the denoiser's Jacobian, as `loop.asymmetry` is of the score's.
    loop, path
        Triangles of one-step moves, and trajectories of five steps against their chords.
    """

    network: str
    noise: float
    denoiser_asymmetry: float
    loop: LoopDefect
    path: PathAgainstChord


class Step(NamedTuple):
    """What was found with one step size, at a network's cleanest level.

    Attributes
    ----------
    network, noise
        As in `Level`.
    factor
        The leapfrog step over that of 75 % acceptance.
    loop, path
        As in `Level`.
    """

    network: str
    noise: float
    factor: float
    loop: LoopDefect
    path: PathAgainstChord


def times(model: sp.ScoreModel, count: int) -> np.ndarray:
    """Return the times of `count` levels, the cleanest first."""
    low = float(np.asarray(model.min_time))
    cleanest = min(float(model.noise.log_snr(low)), CLEANEST)
    noisiest = max(float(model.noise.log_snr(1.0)), NOISIEST)
    found = np.asarray(model.noise.time(np.linspace(cleanest, noisiest, count)))
    return np.maximum(found, low)


def noised(model: sp.ScoreModel, key: Array, x: Array, t: float) -> Array:
    """Return events x, shape ``(n, *event_shape)``, with the noise of the time `t`."""
    alpha, sigma = model.noise(t)
    return alpha * x + sigma * jax.random.normal(key, x.shape)


def rule(model: sp.ScoreModel) -> Quadrature:
    """Return the quadrature; in few dimensions moves cross the whole law and need more nodes."""
    return gauss_legendre(16 if math.prod(model.event_shape) < FEW else 8)


def denoiser_asymmetry(
    model: sp.ScoreModel, points: Array, t: float, key: Array, num_probes: int
) -> float:
    """Return the asymmetry of the denoiser's Jacobian, the denoiser standing in for a score."""
    field = sp.LocalScore(_denoise, (model, t), event_shape=model.event_shape)
    # No more than one loop may be had, and it is not looked at.
    return sp.diagnostics.loop_defect(
        field, points, 0.0, key=key, step_size=1e-6, num_probes=num_probes, num_loops=1
    ).asymmetry


def _denoise(given: tuple[Any, Array], x: Array) -> Array:
    model, t = given
    return model.denoise(x, t)


def measure(
    name: str, model: sp.ScoreModel, key: Array, sizes: Sizes, report: Callable[[str], None]
) -> tuple[list[Level], list[Step]]:
    """Measure a network at all levels, and with smaller steps at the cleanest.

    Parameters
    ----------
    name
        For the tables.
    model
        A score model that draws from its prior.
    key
        PRNG key.
    sizes
        How much.
    report
        Is told of each level as it is done.
    """
    key_prior, key_levels = jax.random.split(key)
    x = model.sample(key_prior, (sizes.points,), num_steps=sizes.prior_steps)
    report(f"{name}: {sizes.points} draws of the prior")
    levels: list[Level] = []
    steps: list[Step] = []
    for index, t in enumerate(tqdm(times(model, sizes.levels).tolist(), desc=name)):
        keys = jax.random.split(jax.random.fold_in(key_levels, index), 4)
        points = noised(model, keys[0], x, t)
        alpha, sigma = map(float, model.noise(t))
        loop = sp.diagnostics.loop_defect(
            model, points, t, key=keys[1], num_loops=sizes.loops, num_probes=sizes.probes,
            quadrature=rule(model),
        )  # fmt: skip
        path = sp.diagnostics.path_against_chord(
            model, points, t, None, NUM_STEPS, key=keys[2],
            num_trajectories=sizes.trajectories, quadrature=rule(model),
        )  # fmt: skip
        asymmetry = denoiser_asymmetry(model, points, t, keys[3], sizes.probes)
        levels.append(Level(name, sigma / alpha, asymmetry, loop, path))
        report(f"{name}, level {index + 1} of {sizes.levels}, noise {sigma / alpha:.2g}: {loop}")
        if index == 0:
            steps = smaller_steps(model, points, t, levels[0], (keys[1], keys[2]), sizes)
            report(f"{name}, level 1: {len(steps)} steps")
    return levels, steps


def smaller_steps(
    model: sp.ScoreModel, points: Array, t: float, level: Level, keys: tuple, sizes: Sizes
) -> list[Step]:
    """Repeat the moves of a level with smaller steps, and with the same random numbers.

    The first of what is returned is the level itself.
    """
    found = [Step(level.network, level.noise, 1.0, level.loop, level.path)]
    for factor in sizes.step_factors:
        loop = sp.diagnostics.loop_defect(
            model, points, t, key=keys[0], num_loops=sizes.loops, num_probes=0,
            step_size=level.loop.step_size * factor**2, quadrature=rule(model),
        )  # fmt: skip
        path = sp.diagnostics.path_against_chord(
            model, points, t, level.path.step_size * factor, NUM_STEPS, key=keys[1],
            num_trajectories=sizes.trajectories, quadrature=rule(model),
        )  # fmt: skip
        found.append(Step(level.network, level.noise, factor, loop, path))
    return found
