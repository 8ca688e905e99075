"""One reward under all methods: plain draws, sweeps of strength, and the best of several draws."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
from jax import Array

from case_studies.sdxl_latent.methods import (
    LIDAR,
    METHODS,
    PLAIN,
    STEPS_AHEAD,
    Draws,
    Law,
    Method,
    draw,
    draw_ahead,
)
from case_studies.sdxl_latent.model import Reward

BEST_OF = (4, 16)


class Sizes(NamedTuple):
    """How much to draw.

    Attributes
    ----------
    count
        Draws of each method at each tilt.
    pool
        Plain draws, the first `count` of them from the same noise as those of the methods.
    ahead
        Draws made ahead for `LiDAR`.
    block
        Draws made at a time.
    """

    count: int
    pool: int
    ahead: int
    block: int


class Study(NamedTuple):
    """What was drawn.

    Attributes
    ----------
    plain
        Draws of the prior, without a tilt.
    sweeps
        Draws of each method by tilt, weak first.
    main
        The tilt of the tables.
    """

    plain: Draws
    sweeps: dict[str, list[Draws]]
    main: float

    def at(self, tilt: float) -> dict[str, Draws]:
        """Return the draws of all methods at a tilt, plain ones among them."""
        found = {PLAIN: weighed(self.plain, tilt)}
        return found | {
            name: next(draws for draws in sweep if draws.tilt == tilt)
            for name, sweep in self.sweeps.items()
        }


def plain_draws(key: Array, law: Law, reward: Reward, sizes: Sizes) -> Draws:
    """Draw from the prior."""
    return draw(key, law, reward, METHODS[PLAIN], (0.0,), sizes.pool, block=sizes.block)[0]


def run(
    key: Array,
    law: Law,
    reward: Reward,
    methods: Mapping[str, Method],
    tilts: Sequence[float],
    main: float,
    plain: Draws,
    sizes: Sizes,
    further: Mapping[str, Sequence[float]] | None = None,
    say: Callable[[str], None] = print,
) -> Study:
    """Draw by every method at every tilt, from the noise of the first plain draws.

    Parameters
    ----------
    key
        PRNG key, that of the plain draws.
    law, reward
        The prior and its reward.
    methods
        By name.
    tilts, main
        Tilts, and the one among them of the tables.
    plain
        Draws of the prior with their rewards.
    sizes
        How much to draw.
    further
        Stronger tilts of some methods, which follow them less than others do.
    say
        Told what has been done.
    """
    ahead = draw_ahead(jax.random.fold_in(key, 2**30), law.prior, reward, sizes.ahead, sizes.block)
    sweeps = {}
    for name, method in methods.items():
        own = (*tilts, *(further or {}).get(name, ()))
        sweeps[name] = draw(
            key, law, reward, method, own, sizes.count, ahead=ahead, block=sizes.block
        )
        if name.startswith(LIDAR):
            extra = sizes.ahead * STEPS_AHEAD / sizes.count
            sweeps[name] = [
                found._replace(evaluations=found.evaluations + extra) for found in sweeps[name]
            ]
        seconds = sum(found.seconds for found in sweeps[name])
        say(f"{name}: {len(own)} tilts, {seconds:.1f} seconds without compilation")
    return Study(plain, sweeps, main)


def weighed(plain: Draws, tilt: float) -> Draws:
    """Weigh draws of the prior by a tilt."""
    return plain._replace(tilt=tilt, log_weight=tilt * plain.reward)
