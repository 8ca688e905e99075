r"""Search of the time grid and of the order of every step, for one model and one budget.

Where a coarse solver errs depends on the model, and so does its best grid. As in USF (Liu et al.,
arXiv:2312.07243), grids, orders and solvers are searched together. A candidate is judged by how
far it ends from a fine solution of the same probability flow from the same M starts, per
coordinate:

.. math::
    \frac{1}{M} \sum_{m=1}^M \frac{1}{\sqrt d} \lVert \hat x_0^{(m)} - x_0^{(m)} \rVert .

Distances are not squared: a start near the border of two modes, which a coarse solver carries to
the other one, would outweigh all others, and the choice would not hold on other starts.

Tried are named methods on named grids; then, of each kind of method, the best one with the lengths
of its steps in log-SNR multiplied by the exponential of a piecewise linear function, which may also
end the grid early, under a (1+1) evolution strategy; then, for the best kind, other orders, step by
step; then more grids.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.arguments import check_count
from scoreppl.noise import Schedule, first_time, time_grid
from scoreppl.noise.grid import LOG_SNR_LIMIT, SPACINGS
from scoreppl.solvers.exponential import Exponential

_MAX_ORDER = 3
# Each is compiled once, whatever the orders of its candidates.
_FAMILIES = tuple(
    Exponential(_MAX_ORDER, interpolate=interpolate, corrector=corrector)
    for interpolate in ("denoised", "noise")
    for corrector in (False, True)
)
_KNOTS = 6


class Denoiser(Protocol):
    """What the search needs of a score model."""

    @property
    def noise(self) -> Schedule:
        """The noise schedule."""
        ...

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        ...

    @property
    def min_time(self) -> ArrayLike:
        """The smallest time at which the denoiser is to be used."""
        ...

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return E[x_0 | x_t = x], of the shape of one event."""
        ...


class Found(NamedTuple):
    """A solver and its times, for ``sample(..., solver=found.solver, spacing=found.times)``.

    Attributes
    ----------
    solver
        The solver, with an order for each step.
    times
        The times, shape ``(num_steps,)``.
    error
        Mean distance to the fine solution per coordinate, in data units, on the starts searched.
    errors
        The same for each named method on each named spacing.
    num_score_evaluations
        Evaluations of the denoiser that the search took.
    """

    solver: Exponential
    times: Array
    error: float
    errors: dict[tuple[Exponential, str], float]
    num_score_evaluations: int


def search(
    key: Array,
    model: Denoiser,
    num_steps: int,
    *,
    num_starts: int = 64,
    num_trials: int = 200,
    reference_steps: int = 300,
) -> Found:
    """Find the grid and the orders with which few evaluations follow the flow best.

    Parameters
    ----------
    key
        PRNG key, of the starts and of the grids that are tried.
    model
        The score model.
    num_steps
        Evaluations of the denoiser a draw, as in the model's ``sample``; at least 2.
    num_starts
        Number of starts, at least 1, evaluated as one batch. The choice fits them a little better
        than other starts, the more so the fewer they are; in low dimension take hundreds.
    num_trials
        Number of grids to try beyond the named ones, at least 0.
    reference_steps
        Evaluations of the fine solution a start, more than `num_steps`.

    Returns
    -------
    Found
        The best of what was tried.

    Raises
    ------
    ValueError
        If an argument is not as above, or the flow is not finite.
    """
    for name, value, least in (
        ("num_steps", num_steps, 2),
        ("num_starts", num_starts, 1),
        ("num_trials", num_trials, 0),
    ):
        check_count(name, value, least)
    check_count("reference_steps", reference_steps, num_steps + 1)
    key_starts, key_trials = jax.random.split(key)
    noise, start, count = model.noise, first_time(model.noise), num_steps - 1
    starts = noise(start)[1] * jax.random.normal(key_starts, (num_starts, *model.event_shape))
    # A model that is no pytree cannot be an argument of a compiled function.
    is_pytree = not jax.tree_util.all_leaves([model])
    ends = (
        partial(_compiled_ends, model)
        if is_pytree
        else jax.jit(partial(_ends, model), static_argnames="solver")
    )

    def grid(spacing: str, steps: int) -> np.ndarray:
        times = time_grid(noise, steps, spacing=spacing, t_min=model.min_time, t_max=start)
        return np.asarray(times)

    def solution(solver: Exponential, times: np.ndarray, orders: np.ndarray) -> np.ndarray:
        found = ends(starts, jnp.asarray(times), jnp.asarray(orders), solver)
        return np.asarray(found, np.float64).reshape(num_starts, -1)

    steps = reference_steps - 1
    fine = solution(_FAMILIES[0], grid("logsnr", steps), np.full(steps, _MAX_ORDER))
    if not np.all(np.isfinite(fine)):
        raise ValueError("The flow of `model` is not finite: its denoiser returns NaN or inf.")
    tried = 0

    def error(solver: Exponential, times: np.ndarray, orders: np.ndarray) -> float:
        nonlocal tried
        tried += 1
        distances = np.sqrt(np.mean((solution(solver, times, orders) - fine) ** 2, 1))
        return float(np.nan_to_num(np.mean(distances), nan=np.inf))

    named = {
        (replace(family, order=order), spacing): error(
            family, grid(spacing, count), np.full(count, order)
        )
        for family in _FAMILIES
        for order in range(1, _MAX_ORDER + 1)
        for spacing in SPACINGS
    }
    draws = np.asarray(jax.random.normal(key_trials, (num_trials, _KNOTS + 1)), np.float64)
    half = num_trials // 2
    firsts = []
    for family in _FAMILIES:
        mine = [name for name in named if replace(name[0], order=_MAX_ORDER) == family]
        solver, spacing = min(mine, key=lambda name: named[name])
        orders, times = np.full(count, solver.order), grid(spacing, count)
        moved = _moved_grids(noise, times, model.min_time)
        firsts.append(
            _Candidate(family, orders, times, moved, np.zeros(_KNOTS), named[solver, spacing])
        )
    shares = np.array_split(draws[:half], len(firsts))
    best = min(
        (_evolved(error, *pair, 0.3) for pair in zip(firsts, shares, strict=True)),
        key=lambda candidate: candidate.error,
    )
    if num_trials > 0:
        best = _evolved(error, _reordered(error, best), draws[half:], 0.15)
    evaluations = num_starts * (reference_steps + tried * num_steps)
    solver = replace(best.family, order=tuple(int(order) for order in best.orders))
    return Found(solver, jnp.asarray(best.times), best.error, named, evaluations)


def _ends(
    model: Denoiser, starts: Array, times: Array, orders: Array, solver: Exponential
) -> Array:
    def end(x: Array) -> Array:
        x = solver(jax.random.key(0), x, times, model.denoise, model.noise, orders=orders)
        return model.denoise(x, times[-1])

    return jax.vmap(end)(starts)


_compiled_ends = jax.jit(_ends, static_argnames="solver")


def _moved_grids(
    noise: Schedule, times: np.ndarray, min_time: ArrayLike
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the grids whose steps are those of `times` multiplied, as a function of theta.

    In log-SNR, the factors are exp of the piecewise linear function with the values theta at
    equidistant knots; a grid that would pass the end of `times` is scaled back to it.
    """
    levels = np.clip(np.asarray(noise.log_snr(times), np.float64), -LOG_SNR_LIMIT, LOG_SNR_LIMIT)
    lengths = np.diff(levels)
    place = np.linspace(0, _KNOTS - 1, len(lengths))

    def moved(theta: np.ndarray) -> np.ndarray:
        changed = lengths * np.exp(np.interp(place, np.arange(_KNOTS), theta))
        changed *= min(1.0, lengths.sum() / changed.sum())
        found = noise.time(jnp.float32(levels[0] + np.cumsum(changed)))
        found = np.maximum(np.asarray(found), np.asarray(min_time, np.float32))
        return np.concatenate([times[:1], found])

    return moved


class _Candidate(NamedTuple):
    """A grid of the family that `moved` makes of theta, and its orders."""

    family: Exponential
    orders: np.ndarray
    times: np.ndarray
    moved: Callable[[np.ndarray], np.ndarray]
    theta: np.ndarray
    error: float


_Error = Callable[[Exponential, np.ndarray, np.ndarray], float]


def _evolved(error: _Error, best: _Candidate, draws: np.ndarray, size: float) -> _Candidate:
    """Move the grid by normal draws that grow with success: a (1+1) evolution strategy."""
    for draw in draws:
        # The last entry makes the whole grid longer or shorter.
        theta = best.theta + size * (draw[:-1] + draw[-1])
        times = best.moved(theta)
        # A grid whose times coincide in single precision has a step to spare, and no place here.
        distinct = bool(np.all(np.diff(times) < 0))
        value = error(best.family, times, best.orders) if distinct else np.inf
        size *= 1.5 if value < best.error else 1.5**-0.25  # one success in five keeps the size
        if value < best.error:
            best = best._replace(theta=theta, times=times, error=value)
    return best


def _reordered(error: _Error, best: _Candidate) -> _Candidate:
    """Change the order of each step in turn where that lessens the error."""
    for step in range(len(best.orders)):
        # A step knows no more values than there were points.
        for order in range(1, min(_MAX_ORDER, step + 1) + 1):
            orders = best.orders.copy()
            orders[step] = order
            if order == best.orders[step]:
                continue
            value = error(best.family, best.times, orders)
            if value < best.error:
                best = best._replace(orders=orders, error=value)
    return best
