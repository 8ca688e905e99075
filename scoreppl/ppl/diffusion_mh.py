"""DiffusionMH: a pretrained network as an exact proposal for a model that has a density."""

# NumPyro declares these fields as properties, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from numpyro.handlers import seed
from numpyro.infer import HMC, NUTS
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.util import unconstrain_fn
from numpyro.util import is_prng_key

from scoreppl.arguments import check_count
from scoreppl.ppl.block import Block, Names
from scoreppl.ppl.contract import ScoreKernel
from scoreppl.ppl.network_moves import NetworkMoves, check_networks, check_standardise
from scoreppl.ppl.one_law import check_one_law
from scoreppl.ppl.potential import Model, Values, log_weight, score_sites, weight_of_model
from scoreppl.samplers.level_choice import (
    LevelGains,
    add_gain,
    draw_level,
    level_probabilities,
    no_gains,
)
from scoreppl.samplers.reference import Reference
from scoreppl.score import ScoreModel

_COORDINATES = ("constrained", "unconstrained")
_COVARIANCES = ("full", "scalar", None)


class DiffusionMHState(NamedTuple):
    """State of the kernel.

    Attributes
    ----------
    i, num_warmup
        Transitions so far, warm-up included, and those of the warm-up.
    z
        Unconstrained values of all latents.
    accept_prob, is_nan
        Acceptance of the last network move, and whether a proposal's weight was not a number.
    noise_level
        Noise standard deviation, in units of the network's data, that it went up to.
    squared_jump
        Squared distance that it moved, in the network's coordinates; 0 if it was rejected.
    mode_change
        Whether it crossed a valley: the density half-way was below e^-1 times that of either end.
    diverging
        Whether the local move diverged.
    num_score_evaluations, num_density_evaluations
        Cost of the last transition: of the network, and of the model's density (a gradient of the
        local kernel counts as one).
    level_probabilities
        Of the levels that moves go up to, lowest first.
    gains
        What those probabilities are tuned by in warm-up.
    ladder, reference
        Log-SNRs of the noise levels, and what the network's own draws say of them.
    local
        State of the local kernel, or None.
    rng_key
        Key of the next transition.
    """

    i: Array
    num_warmup: Array
    z: Values
    accept_prob: Array
    is_nan: Array
    noise_level: Array
    squared_jump: Array
    mode_change: Array
    diverging: Array
    num_score_evaluations: Array
    num_density_evaluations: Array
    level_probabilities: Array
    gains: LevelGains
    ladder: Array
    reference: Reference
    local: Any
    rng_key: Array


class DiffusionMH(ScoreKernel):
    r"""Metropolis moves that a network proposes, on a model that has a density.

    A move noises the network's block of latents up to a level, draws it anew by the network's
    reverse diffusion, and accepts by a ratio that knows every density on the way
    (`scoreppl.samplers.path_moves`). It leaves the model's posterior invariant **for any
    network**: a wrong one costs acceptance, never correctness. Up to the highest level it hops
    between modes. Between such moves all latents move by `local`.

    Parameters
    ----------
    model
        NumPyro model with a density: no `ScorePrior` sites.
    networks
        Score models that resemble the posterior, by the site that they propose, or by a tuple of
        sites whose values, strung together in that order, are one event of the network.
    local
        ``"nuts"``, a NumPyro `HMC` or `NUTS` kernel on the same model, or None for no local moves
        (inside `numpyro.infer.Gibbs`).
    coordinates
        What the network knows: ``"constrained"``, values as the model sees them, or
        ``"unconstrained"``, mapped to the reals as NumPyro does. The Jacobians are taken care of.
    standardise
        Location and scale by the keys of `networks`, for networks that know values less location,
        over scale.
    num_levels
        Levels of the ladder from data to noise: steps of a path from the top.
    num_proposals
        Paths drawn at a time and weighed against each other.
    covariance
        Reverse kernels with the ``"full"`` covariance from the network's Jacobian, 1 + 2 d
        evaluations a step, or a ``"scalar"`` one. None: full up to 10 dimensions.
    num_pilots
        Draws of the network, of 100 evaluations each, that ladder and kernels are fitted on.

    Notes
    -----
    In warm-up the levels that moves go up to are drawn evenly; then with probabilities in
    proportion to what they gained per evaluation: squared jump, and changes of mode. Extra fields:
    those of `DiffusionMHState`.
    """

    default_fields = ("z", "diverging", "accept_prob", "is_nan")

    def __init__(
        self,
        model: Model,
        networks: Mapping[Names, ScoreModel],
        *,
        local: str | HMC | None = "nuts",
        coordinates: str = "constrained",
        standardise: Mapping[Names, tuple[ArrayLike, ArrayLike]] | None = None,
        num_levels: int = 32,
        num_proposals: int = 4,
        covariance: str | None = None,
        num_pilots: int = 256,
    ) -> None:
        super().__init__(model)
        counts = {"num_levels": (num_levels, 2), "num_proposals": (num_proposals, 1)}
        for name, (count, least) in (counts | {"num_pilots": (num_pilots, 2)}).items():
            check_count(name, count, least)
        for name, value, known in (
            ("coordinates", coordinates, _COORDINATES),
            ("covariance", covariance, _COVARIANCES),
        ):
            if not isinstance(value, str | None) or value not in known:
                choices = ", ".join(map(repr, known))
                raise ValueError(f"`{name}={value!r}` is not known; use one of {choices}.")
        networks = check_networks(networks)
        self._block = Block(networks, coordinates, check_standardise(standardise, networks))
        self._local = _local_kernel(local, model)
        self._num_levels = num_levels
        self._num_proposals = num_proposals
        self._covariance = covariance
        self._num_pilots = num_pilots

    @property
    def networks(self) -> Mapping[Names, ScoreModel]:
        """The networks that propose, by site or tuple of sites."""
        return self._block.networks

    def wrap_model(self, wrapper: Any) -> "DiffusionMH":
        """Return a copy on ``wrapper(model)``, to be initialised anew."""
        kernel = super().wrap_model(wrapper)
        kernel._local = None if self._local is None else self._local.wrap_model(wrapper)
        return kernel

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple,
        model_kwargs: dict,
    ) -> DiffusionMHState:
        """Build the state of one chain, or of a batch of chains, and fit the ladder.

        Latents start at draws from their priors unless `init_params` gives them.
        """
        model_kwargs = model_kwargs or {}
        if scores := list(score_sites(self._model, model_args, model_kwargs)):
            raise ValueError(
                f"Site(s) {scores} are ScorePriors, which have no density, so nothing can be exact "
                "for them: use sp.GuidedDiffusion or sp.AnnealedScoreMCMC."
            )
        if init_params and GIBBS_SITES_KWARG in model_kwargs:
            # Gibbs hands over constrained values of all sites of the block.
            fixed = seed(self._model, jax.random.key(0))
            init_params = unconstrain_fn(fixed, model_args, model_kwargs, init_params)
        one = is_prng_key(rng_key)
        split = jax.random.split if one else jax.vmap(jax.random.split, out_axes=1)
        key_start, key_chain = split(rng_key)
        start = weight_of_model(
            self._model, key_start, model_args, model_kwargs, init_params=init_params
        )
        has_no_mover = self._local is None and set(start.site_names) - set(self._block.sites)
        if has_no_mover:
            raise ValueError(
                f"Nothing moves the latent(s) {sorted(has_no_mover)}: use `local='nuts'`, or give "
                "them a kernel of their own in numpyro.infer.Gibbs."
            )
        check_one_law(self._model, model_args, model_kwargs)
        moves = self._moves(model_args, model_kwargs)
        initial = jax.tree.map(lambda v: jnp.asarray(v, float), start.initial)
        moves.check(jax.tree.map(lambda v: v if one else v[0], initial))

        def chain(key: Array, z: Values) -> DiffusionMHState:
            key_pilots, key_local, key = jax.random.split(key, 3)
            ladder, reference = moves.fit(key_pilots, z, self._num_pilots, self._num_levels)
            local = None
            if self._local is not None:
                local = self._local.init(key_local, num_warmup, z, model_args, model_kwargs)
            gains = no_gains(len(self._tops))
            zero = jnp.zeros(())
            return DiffusionMHState(
                i=jnp.zeros((), int),
                num_warmup=jnp.asarray(num_warmup, int),
                z=z,
                accept_prob=zero,
                is_nan=jnp.zeros((), bool),
                noise_level=zero,
                squared_jump=zero,
                mode_change=jnp.zeros((), bool),
                diverging=jnp.zeros((), bool),
                num_score_evaluations=jnp.zeros((), int),
                num_density_evaluations=jnp.zeros((), int),
                level_probabilities=level_probabilities(gains, self._tops),
                gains=gains,
                ladder=ladder,
                reference=reference,
                local=local,
                rng_key=key,
            )

        self._sample_fn = self.sample
        # Jitted, so that it compiles once and not operation by operation.
        state = jax.jit(chain if one else jax.vmap(chain))(key_chain, initial)
        fitted = (state.ladder, state.reference.denoising_variance)
        if not isinstance(state.i, Tracer) and not all(jnp.all(jnp.isfinite(v)) for v in fitted):
            raise ValueError(
                "The networks' own draws, or their denoiser on them, are not finite numbers, so "
                "nothing can be proposed. Look at network.sample(key, (10,))."
            )
        return state

    def sample(
        self, state: DiffusionMHState, model_args: tuple, model_kwargs: dict
    ) -> DiffusionMHState:
        """Advance the chain, or the batch of chains, by a network move and a local one."""
        moves = self._moves(model_args, model_kwargs or {})

        def step(state: DiffusionMHState) -> DiffusionMHState:
            moved = self._network_step(state, moves)
            return self._local_step(moved, model_args, model_kwargs or {})

        return step(state) if is_prng_key(state.rng_key) else jax.vmap(step)(state)

    def refresh(
        self, state: DiffusionMHState, model_args: tuple, model_kwargs: dict
    ) -> DiffusionMHState:
        """Evaluate what is known at ``state.z`` again, for `numpyro.infer.Gibbs`."""
        if self._local is None:
            return state
        return state._replace(local=self._local.refresh(state.local, model_args, model_kwargs))

    @property
    def _tops(self) -> Array:
        """Levels that moves go up to, in eight steps from low to the top."""
        count = min(8, self._num_levels)
        return jnp.round(jnp.linspace(self._num_levels / count, self._num_levels, count)).astype(
            int
        )

    def _moves(self, args: tuple, kwargs: dict) -> NetworkMoves:
        weight = log_weight(self._model, *args, **kwargs)
        return NetworkMoves(
            self._model, args, kwargs, weight, self._block, self._covariance, self._num_proposals
        )

    def _network_step(self, state: DiffusionMHState, moves: NetworkMoves) -> DiffusionMHState:
        key, key_level, key_move = jax.random.split(state.rng_key, 3)
        index = draw_level(key_level, state.level_probabilities)
        top = self._tops[index]
        move = moves.move(key_move, state.z, top, state.ladder, state.reference)
        i = state.i + 1
        tuned = add_gain(
            state.gains, index, move.expected_squared_jump, move.accept_prob * move.is_across_valley
        )
        is_warmup = state.i < state.num_warmup
        gains = jax.tree.map(lambda new, old: jnp.where(is_warmup, new, old), tuned, state.gains)
        probabilities = jnp.where(
            i == state.num_warmup,
            level_probabilities(gains, self._tops),
            state.level_probabilities,
        )
        return state._replace(
            i=i,
            z=move.z,
            accept_prob=move.accept_prob,
            is_nan=move.is_nan,
            noise_level=move.noise_level,
            squared_jump=move.squared_jump,
            mode_change=move.is_accepted & move.is_across_valley,
            num_score_evaluations=move.num_score_evaluations,
            num_density_evaluations=move.num_density_evaluations,
            level_probabilities=probabilities,
            gains=gains,
            rng_key=key,
        )

    def _local_step(self, state: DiffusionMHState, args: tuple, kwargs: dict) -> DiffusionMHState:
        if self._local is None:
            return state
        local = self._local.refresh(state.local._replace(z=state.z), args, kwargs)
        local = self._local.sample(local, args, kwargs)
        return state._replace(
            z=local.z,
            local=local,
            diverging=local.diverging,
            num_density_evaluations=state.num_density_evaluations + 1 + local.num_steps,
        )

    def get_diagnostics_str(self, state: DiffusionMHState) -> str:
        """Return what the last network move did, for the progress bar."""
        return f"noise level {state.noise_level:.2g}. acc. prob={state.accept_prob:.2f}"


def _local_kernel(local: str | HMC | None, model: Model) -> HMC | None:
    if local is None:
        return None
    if isinstance(local, str) and local == "nuts":
        return NUTS(model)
    if not isinstance(local, HMC):
        raise ValueError(
            f"`local={local!r}` is not known; use 'nuts', a numpyro.infer.HMC or NUTS kernel, or "
            "None."
        )
    if local.model is not model:
        raise ValueError("`local` is a kernel of another model; build it on the same one.")
    return local
