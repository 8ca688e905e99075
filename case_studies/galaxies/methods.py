"""The samplers compared on simulated galaxies: each gives a few draws of every posterior.

All are judged by `NUM_DRAWS` draws a galaxy. Kernels of independent draws make exactly these, with
step sizes that were fitted on a galaxy apart. The others run chains from such draws, which are
better starts than anyone has, and are thinned.
"""

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer import NUTS, init_to_value
from tqdm import tqdm

import scoreppl as sp
from case_studies.galaxies import published
from case_studies.galaxies.draws import collector, independent_draws
from case_studies.galaxies.model import one_galaxy
from case_studies.galaxies.network import score_in_flux, to_flux
from case_studies.galaxies.scenes import Scene, flux, single_matrices

# Ranks of a truth among nineteen draws make intervals of exactly 50 and 90 per cent.
NUM_DRAWS = 19
NUM_CHAINS = 2
# scarlet2.infer.sample runs one chain, of this length.
PRACTISED_WARMUP, PRACTISED_SAMPLES = 100, 200


class Drawn(NamedTuple):
    """Draws of every galaxy's posterior.

    Attributes
    ----------
    x
        Shape ``(galaxies, NUM_DRAWS, size, size)``.
    r_hat
        Of the flux by galaxy, or None for independent draws.
    evaluations
        Of the network, a galaxy.
    seconds
        Of wall time, a galaxy, without the compilation.
    """

    x: np.ndarray
    r_hat: np.ndarray | None
    evaluations: float
    seconds: float


class Problem(NamedTuple):
    """What is sampled.

    Attributes
    ----------
    prior
        Score model of a galaxy, in the network's coordinates.
    scene
        Galaxies to be judged by.
    pilot
        The observation that warm-ups see, shape ``(1, size, size)``.
    noise
        Standard deviation of the noise.
    """

    prior: sp.ScoreModel
    scene: Scene
    pilot: Array
    noise: float


def independent(problem: Problem, key: Array, title: str, *, make: Callable) -> Drawn:
    """Draw from each posterior by a kernel of independent draws, warmed up once.

    Parameters
    ----------
    problem
        What to sample.
    key
        PRNG key.
    title
        Of the progress bar.
    make
        ``make(model)`` returns the kernel, whose blocks are `NUM_DRAWS` long: a resumed chain then
        begins with a block of its own.
    """
    arguments = (
        problem.prior,
        *single_matrices(problem.scene.x.shape[-1]),
        jnp.asarray(problem.noise),
    )
    found = independent_draws(
        make(one_galaxy), NUM_DRAWS, arguments, problem.pilot, problem.scene.y, key, title, ("x",)
    )
    return Drawn(found.values["x"], None, found.evaluations * NUM_DRAWS, found.seconds)


class Lengths(NamedTuple):
    """Of the chains, and of the stretches of the default kernel.

    Attributes
    ----------
    warmup, samples
        Draws of each chain; `samples` are thinned to `NUM_DRAWS` of all chains together.
    tree_depth
        Largest of NUTS.
    num_reverse_steps
        Network calls for one cleaner image of `AnnealedScoreMCMC`. Two are its own default, and
        intervals of the size are too narrow with them.
    """

    warmup: int = 50
    samples: int = 100
    tree_depth: int = 5
    num_reverse_steps: int = 4


def local(
    problem: Problem, key: Array, title: str, starts: np.ndarray, *, make: Callable,
    lengths: Lengths,
) -> Drawn:  # fmt: skip
    """Run chains of a local kernel of this package, in the network's coordinates."""
    matrices = single_matrices(problem.scene.x.shape[-1])
    arguments = (problem.prior, *matrices, jnp.asarray(problem.noise))
    to_start = to_flux().inv
    return _chains(
        make(one_galaxy, lengths.tree_depth), key, title, problem.scene.y, arguments,
        np.asarray(to_start(jnp.asarray(starts[:, :NUM_CHAINS]))), lengths, "num_score_evaluations",
    )  # fmt: skip


def practised(
    problem: Problem, key: Array, title: str, starts: np.ndarray, *,
    score: Callable[[Array], Array] = score_in_flux, lengths: Lengths,
) -> Drawn:  # fmt: skip
    """Run one chain of NUTS with log density zero for the prior, in pixels."""
    shape = problem.scene.x.shape[1:]
    model = partial(published.one_galaxy, score=score, shape=shape)
    kernel = NUTS(
        model, max_tree_depth=lengths.tree_depth,
        init_strategy=init_to_value(values={"x": jnp.zeros(shape)}),
    )  # fmt: skip
    arguments = (*single_matrices(shape[-1]), jnp.asarray(problem.noise))
    lengths = lengths._replace(warmup=PRACTISED_WARMUP, samples=PRACTISED_SAMPLES)
    return _chains(
        kernel, key, title, problem.scene.y, arguments, starts[:, :1], lengths, "num_steps"
    )


def _chains(
    kernel: Any, key: Array, title: str, observations: Array, arguments: tuple,
    starts: np.ndarray, lengths: Lengths, cost: str,
) -> Drawn:  # fmt: skip
    num_chains = starts.shape[1]
    every = np.linspace(0, num_chains * lengths.samples - 1, NUM_DRAWS).round().astype(int)
    warm_up = collector(kernel, lengths.warmup, (), cost)
    collect = collector(kernel, lengths.samples, ("x",), cost)
    found, r_hats, costs, start = [], [], [], time.perf_counter()
    for index, y in enumerate(tqdm(observations, desc=title)):
        if index == 1:  # the first one compiles
            start = time.perf_counter()
        keys = jax.random.split(jax.random.fold_in(key, index), num_chains)
        with warnings.catch_warnings():
            # ScoreNUTS warns of networks, and the table says what comes of it.
            warnings.filterwarnings("ignore", message=".*curl.*")
            at = {"x": jnp.asarray(starts[index])}
            state = kernel.init(keys, lengths.warmup, at, (*arguments, y), {})
        state, (_, spent) = warm_up(state, (*arguments, y))
        _, (values, cost_of_draws) = collect(state, (*arguments, y))
        x = np.asarray(values["x"]).swapaxes(0, 1)
        found.append(x.reshape(-1, *x.shape[2:])[every])
        # Of one chain: that of its halves.
        r_hats.append(float(az.rhat(np.asarray(flux(x), float).reshape(NUM_CHAINS, -1))))
        costs.append(int(np.sum(spent)) + int(np.sum(cost_of_draws)))
    seconds = (time.perf_counter() - start) / max(len(found) - 1, 1)
    return Drawn(np.stack(found), np.array(r_hats), float(np.mean(costs)), seconds)


def annealed(
    model: Callable, num_reverse_steps: int = Lengths().num_reverse_steps
) -> sp.AnnealedScoreMCMC:
    """Return the kernel that is recommended on networks."""
    return sp.AnnealedScoreMCMC(model, num_reverse_steps=num_reverse_steps, block_size=NUM_DRAWS)


def guided(model: Callable) -> sp.GuidedDiffusion:
    """Return guided paths as they come: in a thousand dimensions few would be accepted."""
    return sp.GuidedDiffusion(
        model, guidance=sp.guidance.LineSearch(), accept=None, num_pilots=64, block_size=NUM_DRAWS
    )


ANNEALED, PRACTISED = "`AnnealedScoreMCMC`", "log density zero, NUTS"
INDEPENDENT: dict[str, Callable] = {
    ANNEALED: annealed,
    "`GuidedDiffusion`, unweighted": guided,
}
LOCAL: dict[str, Callable] = {
    "`ScoreMALA`": lambda model, tree_depth: sp.ScoreMALA(model),
    "`ScoreNUTS`": lambda model, tree_depth: sp.ScoreNUTS(model, max_tree_depth=tree_depth),
}
