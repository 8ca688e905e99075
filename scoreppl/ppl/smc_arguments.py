"""What ScoreSMC refuses, and says why."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.arguments import check_count, check_positive
from scoreppl.ppl.smc_runs import Settings, pilots
from scoreppl.samplers.control import Corrector
from scoreppl.samplers.reference import data_scale
from scoreppl.samplers.smc import Moves, Resampling
from scoreppl.score import ScoreModel
from scoreppl.target import Position, Target

_NUM_TRIED = 64


def check_model(model: Any, score_model: Any, log_weight: Any) -> None:
    """Check that there is one model, and a weight only beside a score model."""
    if isinstance(model, ScoreModel):
        raise ValueError("`model` is a score model; pass it as `score_model=`.")
    if model is None and score_model is None:
        raise ValueError("Give a NumPyro model, or a score model as `score_model=`.")
    if model is not None and score_model is not None:
        raise ValueError("Give either `model`, a NumPyro model, or `score_model=`, not both.")
    if log_weight is not None and score_model is None:
        raise ValueError("`log_weight` goes with `score_model=`; a model has its own weight.")
    if log_weight is not None and not callable(log_weight):
        raise ValueError(
            f"`log_weight` of type {type(log_weight).__name__} must be a function of one event."
        )


def check_settings(settings: Settings) -> None:
    """Check types, counts and what does not go together."""
    guidance, corrector, moves = settings.guidance, settings.corrector, settings.moves
    resampling = settings.resampling
    if corrector is not None and guidance is not None:
        raise ValueError("Give `guidance` or `corrector`, not both: these are two methods.")
    for name in ("guidance", "corrector", "moves", "resampling"):
        part = getattr(settings, name)
        if isinstance(part, type):
            raise ValueError(f"`{name}={part.__name__}` is a class: add parentheses.")
    if corrector is not None and not hasattr(corrector, "control"):
        raise ValueError(
            f"`corrector` of type {type(corrector).__name__} is none of sp.correctors."
        )
    if guidance is not None and not callable(guidance):
        raise ValueError(
            f"`guidance` of type {type(guidance).__name__} is not callable; use a part of "
            "sp.guidance or a function guidance(u, view)."
        )
    if resampling is not None and not isinstance(resampling, Resampling):
        raise ValueError(
            f"`resampling` of type {type(resampling).__name__} must be a sp.correctors.Resampling."
        )
    if resampling is not None and not callable(resampling.scheme):
        raise ValueError(
            f"`resampling.scheme={resampling.scheme!r}` must be a function, such as "
            "sp.correctors.ssp or blackjax.smc.resampling.systematic."
        )
    check_count("num_particles", settings.num_particles, 2)
    check_count("num_steps", settings.num_steps, 2)
    check_count("num_pilots", settings.num_pilots, 2)
    check_count("num_level_pilots", settings.num_level_pilots, 0)
    check_count("num_latent_steps", settings.num_latent_steps, 0)
    check_positive("max_shift", settings.max_shift)
    if settings.num_level_pilots == 1:
        raise ValueError("`num_level_pilots=1`: a variance needs at least two particles.")
    if settings.num_probes is not None:
        check_count("num_probes", settings.num_probes, 1)
    if moves is not None:
        _check_moves(moves, corrector, settings.num_particles)


def _check_moves(moves: Any, corrector: Corrector | None, num_particles: int) -> None:
    if not isinstance(moves, Moves):
        raise ValueError(f"`moves` of type {type(moves).__name__} must be a sp.correctors.Moves.")
    if corrector is None:
        raise ValueError(
            "`moves` need the law of a level, which guided paths do not have; give `corrector=`, "
            "or move the draws by sp.ScoreMALA."
        )
    check_count("moves.num_steps", moves.num_steps, 1)
    check_positive("moves.step_size", moves.step_size)
    if moves.waste_free and num_particles % (moves.num_steps + 1):
        raise ValueError(
            f"`num_particles={num_particles}` must be a multiple of the {moves.num_steps + 1} "
            "states of a waste-free chain, `moves.num_steps` and its start."
        )


def check_reach(corrector: Corrector, target: Target, position: Position) -> None:
    """Refuse a corrector for a weight that is zero where noisy particles go.

    Its tilt asks the weight of noisy particles, and those of weight zero are lost although they
    could still reach the rest. The weight is tried at draws of the prior and at noised ones.

    Parameters
    ----------
    corrector
        The corrector.
    target
        One score site, and the weight.
    position
        Values of all sites.
    """
    key_draws, key_noise = jax.random.split(jax.random.key(0))

    def weigh(values: Position) -> Array:
        return target.log_weight(position | values)

    drawn = pilots(key_draws, position, target, _NUM_TRIED)
    (events,) = drawn.values()
    if not bool(jnp.any(jnp.isfinite(events))):
        raise ValueError(
            "Draws of the score model hold no number: it returned NaN or infinite values. Check "
            "the network and its `prediction`."
        )
    spread = data_scale(drawn)
    noised = {
        name: value + spread * jax.random.normal(key_noise, value.shape)
        for name, value in drawn.items()
    }
    weigh_all: Callable[[Position], Array] = jax.jit(jax.vmap(weigh))
    values = jnp.concatenate([weigh_all(drawn), weigh_all(noised)])
    is_event = jnp.tile(jnp.all(jnp.isfinite(events.reshape(len(events), -1)), 1), 2)
    lost = int(jnp.sum(is_event & ~(values > -1e20)))
    if lost:
        raise ValueError(
            f"`corrector={type(corrector).__name__}` asks the weight of noisy particles, and it "
            f"is zero or not a number at {lost} of {len(values)} that were tried, as an indicator "
            "or a bounded support is. Use `corrector=None` with a guidance that needs no gradient, "
            "such as sp.guidance.RandomNumbers() or LimitState, or smooth the weight."
        )
