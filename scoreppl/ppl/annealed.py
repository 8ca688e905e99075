"""AnnealedScoreMCMC: every draw anneals from pure noise, so draws are independent."""

# NumPyro declares these fields as properties and blackjax its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpyro.util import is_prng_key

from scoreppl.arguments import check_count
from scoreppl.line_integral import Quadrature
from scoreppl.ppl.blocks import check_independent, draw_keys, next_draw
from scoreppl.ppl.contract import ScoreKernel
from scoreppl.ppl.potential import Model, Values
from scoreppl.ppl.starts import check_weight, prior_values
from scoreppl.samplers.annealed import (
    LevelTuning,
    anneal,
    initial_tuning,
    noise_ladder,
    num_score_evaluations,
)
from scoreppl.samplers.inner import Inner
from scoreppl.samplers.level_moves import level_moves
from scoreppl.samplers.split_gibbs import split_gibbs
from scoreppl.samplers.weight_moves import WEIGHT_MOVES, WeightMove
from scoreppl.target import Target

# Beyond, single precision no longer tells one level's noise from the next.
_MIN_SCALE, _MAX_SCALE = 2e-4, 1e4
# With one level the start, pure noise, would already be the last.
_MIN_LEVELS = 2
_INNERS = ("split", "mala", "hmc")


class AnnealedState(NamedTuple):
    """State of an annealed kernel: the current draw and the block that it comes from.

    Attributes
    ----------
    i
        Draws so far, warm-up included.
    num_warmup
        Draws of the warm-up, after which nothing adapts, whoever resumes the chain.
    z
        Unconstrained values of the current draw.
    accept_prob, acceptance_rate_level
        Its mean acceptance, over all levels and by level (noisiest first).
    is_nan
        Whether an inner step of it met a value that was not a number.
    diverging
        Whether the draw itself has weight zero, or none that is a number: leave it out.
    num_score_evaluations
        Score evaluations that it cost, for each event of a score site.
    index
        Place of the next draw in the block.
    block_z, block_acceptance, block_is_nan, block_diverging
        The draws of the block.
    tuning
        Step sizes and preconditioners by level.
    rng_key
        Key of the chain; draw number i uses ``fold_in(rng_key, i)``.
    """

    i: Array
    num_warmup: Array
    z: Values
    accept_prob: Array
    acceptance_rate_level: Array
    is_nan: Array
    diverging: Array
    num_score_evaluations: Array
    index: Array
    block_z: Values
    block_acceptance: Array
    block_is_nan: Array
    block_diverging: Array
    tuning: LevelTuning
    rng_key: Array


class AnnealedScoreMCMC(ScoreKernel):
    r"""Independent draws, each annealed from pure noise over a ladder of noise levels.

    At each level one of two families of inner moves acts. ``"split"`` draws a cleaner event v
    given the noisy one by a short reverse diffusion, then moves (u, theta) on the known density
    w(u, theta) N(u; v, s^2 - r^2) by an exact kernel; it needs neither a backward pass through the
    network nor a conservative score (`scoreppl.samplers.split_gibbs`). ``"mala"`` and ``"hmc"``
    take a reverse step and then Metropolis moves on p_t(x) w(D(x, t), theta) with the line
    integral (`scoreppl.samplers.level_moves`). Ordinary latents move with the weight's density.

    Parameters
    ----------
    model
        NumPyro model with `ScorePrior` sites.
    inner
        ``"split"``, ``"mala"``, ``"hmc"`` or a `scoreppl.samplers.inner.Inner`. None: ``"hmc"``
        if every score site has a log density (analytic models, energy networks), else
        ``"split"``.
    num_levels
        Levels of the ladder, uniform in log-SNR from noise sd 7.4 down to the noise level; at
        least 2, since a single one anneals nothing.
    levels
        The ladder itself: decreasing noise standard deviations sigma / alpha in data units,
        between 2e-4 and 1e4, at least 2.
    steps_per_level
        Sweeps (``"split"``, default 1) or moves (otherwise, default 12) a level. Every sweep
        after the first, and every move, comes with a jump through a noisier level, which moves
        mass between modes.
    num_reverse_steps
        ``"split"``: network calls for one draw of the cleaner event. If the answer changes with
        twice as many, two are too few, and more levels need not make up for it.
    weight_move
        ``"split"``: ``"hmc"``, ``"mala"``, ``"nuts"``, or without gradient ``"random_walk"``,
        ``"slice"``, or a `scoreppl.samplers.weight_moves.WeightMove`.
    num_weight_steps
        ``"split"``: moves of (u, theta) a sweep.
    num_integration_steps
        ``"hmc"``: leapfrog steps a move.
    noise_level
        Time at which the ladder ends; default: each site's own.
    quadrature
        ``"mala"``, ``"hmc"``: rule for the log-ratio; None takes exact log densities where all
        score sites have one and Simpson's rule otherwise.
    block_size
        Draws made at a time in each chain, so that the network sees batches.
    batch_nodes
        Evaluate quadrature nodes in one batched call.

    Notes
    -----
    Warm-up tunes the step size and a diagonal preconditioner of each level on draws that are
    thrown away, then freezes them. Draws are independent, so R-hat and ESS say nothing of the
    bias that incomplete annealing leaves: compare a run with more levels and steps. With
    ``noise_level`` 0 the ladder ends at log-SNR 10 (sd 0.0067).

    Extra fields: ``acceptance_rate_level``, ``accept_prob``, ``is_nan``, ``diverging`` (the draw
    itself has weight zero or NaN: leave it out), ``num_score_evaluations``. Chain methods,
    resuming and pickling work as for every NumPyro kernel; `numpyro.infer.Gibbs` does not apply
    to independent draws.
    """

    draws_are_independent = True
    default_fields = ("z", "acceptance_rate_level", "accept_prob", "is_nan", "diverging")

    def __init__(
        self,
        model: Model,
        *,
        inner: str | Inner | None = None,
        num_levels: int = 128,
        levels: ArrayLike | None = None,
        steps_per_level: int | None = None,
        num_reverse_steps: int = 2,
        weight_move: str | WeightMove = "hmc",
        num_weight_steps: int = 4,
        num_integration_steps: int = 5,
        noise_level: float | None = None,
        quadrature: str | Quadrature | None = None,
        block_size: int = 16,
        batch_nodes: bool = True,
    ) -> None:
        super().__init__(model, noise_level=noise_level)
        if levels is None:
            check_count("num_levels", num_levels, _MIN_LEVELS)
        counts = {
            "steps_per_level": 1 if steps_per_level is None else steps_per_level,
            "num_reverse_steps": num_reverse_steps,
            "num_weight_steps": num_weight_steps,
            "num_integration_steps": num_integration_steps,
            "block_size": block_size,
        }
        for name, count in counts.items():
            check_count(name, count, 1)
        if isinstance(inner, str) and inner not in _INNERS:
            known = ", ".join(map(repr, _INNERS))
            raise ValueError(f"`inner={inner!r}` is not known; use one of {known} or an Inner.")
        if isinstance(weight_move, str) and weight_move not in WEIGHT_MOVES:
            known = ", ".join(map(repr, WEIGHT_MOVES))
            raise ValueError(f"`weight_move={weight_move!r}` is not known; use one of {known}.")
        self._levels = None if levels is None else _checked_levels(levels)
        self._num_levels = num_levels if self._levels is None else len(self._levels)
        self._inner = inner
        self._steps_per_level = steps_per_level
        self._num_reverse_steps = num_reverse_steps
        self._weight_move = weight_move
        self._num_weight_steps = num_weight_steps
        self._num_integration_steps = num_integration_steps
        self._quadrature = quadrature
        self._block_size = block_size
        self._batch_nodes = batch_nodes

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple,
        model_kwargs: dict,
    ) -> AnnealedState:
        """Build the state of one chain, or of a batch of chains; nothing is sampled yet."""
        model_kwargs = model_kwargs or {}
        target = self._target(model_args, model_kwargs)
        check_independent(self._model, target, init_params, model_args, model_kwargs)
        check_weight(self._model, model_args, model_kwargs, target)
        start = partial(prior_values, self._model, model_args, model_kwargs)

        def chain(key: Array) -> AnnealedState:
            inner, z = self._build_inner(target), start(key)
            rates = jnp.zeros(self._num_levels)
            block = (self._block_size,)
            return AnnealedState(
                i=jnp.zeros((), int),
                num_warmup=jnp.asarray(num_warmup, int),
                z=z,
                accept_prob=jnp.zeros(()),
                acceptance_rate_level=rates,
                is_nan=jnp.zeros((), bool),
                diverging=jnp.zeros((), bool),
                num_score_evaluations=jnp.zeros((), int),
                index=jnp.asarray(self._block_size),
                block_z=jax.tree.map(lambda v: jnp.zeros(block + v.shape, v.dtype), z),
                block_acceptance=jnp.zeros(block + rates.shape),
                block_is_nan=jnp.zeros(block, bool),
                block_diverging=jnp.zeros(block, bool),
                tuning=initial_tuning(target, z, self._ladder(target), inner),
                rng_key=key,
            )

        self._sample_fn = self.sample
        # Jitted, so that it compiles once and not operation by operation.
        return jax.jit(chain if is_prng_key(rng_key) else jax.vmap(chain))(rng_key)

    def sample(self, state: AnnealedState, model_args: tuple, model_kwargs: dict) -> AnnealedState:
        """Give the next draw of each chain, making a new block where the last one is spent."""
        model_kwargs = model_kwargs or {}
        target = self._target(model_args, model_kwargs)
        start = partial(prior_values, self._model, model_args, model_kwargs)
        refill = partial(self._refill, target=target, start=start)
        return next_draw(state, self._block_size, refill, self._take)

    def _refill(self, chains: AnnealedState, target: Target, start: Callable) -> AnnealedState:
        def keys_of(key: Array, i: Array) -> Array:
            return jax.vmap(jax.random.split)(draw_keys(key, i, self._block_size))

        keys = jax.vmap(keys_of)(chains.rng_key, chains.i)
        ladder, inner = self._ladder(target), self._build_inner(target)
        block = anneal(
            keys[:, :, 0],
            jax.vmap(jax.vmap(start))(keys[:, :, 1]),
            target,
            ladder,
            chains.tuning,
            inner,
            adapt=chains.i[0] < chains.num_warmup[0],
        )
        cost = num_score_evaluations(target, chains.z, ladder, inner)
        return chains._replace(
            index=jnp.zeros_like(chains.index),
            block_z=block.position,
            block_acceptance=block.acceptance_rate,
            block_is_nan=block.num_nan > 0,
            block_diverging=~block.has_weight,
            tuning=block.tuning,
            num_score_evaluations=jnp.full_like(chains.num_score_evaluations, cost),
        )

    def _take(self, state: AnnealedState) -> AnnealedState:
        rates = state.block_acceptance[state.index]
        return state._replace(
            i=state.i + 1,
            z=jax.tree.map(lambda v: v[state.index], state.block_z),
            accept_prob=jnp.mean(rates),
            acceptance_rate_level=rates,
            is_nan=state.block_is_nan[state.index],
            diverging=state.block_diverging[state.index],
            index=state.index + 1,
        )

    def _ladder(self, target: Target) -> Array:
        if self._levels is not None:
            return jnp.asarray(-2.0 * np.log(self._levels), jnp.float32)
        return noise_ladder(target, self._num_levels)

    def _build_inner(self, target: Target) -> Inner:
        inner = self._inner
        if isinstance(inner, Inner):
            return inner
        if inner is None:
            inner = "hmc" if target.has_log_density else "split"
        if inner == "split":
            move = self._weight_move
            return split_gibbs(
                WEIGHT_MOVES[move]() if isinstance(move, str) else move,
                num_sweeps=self._steps_per_level or 1,
                num_steps=self._num_weight_steps,
                num_reverse_steps=self._num_reverse_steps,
            )
        hmc = inner == "hmc"
        return level_moves(
            num_steps=self._steps_per_level or 12,
            num_integration_steps=self._num_integration_steps if hmc else 1,
            quadrature=self._quadrature,
            batch_nodes=self._batch_nodes,
            target_acceptance_rate=0.8 if hmc else 0.6,
        )

    def noise_levels(self, *args: object, **kwargs: object) -> Array:
        """Noise standard deviations sigma / alpha of the ladder for the model's arguments."""
        return jnp.exp(-0.5 * self._ladder(self._target(args, kwargs)))

    def get_diagnostics_str(self, state: AnnealedState) -> str:
        """Return acceptance and cost of the last draw for the progress bar."""
        return (
            f"{state.num_score_evaluations} score evaluations a draw. "
            f"acc. prob={state.accept_prob:.2f}"
        )


def _checked_levels(levels: ArrayLike) -> np.ndarray:
    values = np.asarray(levels, float)
    is_usable = values.ndim == 1 and np.all((values > 0) & np.isfinite(values))
    if not is_usable or len(values) < _MIN_LEVELS:
        raise ValueError(
            f"`levels` must be a vector of at least {_MIN_LEVELS} positive, finite noise standard "
            "deviations."
        )
    if values[0] > _MAX_SCALE or values[-1] < _MIN_SCALE:
        raise ValueError(
            f"`levels` must lie between {_MIN_SCALE:g} and {_MAX_SCALE:g} in data units; beyond, "
            "rescale the data."
        )
    if not np.all(np.diff(values) < 0):
        raise ValueError("`levels` must decrease, from the noisiest level to the last.")
    return values
