"""The runs of ScoreSMC as pure functions of a bound target."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoreppl.compose import Composition, lead
from scoreppl.compose.members import all_picks, choose, num_members
from scoreppl.guidance import FullCovariance, Guidance, LineSearch
from scoreppl.guidance.covariance import FULL_COVARIANCE_LIMIT
from scoreppl.ppl.blocks import OrdinaryPrior
from scoreppl.samplers import proposal
from scoreppl.samplers.control import Corrector
from scoreppl.samplers.correctors import ANY_LEVEL, corrected
from scoreppl.samplers.guided import Particles, guide
from scoreppl.samplers.reference import data_scale, draw_prior, fit_ladder, measure_reference
from scoreppl.samplers.smc import Moves, Resampling, respaced
from scoreppl.target import Position, Target

# Up to this size Laplacians are exact unless asked otherwise.
_EXACT_LAPLACIAN_LIMIT = 10
_NUM_PILOT_STEPS = 100


def shared_out(num_particles: int, num_choices: int, moves: Moves | None) -> int:
    """Particles of each choice: at least two, and whole chains if these are kept whole."""
    chain = moves.num_steps + 1 if moves is not None and moves.waste_free else 1
    return max(num_particles // num_choices // chain * chain, chain, 2)


class Settings(NamedTuple):
    """How to run; as the arguments of `ScoreSMC`."""

    num_particles: int
    num_steps: int
    guidance: Guidance | None
    corrector: Corrector | None
    num_probes: int | None
    resampling: Resampling | None
    moves: Moves | None
    num_pilots: int
    num_level_pilots: int
    max_shift: float
    num_latent_steps: int

    def guidance_for(self, size: int) -> Guidance:
        """Return the guidance for events of `size` numbers."""
        if self.guidance is not None:
            return self.guidance
        return FullCovariance() if size <= FULL_COVARIANCE_LIMIT else LineSearch()

    def probes_for(self, size: int) -> int | None:
        """Return the number of probes; None for exact Laplacians."""
        if self.num_probes is None:
            return None if size <= _EXACT_LAPLACIAN_LIMIT else 1
        return self.num_probes if self.num_probes < size else None


def event_size(target: Target, ordinary: OrdinaryPrior) -> int:
    """Count the numbers of all score sites."""
    shapes = jax.eval_shape(ordinary.draw, jax.random.key(0))
    return sum(int(np.prod(shapes[name].shape)) for name in target.score_models)


def led(target: Target) -> Target:
    """Put the leading processes in the places of compositions."""
    return target.with_models(lead(dict(target.score_models)))


def run_guided(
    key: Array, target: Target, ordinary: OrdinaryPrior, settings: Settings
) -> Particles:
    """Run guided paths once."""
    key_fit, key_noise, key_pilots, key_run = jax.random.split(key, 4)
    size = event_size(target, ordinary)
    clean = pilots(key_fit, ordinary.draw(key_fit), target, settings.num_pilots)

    def run(key: Array, ladder: Array, count: int, moves: Moves | None) -> Particles:
        reference = measure_reference(key_noise, clean, led(target), ladder)
        key_latents, key_paths, key_moves = jax.random.split(key, 3)
        starts = jax.vmap(ordinary.draw)(jax.random.split(key_latents, count))
        found = guide(
            jax.random.split(key_paths, count), starts, jax.vmap(ordinary.log_density)(starts),
            led(target), ladder, reference, settings.guidance_for(size),
            settings.resampling or Resampling(), settings.max_shift, settings.probes_for(size),
        )  # fmt: skip
        return _move_latents(key_moves, found, target, settings)

    ladder = fit_ladder(clean, led(target), settings.num_steps)
    return _respaced_and_run(key_pilots, key_run, run, ladder, settings)


def run_corrected(
    key: Array, target: Target, ordinary: OrdinaryPrior, settings: Settings
) -> Particles:
    """Run a corrector once."""
    key_fit, key_pilots, key_run = jax.random.split(key, 3)
    size = event_size(target, ordinary)
    clean = pilots(key_fit, ordinary.draw(key_fit), target, settings.num_pilots)
    # The tilt is the weight without the ordinary latents' prior, which they are drawn from.
    tilted = Target(
        target.score_models,
        target.floors,
        lambda z: target.log_weight(z) - ordinary.log_density(z),
    )
    corrector = settings.corrector
    assert corrector is not None

    def run(key: Array, ladder: Array, count: int, moves: Moves | None) -> Particles:
        key_latents, key_paths, key_moves = jax.random.split(key, 3)
        starts = jax.vmap(ordinary.draw)(jax.random.split(key_latents, count))
        latents = {n: v for n, v in starts.items() if n not in target.score_models}
        found = corrected(
            jax.random.split(key_paths, count), latents, tilted, ladder, data_scale(clean),
            corrector, num_probes=settings.probes_for(size),
            resampling=settings.resampling or ANY_LEVEL, moves=moves,
        )  # fmt: skip
        return _move_latents(key_moves, found, target, settings)

    ladder = fit_ladder(clean, target, settings.num_steps)
    return _respaced_and_run(key_pilots, key_run, run, ladder, settings)


def _respaced_and_run(
    key_pilots: Array,
    key_run: Array,
    run: Callable[[Array, Array, int, Moves | None], Particles],
    ladder: Array,
    settings: Settings,
) -> Particles:
    """Run on a ladder, moved by a pilot run that enters no estimate and is frozen then."""
    if settings.num_level_pilots:
        pilot = run(key_pilots, ladder, settings.num_level_pilots, None)
        ladder = respaced(ladder, pilot.trace.step_variance)
    return run(key_run, ladder, settings.num_particles, settings.moves)


def pilots(key: Array, position: Position, target: Target, count: int) -> Position:
    """Return draws of the leading process, of all choices alike, for the data's scale."""
    picks = all_picks(target.score_models)
    keys = [key] if len(picks) == 1 else jax.random.split(key, len(picks))
    drawn = [
        draw_prior(
            k, position, led(target.with_models(choose(target.score_models, pick).models)),
            num_draws=max(2, count // len(picks)), num_steps=_NUM_PILOT_STEPS,
        )
        for k, pick in zip(keys, picks, strict=True)
    ]  # fmt: skip
    return jax.tree.map(lambda *v: jnp.concatenate(v), *drawn)


def _move_latents(key: Array, found: Particles, target: Target, settings: Settings) -> Particles:
    """Take Metropolis steps of the ordinary latents given the event, which keep the weights."""
    if set(found.position) == set(target.score_models) or settings.num_latent_steps == 0:
        return found
    keys = jax.random.split(key, len(found.log_weight))
    moved = jax.vmap(lambda k, z: proposal.refresh(k, z, target, settings.num_latent_steps))(
        keys, found.position
    )
    return found._replace(position=moved)


def num_score_evaluations(target: Target, size: int, settings: Settings) -> int:
    """Network evaluations of one particle of a run, of all score sites; a plate counts as one."""
    models, laplacian = _num_models(target), _laplacian_cost(size, settings)
    if settings.corrector is not None:
        return settings.num_steps * models * laplacian
    cost = getattr(settings.guidance_for(size), "num_score_evaluations", None)
    is_composed = any(isinstance(model, Composition) for model in target.score_models.values())
    each = (1 if cost is None else cost(size)) + (laplacian if is_composed else 0)
    return settings.num_steps * models * each


def renewal_evaluations(target: Target, size: int, settings: Settings) -> int:
    """Network evaluations of a population's moves after one resampling."""
    moves, count = settings.moves, settings.num_particles
    if moves is None:
        return 0
    chains = count // (moves.num_steps + 1) if moves.waste_free else count
    # A chain begins with one evaluation and takes two a step; then all states are looked at.
    of_chains = chains * (1 + 2 * moves.num_steps) * _num_models(target)
    looked_at = chains * (moves.num_steps + 1)
    return of_chains + looked_at * _laplacian_cost(size, settings) * _num_models(target)


def _num_models(target: Target) -> int:
    return sum(num_members(model) for model in target.score_models.values())


def _laplacian_cost(size: int, settings: Settings) -> int:
    probes = settings.probes_for(size)
    return 2 * (size if probes is None else probes)
