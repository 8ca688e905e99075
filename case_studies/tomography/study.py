"""The methods side by side on the same sinograms, one digit after another."""

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import Array
from tqdm import tqdm

import scoreppl as sp
from case_studies.tomography.annealing import Drawn, warmed_up
from case_studies.tomography.metrics import NUM_DRAWS, psnr
from case_studies.tomography.scenes import Scene, pixel_noise

if TYPE_CHECKING:
    from case_studies.tomography.peers import Peer

OURS = "`AnnealedScoreMCMC`"
# Draws of each posterior, by method.
Found = dict[str, list[Drawn]]


def has_peers() -> bool:
    """Return whether deepinv is installed."""
    return find_spec("deepinv") is not None


def compare(
    prior: sp.ScoreNetwork, transform: np.ndarray, scene: Scene, pilot: np.ndarray,
    peers: "dict[str, Peer]", key: Array, title: str, num_compared: int,
    num_draws: int = NUM_DRAWS, num_levels: int = 128,
) -> Found:  # fmt: skip
    """Draw from the posterior of each digit by every method in turn.

    Parameters
    ----------
    prior
        The network of all methods.
    transform
        Matrix of the Radon transform.
    scene
        Digits and their sinograms; only the peers see its noise scales.
    pilot
        Line integrals of a digit apart, for the warm-up of our kernel.
    peers
        Methods of deepinv, by name; may be empty.
    key
        PRNG key.
    title
        Of the progress bar.
    num_compared
        Digits, the first ones, for the peers.
    num_draws
        Of each posterior and method.
    num_levels
        Of our kernel.
    """
    ours = warmed_up(prior, transform, pilot, key, num_draws, num_levels)
    theirs: dict[str, Callable[[np.ndarray, float, int], Drawn]] = {}
    if peers:
        run = peer_runner(prior, transform, num_draws)
        theirs = {name: partial(run, peer) for name, peer in peers.items()}
    for draw in theirs.values():  # compiles
        draw(pilot, 1.0, 0)
    found: Found = {name: [] for name in (OURS, *peers)}
    digits = list(zip(scene.y, scene.noise_scales, strict=True))
    for index, (y, noise_scale) in enumerate(tqdm(digits, desc=title)):
        found[OURS].append(ours(y))
        for name, draw in theirs.items() if index < num_compared else ():
            found[name].append(draw(y, float(noise_scale), index + 1))
    return found


def peer_runner(
    prior: sp.ScoreNetwork, transform: np.ndarray, num_draws: int
) -> "Callable[[Peer, np.ndarray, float, int], Drawn]":
    """Return a function of a peer, line integrals, their noise scale and a seed."""
    from case_studies.tomography.denoiser import Denoiser
    from case_studies.tomography.peers import seen

    denoiser = Denoiser(prior)

    def run(peer: "Peer", y: np.ndarray, noise_scale: float, seed: int) -> Drawn:
        start, before = time.perf_counter(), denoiser.evaluations
        images = peer.draw(denoiser, seen(transform, y, noise_scale), num_draws, seed)
        seconds = time.perf_counter() - start
        return Drawn(images, None, denoiser.evaluations - before, seconds)

    return run


def tune(
    prior: sp.ScoreNetwork, transform: np.ndarray, pilots: Scene, candidates: "list[Peer]",
    num_draws: int,
) -> list[float]:  # fmt: skip
    """Return the mean PSNR, in decibels, of each candidate's mean of draws on the pilot digits."""
    run, values = peer_runner(prior, transform, num_draws), []
    for peer in tqdm(candidates, desc="tuning the peers"):
        decibels = [
            psnr(run(peer, y, float(scale), index + 1).images.mean(0), image)
            for index, (image, scale, y) in enumerate(zip(*pilots, strict=True))
        ]
        values.append(float(np.mean(decibels)))
    return values


def at_pixel_noise(prior: sp.ScoreNetwork, found: Found, key: Array) -> dict[str, np.ndarray]:
    """Return images by method, shape ``(digits, draws, size, size)``, all with the least noise.

    Our kernel's draws and the truths have it; the peers' draws end without and are given it.
    """
    images = {name: np.stack([drawn.images for drawn in each]) for name, each in found.items()}
    for index, name in enumerate(images):
        if name != OURS:
            normal = jax.random.normal(jax.random.fold_in(key, index), images[name].shape)
            images[name] = images[name] + pixel_noise(prior) * np.asarray(normal)
    return images
