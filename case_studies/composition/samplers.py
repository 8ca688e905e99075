"""The samplers compared. All come down the same hundred levels of noise, to the last one.

Step sizes, steps a level and the persistence of momentum are those that Sjöberg et al.
(arXiv:2307.14012) published for the plane. Nothing is done between levels. An evaluation is one
score of each of the composed models.
"""

# blackjax's states and infos are bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax import Array

import scoreppl as sp
from scoreppl.estimators.evidence import resample

NUM_LEVELS, STEPS_PER_LEVEL = 100, 10
LANGEVIN_STEP, HAMILTONIAN_STEP, LEAPFROG_STEPS, PERSISTENCE = 0.001, 0.03, 3, 0.5


class Drawn(NamedTuple):
    """Draws of several runs.

    Attributes
    ----------
    draws
        Shape ``(runs, draws, 2)``; a failed run has some that are no numbers.
    acceptance_rate
        By level, noisiest first, shape ``(levels,)``; None for methods that accept all.
    evaluations
        Score evaluations of each model for one draw; those of energies come on top.
    """

    draws: np.ndarray
    acceptance_rate: np.ndarray | None
    evaluations: int


class Unadjusted(NamedTuple):
    """State of a sampler that accepts every move.

    Attributes
    ----------
    position, score, momentum
        Each of shape ``(d,)``.
    """

    position: Array
    score: Array
    momentum: Array


class AlwaysAccepted(NamedTuple):
    """What a step of an unadjusted sampler says."""

    acceptance_rate: Array


Kernel = Callable[[sp.ScoreModel, Array, float], SamplingAlgorithm]


def _flat(x: Array) -> Array:
    return jnp.zeros(())


def _start(model: sp.ScoreModel, t: Array) -> Callable:
    def init(position: Array, rng_key: Array) -> Unadjusted:
        momentum = jax.random.normal(rng_key, position.shape)
        return Unadjusted(position, model.score(position, t), momentum)

    return init


def unadjusted_langevin(model: sp.ScoreModel, t: Array, stretch: float) -> SamplingAlgorithm:
    """U-LA: Langevin steps that are always accepted."""
    step_size = stretch**2 * LANGEVIN_STEP

    def step(key: Array, state: Unadjusted) -> tuple[Unadjusted, AlwaysAccepted]:
        noise = jax.random.normal(key, state.position.shape)
        x = state.position + step_size * state.score + jnp.sqrt(2 * step_size) * noise
        return state._replace(position=x, score=model.score(x, t)), AlwaysAccepted(jnp.ones(()))

    return SamplingAlgorithm(_start(model, t), step)


def unadjusted_hamiltonian(model: sp.ScoreModel, t: Array, stretch: float) -> SamplingAlgorithm:
    """U-HMC: leapfrog with persistent momentum, always accepted."""
    step_size = stretch * HAMILTONIAN_STEP

    def leap(state: Unadjusted, _: None) -> tuple[Unadjusted, None]:
        momentum = state.momentum + 0.5 * step_size * state.score
        x = state.position + step_size * momentum
        score = model.score(x, t)
        return Unadjusted(x, score, momentum + 0.5 * step_size * score), None

    def step(key: Array, state: Unadjusted) -> tuple[Unadjusted, AlwaysAccepted]:
        fresh = jax.random.normal(key, state.momentum.shape)
        momentum = PERSISTENCE * state.momentum + (1 - PERSISTENCE**2) ** 0.5 * fresh
        end, _ = jax.lax.scan(leap, state._replace(momentum=momentum), None, LEAPFROG_STEPS)
        return end, AlwaysAccepted(jnp.ones(()))

    return SamplingAlgorithm(_start(model, t), step)


def langevin(model: sp.ScoreModel, t: Array, stretch: float) -> SamplingAlgorithm:
    """LA: Langevin, accepted by the line integral along the chord."""
    kernel = sp.mcmc.mala(lambda x: model.score(x, t), _flat, step_size=stretch**2 * LANGEVIN_STEP)
    return SamplingAlgorithm(lambda position, rng_key: kernel.init(position), kernel.step)


def hamiltonian(
    model: sp.ScoreModel, t: Array, stretch: float, *, by_density: bool = False
) -> SamplingAlgorithm:
    """HMC, accepted by the line integral along the leapfrog path, or by log densities."""
    return sp.mcmc.generalised_hmc(
        lambda x: model.score(x, t), _flat, step_size=stretch * HAMILTONIAN_STEP,
        num_integration_steps=LEAPFROG_STEPS, momentum_persistence=PERSISTENCE,
        log_density_fn=(lambda x: model.log_prob(x, t)) if by_density else None,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("kernel", "num_draws", "num_levels"))
def _anneal(
    keys: Array, model: sp.ScoreModel, kernel: Kernel, num_draws: int, num_levels: int, stretch: Any
) -> tuple[Array, Array]:
    times = jnp.linspace(1.0, 0.0, num_levels)

    def visit(x: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        key, t = inputs
        algorithm = kernel(model, t, stretch)
        key_start, key_steps = jax.random.split(key)

        def move(state: Any, key: Array) -> tuple[Any, Array]:
            state, info = algorithm.step(key, state)
            return state, info.acceptance_rate

        start = algorithm.init(x, key_start)
        state, rates = jax.lax.scan(move, start, jax.random.split(key_steps, STEPS_PER_LEVEL))
        return state.position, jnp.mean(rates)

    def draw(key: Array) -> tuple[Array, Array]:
        key_noise, key_levels = jax.random.split(key)
        x = jax.random.normal(key_noise, tuple(model.event_shape))
        return jax.lax.scan(visit, x, (jax.random.split(key_levels, num_levels), times))

    def one_run(key: Array) -> tuple[Array, Array]:
        x, rates = jax.vmap(draw)(jax.random.split(key, num_draws))
        return x / model.noise(0.0)[0], jnp.mean(rates, 0)

    return jax.lax.map(one_run, keys)


def annealed(
    keys: Array, model: sp.ScoreModel, num_draws: int, *, kernel: Kernel, cost: int,
    num_levels: int = NUM_LEVELS, stretch: float = 1.0,
) -> Drawn:  # fmt: skip
    """Take draws from noise through the levels by a kernel.

    Parameters
    ----------
    keys
        One a run.
    model
        The composition.
    num_draws
        Draws of a run.
    kernel
        The sampler at a level.
    cost
        Its evaluations a step; one more at the start of each level.
    num_levels
        Levels, at equal angles of the cosine schedule.
    stretch
        What the published lengths of the steps are multiplied by; the h of Langevin steps is
        multiplied by its square.
    """
    x, rates = _anneal(keys, model, kernel, num_draws, num_levels, stretch)
    always = kernel in (unadjusted_langevin, unadjusted_hamiltonian)
    evaluations = num_levels * (1 + STEPS_PER_LEVEL * cost)
    return Drawn(np.asarray(x), None if always else np.asarray(rates).mean(0), evaluations)


def reverse(
    keys: Array, model: sp.ScoreModel, num_draws: int, num_steps: int = NUM_LEVELS
) -> Drawn:
    """Draw by reverse diffusion with the composed score."""
    draws = [np.asarray(model.sample(key, (num_draws,), num_steps=num_steps)) for key in keys]
    return Drawn(np.stack(draws), None, num_steps)


def particles(
    keys: Array,
    model: sp.ScoreModel,
    num_draws: int,
    num_steps: int = NUM_LEVELS,
    particles_per_draw: int = 1,
) -> Drawn:
    """Draw by sequential Monte Carlo with the default corrector.

    Draws of a run with fewer than ten effective particles are NaN.
    """
    size = num_draws * particles_per_draw
    smc = sp.ScoreSMC(
        score_model=model, num_particles=size, num_steps=num_steps, num_runs=len(keys)
    )
    smc.run(keys[0])
    samples, log_weight = smc.get_weighted_samples()
    runs = jnp.reshape(samples["x"], (len(keys), size, 2))
    weights = jnp.asarray(log_weight.reshape(len(keys), size))
    draws = [_resampled(*run, num_draws) for run in zip(keys, runs, weights, strict=True)]
    # Exact Laplacians in the plane: two forward products, at two evaluations each.
    return Drawn(np.stack(draws), None, 4 * num_steps * particles_per_draw)


def _resampled(key: Array, x: Array, log_weight: Array, num_draws: int) -> np.ndarray:
    try:
        return np.asarray(resample(key, x, log_weight, num_draws))
    except ValueError:  # too few effective particles
        return np.full((num_draws, 2), np.nan)


Method = Callable[..., Drawn]
METHODS: dict[str, Method] = {
    "reverse diffusion": reverse,
    "U-LA": partial(annealed, kernel=unadjusted_langevin, cost=1),
    "LA": partial(annealed, kernel=langevin, cost=2),
    "U-HMC": partial(annealed, kernel=unadjusted_hamiltonian, cost=LEAPFROG_STEPS),
    "HMC": partial(annealed, kernel=hamiltonian, cost=2 * LEAPFROG_STEPS),
    "`ScoreSMC`": particles,
}
hamiltonian_by_density = partial(hamiltonian, by_density=True)
BY_DENSITY: dict[str, Method] = {
    "HMC, energy difference": partial(annealed, kernel=hamiltonian_by_density, cost=LEAPFROG_STEPS),
}
