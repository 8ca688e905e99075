"""What parts of a composition must have in common."""

from collections.abc import Sequence

import jax
import numpy as np

from scoreppl.noise import Schedule, is_concrete
from scoreppl.score import ScoreModel


def checked_models(models: Sequence[ScoreModel]) -> tuple[ScoreModel, ...]:
    """Return the models of a composition, or say what is wrong with them."""
    if isinstance(models, ScoreModel):
        raise ValueError("`models` is one score model; give a list of them.")
    parts = tuple(models)
    if not parts:
        raise ValueError("`models` is empty; a composition needs at least one score model.")
    for model in parts:
        if not isinstance(model, ScoreModel):
            raise ValueError(
                f"`models` holds a {type(model).__name__}; each must be a score model, such as "
                "sp.ScoreNetwork."
            )
    shapes = {tuple(model.event_shape) for model in parts}
    if len(shapes) > 1:
        raise ValueError(f"The `models` have different event shapes: {sorted(shapes)}.")
    return parts


def is_same(schedule: Schedule, other: Schedule) -> bool:
    """Whether two schedules are equal, as far as can be told without running."""
    if schedule is other:
        return True
    leaves, structure = jax.tree.flatten(schedule)
    others, other_structure = jax.tree.flatten(other)
    if structure != other_structure or not is_concrete(*leaves, *others):
        return False
    return all(np.array_equal(a, b) for a, b in zip(leaves, others, strict=True))
