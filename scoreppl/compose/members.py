"""The models that a composition is evaluated by, and mixtures taken apart into choices.

A mixture of models without densities does not know its own score: the probabilities of its members
given a noisy event need the ratios of their densities. Where a mixture enters a composition with
exponent one, none are needed: the composition is a mixture itself, of one composition for each
choice of a member.
"""

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from scoreppl.compose.composition import Composition
from scoreppl.compose.mixture import Mixture
from scoreppl.noise import is_concrete
from scoreppl.score import ScoreModel

# For each factor the number of a member; None keeps the factor as it is.
Picks = tuple[int | None, ...]


def factors(model: ScoreModel) -> tuple[ScoreModel, ...]:
    """Return the models of a composition; any other model is its own only factor."""
    return model.models if isinstance(model, Composition) else (model,)


def exponents(model: ScoreModel) -> Array:
    """Return the powers of a composition; that of any other model is one."""
    return model.exponents if isinstance(model, Composition) else jnp.ones(1)


def members(factor: ScoreModel) -> tuple[ScoreModel, ...]:
    """Return the models to evaluate for a factor: those of a mixture without densities, or itself.

    A mixture with densities knows its own score.
    """
    if isinstance(factor, Mixture) and not factor.has_log_density:
        return factor.models
    return (factor,)


def member_log_weights(factor: ScoreModel) -> Array:
    """Return the log weights of `members`, zero for a factor that is its own."""
    if isinstance(factor, Mixture) and not factor.has_log_density:
        return factor.log_weights
    return jnp.zeros(1)


def num_members(model: ScoreModel) -> int:
    """Count the models that one evaluation of a composition takes."""
    return sum(len(members(factor)) for factor in factors(model))


def has_open_mixture(model: ScoreModel) -> bool:
    """Whether a factor is a mixture that does not know its own score."""
    return num_members(model) > len(factors(model))


def has_composed_member(model: ScoreModel) -> bool:
    """Whether a mixture among the factors holds a composition."""
    return any(isinstance(f, Mixture) and f.has_compositions for f in factors(model))


def is_mixture_of_choices(model: ScoreModel) -> bool:
    """Whether all open mixtures have exponent one; the exponents must be known."""
    powers = exponents(model)
    return all(
        len(members(factor)) == 1 or (is_concrete(powers) and float(powers[index]) == 1.0)
        for index, factor in enumerate(factors(model))
    )


class Choice(NamedTuple):
    """One member of every open mixture.

    Attributes
    ----------
    log_probability
        Of the choice.
    models
        Score models by site name, without open mixtures.
    """

    log_probability: Array
    models: dict[str, ScoreModel]


def no_picks(models: Mapping[str, ScoreModel]) -> dict[str, Picks]:
    """Return the choice that leaves mixtures as they are."""
    return {name: (None,) * len(factors(model)) for name, model in models.items()}


def all_picks(models: Mapping[str, ScoreModel]) -> list[dict[str, Picks]]:
    """List the choices: by site the number of a member for each factor."""
    each = [
        list(product(*(range(len(members(factor))) for factor in factors(model))))
        for model in models.values()
    ]
    return [dict(zip(models, picks, strict=True)) for picks in product(*each)]


def choose(models: Mapping[str, ScoreModel], picks: Mapping[str, Picks]) -> Choice:
    """Put the picked members in the places of their mixtures."""
    total, chosen = jnp.zeros(()), {}
    for name, model in models.items():
        if not has_open_mixture(model):
            chosen[name] = model
            continue
        found: list[ScoreModel] = []
        for factor, pick in zip(factors(model), picks[name], strict=True):
            found.append(factor if pick is None else members(factor)[pick])
            total += 0.0 if pick is None else member_log_weights(factor)[pick]
        is_composed = isinstance(model, Composition)
        chosen[name] = Composition(found, exponents(model)) if is_composed else found[0]
    return Choice(total, chosen)
