r"""Sequential Monte Carlo towards a rare event: levels chosen by the particles, moves in between.

The event is g > 0. Between the law that particles start from and its restriction to the event lie
laws with a potential psi(g; a),

.. math::
    \text{splitting:} \quad \psi = \log 1[g > a], \; a \uparrow 0, \qquad
    \text{tempering:} \quad \psi = \log \Phi(g / a), \; a \downarrow 0,

each a as far on as leaves a given share of the particles effective, found by bisection. Particles
are resampled and moved by a kernel that leaves the law of their level invariant. Splitting is
subset simulation (Au and Beck, 2001; Cerou et al., 2012), tempering its smooth form (Papaioannou
et al., 2016). The product of the mean weights estimates the probability, with a bias of the order
of one over the number of particles, since levels are chosen by the particles that are weighed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc.resampling import systematic
from jax import Array
from jax.scipy.stats import norm
from scipy.special import log_ndtr

Potential = Callable[[Array, Array], Array]

NOT_A_NUMBER = (
    "`limit_state` is not a number at any of the particles; it must be finite where the law has "
    "mass."
)

_NUM_BISECTIONS = 60
# What the step size is led to between levels.
_TARGET_ACCEPTANCE = 0.5


def hard(states: Array, level: Array) -> Array:
    """Log of the indicator of a limit state above a level."""
    return jnp.where(states > level, 0.0, -jnp.inf)


def smooth(states: Array, level: Array) -> Array:
    """Log probability that a limit state seen with an error of the level's size is positive."""
    return norm.logcdf(states / level)


class Moves(Protocol):
    """A kernel for particles of the law that the event is rare under."""

    def start(self, key: Array, num_particles: int, part: Array) -> Any:
        """Draw particles of a part of the source, a pytree with leading axis over them."""
        ...

    def states(self, particles: Any) -> Array:
        """Return the limit state of each."""
        ...

    def values(self, particles: Any) -> dict[str, Array]:
        """Return the particles' values by site, as users know them."""
        ...

    def move(
        self, key: Array, particles: Any, log_potential: Callable[[Array], Array], step_size: Array
    ) -> tuple[Any, Array]:
        """Move all particles, leaving their law times a potential of the limit state invariant.

        Returns the particles and their acceptance rates.
        """
        ...

    def evaluations(self, num_moves: int) -> int:
        """Score evaluations of so many moves of a particle; those of its start for 0."""
        ...


class LevelRun(NamedTuple):
    """What one run found.

    Attributes
    ----------
    log_probability
        Log of the estimated probability.
    particles, log_weight
        Particles and their log weights, -inf outside of the event.
    levels
        The levels, ending with 0.
    acceptance_rate
        Mean acceptance of the moves at each level but the last.
    num_score_evaluations
        Of all particles together.
    """

    log_probability: float
    particles: Any
    log_weight: np.ndarray
    levels: np.ndarray
    acceptance_rate: np.ndarray
    num_score_evaluations: int


class EventLevels:
    """Runs towards an event, compiled once.

    Parameters
    ----------
    moves
        Start and kernel of the particles.
    is_smooth
        Whether to temper instead of to split.
    num_particles, num_moves
        Particles, and moves of each after each resampling.
    share
        Effective particles that a level leaves, as a share.
    max_levels
        After so many levels the event counts as out of reach.
    """

    def __init__(
        self,
        moves: Moves,
        *,
        is_smooth: bool,
        num_particles: int,
        num_moves: int,
        share: float,
        max_levels: int,
    ) -> None:
        self.moves = moves
        self._is_smooth = is_smooth
        self._num_particles = num_particles
        self._num_moves = num_moves
        self._share = share
        self._max_levels = max_levels
        self._start = jax.jit(lambda key, part: moves.start(key, num_particles, part))
        self._states = jax.jit(moves.states)
        self._renew = jax.jit(self._renewed)
        self.values = jax.jit(moves.values)

    def run(self, key: Array, part: int = 0) -> LevelRun:
        """Take particles that start from a part of the source into the event.

        Raises
        ------
        ValueError
            If the event was not reached.
        """
        moves, is_smooth = self.moves, self._is_smooth
        key, key_start = jax.random.split(key)
        particles = self._start(key_start, jnp.asarray(part))
        states = _known(self._states(particles))
        # Below every particle, or smoother than all of them: the potential is flat.
        level, total = (np.inf, np.log(0.5)) if is_smooth else (-np.inf, 0.0)
        step_size = jnp.asarray(1.0)
        levels, rates, cost = [], [], moves.evaluations(0)
        for number in range(self._max_levels):
            now = _log_potential(states, level, is_smooth)
            chosen = _next_level(states, now, level, self._share, is_smooth)
            if chosen is None:
                break
            level = chosen
            log_weight = _increment(states, level, now, is_smooth)
            peak = log_weight.max()
            weights = np.exp(log_weight - peak)
            total += float(np.log(weights.mean()) + peak)
            levels.append(level)
            if level == 0.0:
                return LevelRun(
                    total, particles, log_weight, np.asarray(levels), np.asarray(rates),
                    cost * self._num_particles,
                )  # fmt: skip
            particles, rate = self._renew(
                jax.random.fold_in(key, number), particles, jnp.asarray(weights / weights.sum()),
                jnp.asarray(level), step_size,
            )  # fmt: skip
            states = _known(self._states(particles))
            rates.append(float(rate))
            cost += moves.evaluations(self._num_moves)
            step_size = step_size * jnp.exp(rate - _TARGET_ACCEPTANCE)
        if not np.any(np.isfinite(states)):
            raise ValueError(NOT_A_NUMBER)
        raise ValueError(
            f"The event was not reached in {len(levels)} levels; the limit state has come up to "
            f"{states.max():.3g}, and the event is where it is positive. It may be impossible, or "
            "particles too few or their moves too short: try more of `num_particles` or "
            "`num_moves`."
        )

    def _renewed(
        self, key: Array, particles: Any, weights: Array, level: Array, step_size: Array
    ) -> tuple[Any, Array]:
        """Resample and move."""
        potential = smooth if self._is_smooth else hard
        key_resample, key_moves = jax.random.split(key)
        chosen = systematic(key_resample, weights, self._num_particles)
        particles = jax.tree.map(lambda v: v[chosen], particles)

        def one(particles: Any, key: Array) -> tuple[Any, Array]:
            return self.moves.move(key, particles, lambda g: potential(g, level), step_size)

        particles, rate = jax.lax.scan(one, particles, jax.random.split(key_moves, self._num_moves))
        return particles, jnp.mean(rate)


def _known(states: Array) -> np.ndarray:
    """Return limit states in double precision; one that is not a number is far from the event."""
    values = np.asarray(states, np.float64)
    return np.where(np.isnan(values), -np.inf, values)


def _log_potential(states: np.ndarray, level: float, is_smooth: bool) -> np.ndarray:
    """Return the potential on the host, also at its limits."""
    if is_smooth and np.isinf(level):
        return np.full_like(states, np.log(0.5))
    if is_smooth and level > 0:
        return log_ndtr(states / level)
    return np.where(states > (0.0 if is_smooth else level), 0.0, -np.inf)


def _increment(states: np.ndarray, level: float, now: np.ndarray, is_smooth: bool) -> np.ndarray:
    """Return what a level adds to the potential; a particle that rounding put outside stays out."""
    inside = np.isfinite(now)
    return np.where(
        inside, _log_potential(states, level, is_smooth) - np.where(inside, now, 0.0), -np.inf
    )


def _next_level(
    states: np.ndarray, now: np.ndarray, level: float, share: float, is_smooth: bool
) -> float | None:
    """Return the level that leaves a share of the particles effective; None if there is none."""

    def effective(level: float) -> float:
        added = _increment(states, level, now, is_smooth)
        weights = np.exp(added - added.max()) if np.any(np.isfinite(added)) else np.zeros(1)
        return float(weights.sum() ** 2 / np.sum(weights**2)) if weights.any() else 0.0

    wanted = share * len(states)
    if effective(0.0) >= wanted:
        return 0.0
    if not is_smooth:
        # As many particles as wanted lie above; ties are taken together.
        ahead = np.sort(states[states > level])[::-1]
        if not len(ahead):
            return None
        chosen = ahead[min(int(np.ceil(wanted)), len(ahead) - 1)]
        return float(chosen) if chosen < ahead[0] else None
    high = np.log(min(level, 1e3 * np.max(np.abs(states[np.isfinite(states)])) + 1e-30))
    low = high - 40.0
    for _ in range(_NUM_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if effective(np.exp(middle)) >= wanted else (middle, high)
    return float(np.exp(high)) if np.exp(high) < level else None
