"""Where a local chain starts: score sites at the end of a short reverse diffusion."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from jax import Array

from scoreppl.ppl.potential import Values
from scoreppl.ppl.prior import ScorePrior
from scoreppl.target import Target

_NUM_STEPS = 30


def starting_priors(
    priors: dict[str, ScorePrior], target: Target, given: Collection[str]
) -> dict[str, ScorePrior]:
    """Return the priors that score sites start from, but for the sites that are `given`.

    Built for all sites, also the given ones: this checks the noise level.
    """
    starts = {
        name: ScorePrior(
            prior.score_model,
            noise_level=target.floors[name],
            num_steps=_NUM_STEPS,
            batch_shape=prior.draw_shape,
        )
        for name, prior in priors.items()
    }
    return {name: prior for name, prior in starts.items() if name not in given}


def finite_start(
    key: Array, checked: Values, starts: dict[str, ScorePrior], target: Target
) -> Values:
    """Draw the score sites in `starts` until the weight is finite; keep the other values.

    From a start whose weight is not a number no proposal is ever accepted. After 100 draws the
    start is `checked`, where the weight is known to be finite.
    """
    if not starts:
        return checked

    def draw(state: tuple[Array, Values]) -> tuple[Array, Values]:
        attempt, z = state
        key_attempt = jax.random.fold_in(key, attempt)
        drawn = {
            name: prior.sample(jax.random.fold_in(key_attempt, index)).astype(z[name].dtype)
            for index, (name, prior) in enumerate(starts.items())
        }
        return attempt + 1, z | drawn

    def is_refused(z: Values) -> Array:
        return ~jnp.isfinite(target.log_weight(z))

    _, z = jax.lax.while_loop(
        lambda state: (state[0] == 0) | ((state[0] < 100) & is_refused(state[1])),
        draw,
        (jnp.zeros((), int), checked),
    )
    keep = is_refused(z)
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), checked, z)
