r"""Digits of the prior's discretised reverse process: as they come, and guided to a class.

Both have the same law p, that of `scoreppl.samplers.reference` with `NUM_STEPS` steps, so that
plain draws weighed by p(c | x) and guided ones weighed by their path weights have one target,

.. math:: \pi_c(x) \propto p(c \mid x) \, p(x).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.augmentation.model import digit
from scoreppl.guidance import Guidance, Unguided
from scoreppl.samplers.guided import guide
from scoreppl.samplers.reference import Reference, fit_reference

NUM_STEPS, NUM_PILOTS = 50, 256
# Paths made at a time, and the longest shift of a step, as in `sp.GuidedDiffusion`.
BLOCK, MAX_SHIFT = 256, 0.2


class Law(NamedTuple):
    """A prior with the ladder and variances of its discretised reverse process."""

    prior: sp.ScoreNetwork
    ladder: Array
    reference: Reference


class Draws(NamedTuple):
    """Images, shape ``(n, 8, 8)``, their log weights, and the network evaluations they took."""

    images: np.ndarray
    log_weight: np.ndarray
    evaluations: int


def fit_law(key: Array, num_steps: int = NUM_STEPS) -> Law:
    """Fit the reverse process of the shipped prior on pilot draws."""

    @jax.jit
    def fit(key: Array, prior: sp.ScoreNetwork) -> tuple[Array, Reference]:
        target = sp.Target({"x": prior}, {"x": jnp.zeros(())}, lambda z: jnp.zeros(()))
        nothing = {"x": jnp.zeros(prior.event_shape)}
        return fit_reference(key, nothing, target, num_levels=num_steps, num_pilots=NUM_PILOTS)

    prior = sp.pretrained.load("digits8")
    return Law(prior, *fit(key, prior))


@partial(jax.jit, static_argnames=("guidance", "size"))
def _guided(
    key: Array, law: Law, classifier: dict, label: Array, guidance: Guidance, size: int
) -> tuple[Array, Array]:
    log_weight = sp.log_weight(digit, law.prior, classifier, label)
    target = sp.Target({"x": law.prior}, {"x": jnp.zeros(())}, log_weight)
    found = guide(
        jax.random.split(key, size), {"x": jnp.zeros((size, *law.prior.event_shape))},
        jnp.zeros(size), target, law.ladder, law.reference, guidance, max_shift=MAX_SHIFT,
    )  # fmt: skip
    return found.position["x"], found.log_weight


def guided_draws(
    key: Array,
    law: Law,
    classifier: dict[str, Array],
    label: int,
    guidance: Guidance,
    num_draws: int,
) -> Draws:
    """Draw digits of a class by guided paths, with the log weights that make them exact."""
    size = min(BLOCK, num_draws)
    parts = [
        jax.device_get(
            _guided(jax.random.fold_in(key, i), law, classifier, jnp.asarray(label), guidance, size)
        )
        for i in range(-(-num_draws // size))
    ]
    images, log_weight = (np.concatenate(part)[:num_draws] for part in zip(*parts, strict=True))
    each = getattr(guidance, "num_score_evaluations", lambda size: 1)(images[0].size)
    cost = num_draws * len(law.ladder) * each
    return Draws(images, np.asarray(log_weight, np.float64), cost)


def plain_draws(key: Array, law: Law, classifier: dict[str, Array], num_draws: int) -> Draws:
    """Draw digits of the prior; all weigh the same, whatever the classifier."""
    found = guided_draws(key, law, classifier, 0, Unguided(), num_draws)
    return found._replace(log_weight=np.zeros(num_draws))
