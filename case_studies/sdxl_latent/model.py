"""The program: an event of the prior, weighed by the exponential of a reward."""

from collections.abc import Callable
from typing import Any

import numpyro
from jax import Array
from jax.typing import ArrayLike

import scoreppl as sp

# ``reward(prior, x)`` of one event; the prior is at hand because it knows the way to images.
Reward = Callable[[Any, Any], Array]


def tilted(prior: sp.ScoreModel, reward: Reward, tilt: ArrayLike) -> None:
    """Draw an event with the weight exp(tilt * reward)."""
    x = numpyro.sample("x", sp.ScorePrior(prior))
    numpyro.factor("reward", tilt * reward(prior, x))
