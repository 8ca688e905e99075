"""The runs of ScoreSMC as pure functions of a bound target."""

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
from scoreppl.samplers.reference import data_scale, draw_prior, fit_ladder, fit_reference
from scoreppl.samplers.smc import Resampling
from scoreppl.score import ScoreModel
from scoreppl.target import Position, Target

# Up to this size Laplacians are exact unless asked otherwise.
_EXACT_LAPLACIAN_LIMIT = 10
_NUM_PILOT_STEPS = 100


class Settings(NamedTuple):
    """How to run; as the arguments of `ScoreSMC`."""

    num_particles: int
    num_steps: int
    guidance: Guidance | None
    corrector: Corrector | None
    num_probes: int | None
    resampling: Resampling | None
    num_pilots: int
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
    count, size = settings.num_particles, event_size(target, ordinary)
    key_fit, key_latents, key_paths, key_moves = jax.random.split(key, 4)
    starts = jax.vmap(ordinary.draw)(jax.random.split(key_latents, count))
    ladder, reference = fit_reference(
        key_fit, ordinary.draw(key_fit), led(target),
        num_levels=settings.num_steps, num_pilots=settings.num_pilots,
    )  # fmt: skip
    found = guide(
        jax.random.split(key_paths, count), starts, jax.vmap(ordinary.log_density)(starts),
        led(target), ladder, reference, settings.guidance_for(size),
        settings.resampling or Resampling(), settings.max_shift, settings.probes_for(size),
    )  # fmt: skip
    return _move_latents(key_moves, found, target, settings)


def run_corrected(
    key: Array, target: Target, ordinary: OrdinaryPrior, settings: Settings
) -> Particles:
    """Run a corrector once."""
    count, size = settings.num_particles, event_size(target, ordinary)
    key_fit, key_latents, key_paths, key_moves = jax.random.split(key, 4)
    starts = jax.vmap(ordinary.draw)(jax.random.split(key_latents, count))
    clean = _pilots(key_fit, ordinary.draw(key_fit), target, settings.num_pilots)
    # The tilt is the weight without the ordinary latents' prior, which they are drawn from.
    tilted = Target(
        target.score_models,
        target.floors,
        lambda z: target.log_weight(z) - ordinary.log_density(z),
    )
    latents = {n: v for n, v in starts.items() if n not in target.score_models}
    assert settings.corrector is not None
    found = corrected(
        jax.random.split(key_paths, count), latents, tilted,
        fit_ladder(clean, target, settings.num_steps), data_scale(clean), settings.corrector,
        num_probes=settings.probes_for(size), resampling=settings.resampling or ANY_LEVEL,
    )  # fmt: skip
    return _move_latents(key_moves, found, target, settings)


def _pilots(key: Array, position: Position, target: Target, count: int) -> Position:
    """Draws of the leading process, of all choices of mixtures alike, for the data's scale."""
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
    """Network evaluations of one particle of a run."""
    models = max(num_members(model) for model in target.score_models.values())
    probes = settings.probes_for(size)
    laplacian = 2 * (size if probes is None else probes)
    if settings.corrector is not None:
        return settings.num_steps * models * laplacian
    cost = getattr(settings.guidance_for(size), "num_score_evaluations", None)
    is_composed = any(_is_composed(model) for model in target.score_models.values())
    each = (1 if cost is None else cost(size)) + (laplacian if is_composed else 0)
    return settings.num_steps * models * each


def _is_composed(model: ScoreModel) -> bool:
    return isinstance(model, Composition)
