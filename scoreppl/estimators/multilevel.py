"""Multilevel Monte Carlo over the step counts of a reverse diffusion."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.arguments import check_count, check_positive
from scoreppl.estimators.coupling import SECOND_ORDER, check_steps, walk
from scoreppl.score import ScoreModel
from scoreppl.score.model import check_solver, reverse_times
from scoreppl.solvers import Solver


class Levels(NamedTuple):
    """What was found at each level; leading axes run over the levels, the coarsest first.

    Attributes
    ----------
    num_steps
        Steps of the fine diffusion, shape ``(levels,)``.
    means
        Mean of f in the first entry, then mean changes of f from one step count to the next.
    variances
        Variances of the same, of one draw.
    costs
        Evaluations of the denoiser by one draw, that is by a pair of coupled diffusions.
    draws
        Numbers of draws.
    """

    num_steps: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    costs: np.ndarray
    draws: np.ndarray


class Multilevel(NamedTuple):
    """An expectation under the finest reverse diffusion; see `multilevel`.

    Attributes
    ----------
    value
        Sum of the levels' means, of the shape that `fn` returns.
    standard_error
        Of `value`; infinite where f is zero at all draws. The bias of the finest diffusion is not
        in it: that shrinks as its number of steps grows, and ``levels.means[-1]`` is what the last
        refinement changed.
    levels
        Means, variances, costs and draws level by level.
    num_evaluations
        Evaluations of the denoiser, those of the pilots left out.
    num_pilot_evaluations
        Those of the pilots.
    single_level_evaluations
        Evaluations that plain draws of the finest diffusion need for the same standard error (the
        greatest over the components of f), from their variance at the last level.
    """

    value: np.ndarray
    standard_error: np.ndarray
    levels: Levels
    num_evaluations: int
    num_pilot_evaluations: int
    single_level_evaluations: float


def multilevel(
    key: Array,
    fn: Callable[[Array], Array],
    score_model: ScoreModel,
    *,
    num_steps: Sequence[int] = (8, 16, 32, 64),
    target_standard_error: ArrayLike | None = None,
    num_evaluations: int | None = None,
    solver: Solver = SECOND_ORDER,
    spacing: str | ArrayLike | Sequence[float] = "logsnr",
    data_scale: float = 1.0,
    evaluations_per_step: int = 1,
    num_pilots: int = 256,
    block_size: int = 128,
) -> Multilevel:
    r"""Estimate E[f(x_0)] under a fine reverse diffusion, mostly by draws of coarse ones.

    .. math:: E[f_L] = E[f_0] + \sum_{l=1}^{L} E[f_l - f_{l-1}],

    where f_l is f at a draw in ``num_steps[l]`` steps, and the two draws of a difference share
    their noise (`coupled_draws`), so that it varies little and few draws of the costly levels
    suffice (Giles, Operations Research 56, 2008, doi:10.1287/opre.1070.0496).

    Parameters
    ----------
    key
        PRNG key.
    fn
        Function of one event, in JAX; an array of any shape.
    score_model
        The score model.
    num_steps
        Steps of the levels, increasing, each a multiple of the one before. A level costs
        ``num_steps + 1`` evaluations a draw and the diffusion below it as well.
    target_standard_error
        Standard error to be reached, a number or of the shape of `fn`'s values; or
    num_evaluations
        evaluations of the denoiser to spend, at least one batch of each level. Exactly one of the
        two.
    solver
        As of `coupled_draws`. Coupled paths with noise draw together slowly as steps are added, so
        that a deterministic solver, the default, gains far more.
    spacing, data_scale
        As of `coupled_draws`.
    evaluations_per_step
        Of the solver: 2 for `sp.solvers.Heun`, else 1.
    num_pilots
        Draws of each level from which the allocation is fitted. They enter no estimate, so that
        the estimate is unbiased for the finest diffusion whatever they are.
    block_size
        Draws in one batch. The draws of a level are rounded to a multiple of it, at least one.

    Returns
    -------
    Multilevel
        The estimate, its error, and what every level gave and cost.

    Raises
    ------
    ValueError
        If an argument is not as above, or `fn` is not finite at a draw.

    Warns
    -----
    UserWarning
        If `fn` is zero at all draws.

    Notes
    -----
    With variances V_l and costs C_l the draws of level l are in proportion to sqrt(V_l / C_l),
    which is the cheapest for one component; for several each level takes the most that one of
    them needs for its target, or the mean of their shares of the budget. The standard error reached
    differs a little from the target, since the pilots only estimate V_l.
    """
    steps = check_steps(num_steps)
    check_solver(solver)
    for name, value in (
        ("evaluations_per_step", evaluations_per_step),
        ("num_pilots", num_pilots),
        ("block_size", block_size),
    ):
        check_count(name, value, 1 if name == "evaluations_per_step" else 2)
    if (target_standard_error is None) == (num_evaluations is None):
        raise ValueError("Give either `target_standard_error` or `num_evaluations`.")
    scale = check_positive("data_scale", data_scale)
    times = reverse_times(score_model, steps[-1] + 1, spacing)
    is_pytree = not jax.tree_util.all_leaves([score_model])
    block = _compiled_block if is_pytree else _block
    each = np.array([n * evaluations_per_step + 1 for n in steps], float)
    costs = each + np.concatenate([[0.0], each[:-1]])

    def values(key: Array, level: int, num_blocks: int) -> np.ndarray:
        """Return f at coarse and fine draws, shape ``(1 or 2, draws, *shape)``."""
        grid = times[:: steps[-1] // steps[level]]
        ratios = (1,) if level == 0 else (steps[level] // steps[level - 1], 1)
        found = [
            np.asarray(block(score_model, k, grid, ratios, solver, fn, block_size, scale))
            for k in jax.random.split(key, num_blocks)
        ]
        joined = np.concatenate(found).astype(np.float64)
        if not np.all(np.isfinite(joined)):
            raise ValueError(
                f"`fn` is NaN or infinite at draws in {steps[level]} steps; it must be finite "
                "wherever the score model has draws."
            )
        return np.moveaxis(joined, 1, 0)

    key_pilot, key_main = jax.random.split(key)
    pilot_blocks = -(-num_pilots // block_size)
    pilots = [
        _differences(values(jax.random.fold_in(key_pilot, level), level, pilot_blocks))
        for level in range(len(steps))
    ]
    variances = np.stack([pilot.var(0, ddof=1) for pilot in pilots])
    # What no pilot of a level shows may still happen to one in so many.
    unseen = variances.max(0, keepdims=True) / (pilot_blocks * block_size)
    variances = np.where(variances == 0, unseen, variances)
    counts = _allocation(variances, costs, target_standard_error, num_evaluations)
    if num_evaluations is not None and not any(np.any(pilot) for pilot in pilots):
        # Zero at all pilots: what there is to spend goes into looking for more.
        counts = np.full(len(costs), num_evaluations / costs.sum())
    rounding = np.ceil if num_evaluations is None else np.floor
    blocks = np.maximum(rounding(counts / block_size), 1).astype(int)

    found = [values(jax.random.fold_in(key_main, i), i, int(n)) for i, n in enumerate(blocks)]
    differences = [_differences(v) for v in found]
    draws = blocks * block_size
    levels = Levels(
        np.array(steps),
        np.stack([d.mean(0) for d in differences]),
        np.stack([d.var(0, ddof=1) for d in differences]),
        costs.astype(int),
        draws,
    )
    shape = (len(steps),) + (1,) * (levels.means.ndim - 1)
    squared_error = np.sum(levels.variances / draws.reshape(shape), axis=0)
    is_empty = np.all([np.all(v == 0, axis=(0, 1)) for v in found], axis=0)
    if np.any(is_empty):
        warnings.warn(
            "`fn` is zero at all draws, so that nothing is known of its mean; use more draws, or "
            "sp.estimators.rare_event.",
            UserWarning,
            stacklevel=2,
        )
    squared_error = np.where(is_empty, np.inf, squared_error)
    finest = found[-1][-1].var(0, ddof=1)
    plain = np.divide(finest, squared_error, out=np.zeros_like(finest), where=squared_error > 0)
    return Multilevel(
        levels.means.sum(0),
        np.sqrt(squared_error),
        levels,
        int(draws @ costs),
        int(pilot_blocks * block_size * costs.sum()),
        float(np.max(plain) * each[-1]),
    )


def _allocation(
    variances: np.ndarray, costs: np.ndarray, target: ArrayLike | None, budget: int | None
) -> np.ndarray:
    """Return the draws of each level, not yet whole numbers."""
    spread = np.sqrt(variances.reshape(len(costs), -1))
    weight = spread * np.sqrt(costs)[:, None]  # sqrt(V_l C_l)
    if budget is not None:
        budget = check_count("num_evaluations", budget, 1)
        varies = weight.sum(0) > 0
        if not np.any(varies):
            return np.zeros(len(costs))
        return budget * np.mean(weight[:, varies] / weight[:, varies].sum(0), axis=1) / costs
    goal = np.asarray(target, np.float64)
    if not np.all(goal > 0) or not np.all(np.isfinite(goal)):
        raise ValueError(f"`target_standard_error={target}` must be positive and finite.")
    try:
        goal = np.broadcast_to(goal, variances.shape[1:]).ravel()
    except ValueError as error:
        raise ValueError(
            f"`target_standard_error` of shape {goal.shape} must be a number or have the shape "
            f"{variances.shape[1:]} of `fn`'s values."
        ) from error
    return np.max(spread / np.sqrt(costs)[:, None] * weight.sum(0) / goal**2, axis=1)


def _differences(values: np.ndarray) -> np.ndarray:
    return values[0] if len(values) == 1 else values[1] - values[0]


def _block(
    model: ScoreModel,
    key: Array,
    times: Array,
    ratios: tuple[int, ...],
    solver: Solver,
    fn: Callable[[Array], Array],
    size: int,
    data_scale: ArrayLike,
) -> Array:
    """Return f at a batch of coupled draws, shape ``(size, len(ratios), *shape)``."""

    def one(key: Array) -> Array:
        return jax.vmap(fn)(walk(model, key, times, ratios, solver, data_scale))

    return jax.vmap(one)(jax.random.split(key, size))


_compiled_block = partial(jax.jit, static_argnames=("ratios", "solver", "fn", "size"))(_block)
