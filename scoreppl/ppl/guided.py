"""GuidedDiffusion: independent draws by a guided reverse process, with exact path weights."""

# NumPyro declares these fields as properties, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from numpyro.util import is_prng_key

from scoreppl.arguments import check_count, check_positive
from scoreppl.guidance import FullCovariance, Guidance, LineSearch
from scoreppl.guidance.covariance import FULL_COVARIANCE_LIMIT
from scoreppl.guidance.differentiable import check_differentiable
from scoreppl.ppl.blocks import (
    OrdinaryPrior,
    check_independent,
    draw_keys,
    next_draw,
    ordinary_prior,
)
from scoreppl.ppl.contract import ScoreKernel
from scoreppl.ppl.potential import Model, Values
from scoreppl.ppl.starts import check_weight
from scoreppl.samplers import proposal
from scoreppl.samplers.guided import Particles, guide
from scoreppl.samplers.proposal import LatentProposal
from scoreppl.samplers.reference import (
    Reference,
    draw_prior,
    fit_reference,
    score_values,
)
from scoreppl.target import Target

_ACCEPT = ("independence", None)


class GuidedState(NamedTuple):
    """State of the kernel: the current draw and the block that the next ones come from.

    Attributes
    ----------
    i, num_warmup
        Draws so far, warm-up included, and those of the warm-up.
    z
        Unconstrained values of the current draw.
    log_weight
        Log weight of the path proposed last, whether or not it was accepted.
    current_log_weight
        Log weight of the path that `z` belongs to.
    accept_prob
        Probability with which the last path was accepted.
    is_nan
        Whether its weight was not a number or zero, so that it could not be accepted.
    num_score_evaluations
        Score evaluations of a draw, for each event of a score site.
    index
        Place of the next draw in the block.
    target_weight
        What the log weight of `z` is before the density of the latents' proposal is taken off,
        had they been proposed where they ended.
    block_z, block_log_weight, block_target_weight
        The same, and the log weights, of the paths of the block.
    ladder, reference
        The discretised prior: log-SNRs of its steps and variances there, fitted on pilot draws
        before the first block.
    latent_proposal
        The proposal of the ordinary latents, fitted in warm-up and then frozen.
    rng_key
        Key of the chain; a draw's key depends on its number alone.
    """

    i: Array
    num_warmup: Array
    z: Values
    log_weight: Array
    current_log_weight: Array
    accept_prob: Array
    is_nan: Array
    num_score_evaluations: Array
    target_weight: Array
    index: Array
    block_z: Values
    block_log_weight: Array
    block_target_weight: Array
    ladder: Array
    reference: Reference
    latent_proposal: LatentProposal
    rng_key: Array


class GuidedDiffusion(ScoreKernel):
    r"""Independent paths of a guided reverse diffusion, corrected by their exact weights.

    A path starts from noise and follows the guided denoiser down to data; ordinary latents are
    proposed beside it, from a mixture of their prior and a normal law fitted in warm-up, and moved
    by Metropolis steps once the path has ended, which its weight allows as it is. That weight is
    exact for the *discretised* prior: the reverse process of `num_steps` steps with the
    unguided denoiser (`scoreppl.samplers.reference`). A poor guidance costs effective draws,
    never correctness, and no conservative score is needed.

    Parameters
    ----------
    model
        NumPyro model with `ScorePrior` sites.
    guidance
        A part of `sp.guidance` or a function ``guidance(u, view)``. None: `FullCovariance` in up
        to 10 dimensions, `LineSearch` beyond. One without a method ``num_score_evaluations(size)``
        counts as one score evaluation a step.
    num_steps
        Steps from noise to data.
    accept
        ``"independence"``: a Metropolis chain of independent proposals, exact for the discretised
        target. None: the paths as they come, a heuristic unless weighted by ``log_weight``.
    num_pilots
        Draws of the prior, by 100 evaluations each, that the reference is fitted on.
    pilot_rank
        Directions of the denoiser's error whose covariance the reference keeps at each level, for
        guidances that use the level's variance; 0: one variance a site. At most as many as the
        score sites have numbers.
    max_shift
        Longest shift of a step by a guidance without a covariance of its own, root mean square
        over coordinates, in standard deviations of the step: where such a guidance overshoots, it
        makes the tail of the weights. ``inf``: the guidance as it is.
    num_latent_steps
        Metropolis steps of the ordinary latents, given the event, at the end of each path; each is
        one evaluation of the weight.
    block_size
        Paths made at a time in each chain, so that the network sees batches; also the number of
        draws that each fit of the latents' proposal sees.

    Notes
    -----
    Extra fields: ``log_weight`` (of every path, accepted or not: what
    `sp.estimators.log_evidence` takes), ``accept_prob``, ``is_nan``, ``num_score_evaluations``.
    Where few paths carry all the weight, as in image-sized problems with sharp likelihoods, the
    chain hardly moves: use `sp.AnnealedScoreMCMC` there. `numpyro.infer.Gibbs` does not apply.
    """

    default_fields = ("z", "log_weight", "accept_prob", "is_nan")

    def __init__(
        self,
        model: Model,
        *,
        guidance: Guidance | None = None,
        num_steps: int = 50,
        accept: str | None = "independence",
        num_pilots: int = 256,
        pilot_rank: int = 0,
        max_shift: float = 0.2,
        num_latent_steps: int = 60,
        block_size: int = 64,
    ) -> None:
        super().__init__(model)
        counts = {"num_steps": num_steps, "num_pilots": num_pilots, "block_size": block_size}
        for name, count in counts.items():
            check_count(name, count, 2)
        check_count("num_latent_steps", num_latent_steps, 0)
        check_count("pilot_rank", pilot_rank, 0)
        if accept not in _ACCEPT:
            raise ValueError(f"`accept={accept!r}` is not known; use 'independence' or None.")
        if isinstance(guidance, type):
            raise ValueError(f"`guidance={guidance.__name__}` is a class: add parentheses.")
        if guidance is not None and not callable(guidance):
            raise ValueError(
                f"`guidance` of type {type(guidance).__name__} is not callable; use a part of "
                "sp.guidance or a function guidance(u, view)."
            )
        self._guidance = guidance
        self._num_steps = num_steps
        self._accept = accept
        self.draws_are_independent = self.draws_are_weighted = accept is None
        if pilot_rank >= num_pilots:
            raise ValueError(f"`pilot_rank={pilot_rank}` must be below `num_pilots={num_pilots}`.")
        self._num_pilots = num_pilots
        self._pilot_rank = pilot_rank
        self._max_shift = check_positive("max_shift", max_shift)
        self._num_latent_steps = num_latent_steps
        self._block_size = block_size

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple,
        model_kwargs: dict,
    ) -> GuidedState:
        """Build the state of one chain, or of a batch of chains, and fit the reference."""
        model_kwargs = model_kwargs or {}
        target = self._target(model_args, model_kwargs)
        check_independent(self._model, target, init_params, model_args, model_kwargs)
        ordinary = ordinary_prior(self._model, model_args, model_kwargs)
        check_weight(self._model, model_args, model_kwargs, target)
        self._check_rank(target, ordinary)

        def chain(key: Array) -> GuidedState:
            key_start, key_fit = jax.random.split(jax.random.fold_in(key, 2))
            z = ordinary.draw(key_start)
            ladder, reference = fit_reference(
                key_fit, z, target,
                num_levels=self._num_steps, num_pilots=self._num_pilots, rank=self._pilot_rank,
            )  # fmt: skip
            block = (self._block_size,)
            never = jnp.full((), -jnp.inf)
            return GuidedState(
                i=jnp.zeros((), int),
                num_warmup=jnp.asarray(num_warmup, int),
                z=z,
                log_weight=never,
                current_log_weight=never,
                accept_prob=jnp.zeros(()),
                is_nan=jnp.zeros((), bool),
                num_score_evaluations=jnp.zeros((), int),
                target_weight=never,
                index=jnp.asarray(self._block_size),
                block_z=jax.tree.map(lambda v: jnp.zeros(block + v.shape, v.dtype), z),
                block_log_weight=jnp.full(block, -jnp.inf),
                block_target_weight=jnp.full(block, -jnp.inf),
                ladder=ladder,
                reference=reference,
                latent_proposal=proposal.unfitted(_ordinary_vector(z, target).size),
                rng_key=key,
            )

        self._check_gradient(rng_key, target, ordinary)
        self._sample_fn = self.sample
        # Jitted, so that it compiles once and not operation by operation.
        return jax.jit(chain if is_prng_key(rng_key) else jax.vmap(chain))(rng_key)

    def _check_rank(self, target: Target, ordinary: OrdinaryPrior) -> None:
        shapes = jax.eval_shape(ordinary.draw, jax.random.key(0))
        size = sum(shapes[name].size for name in target.score_models)
        if self._pilot_rank > size:
            raise ValueError(
                f"`pilot_rank={self._pilot_rank}` must be at most {size}, the dimension of the "
                f"score site(s) {list(target.score_models)}."
            )

    def _check_gradient(self, rng_key: Array, target: Target, ordinary: OrdinaryPrior) -> None:
        """Refuse a guidance by the gradient of a weight that has none."""
        key = rng_key if is_prng_key(rng_key) else rng_key[0]
        key_latents, key_draws = jax.random.split(jax.random.fold_in(key, 3))
        z = ordinary.draw(key_latents)
        events = score_values(z, target)
        flat, unravel = ravel_pytree(events)
        guidance = self._build_guidance(flat.size)
        # A run on another device traces what is known here.
        if not getattr(guidance, "needs_gradient", False) or isinstance(key, Tracer):
            return

        @jax.jit
        def points(key: Array) -> Array:
            drawn = draw_prior(key, events, target, num_draws=16, num_steps=20)
            return jax.vmap(lambda x: ravel_pytree(x)[0])(drawn)

        check_differentiable(
            guidance, lambda x: target.log_weight(z | unravel(x)), points(key_draws)
        )

    def sample(self, state: GuidedState, model_args: tuple, model_kwargs: dict) -> GuidedState:
        """Give the next draw of each chain, making a new block where the last one is spent."""
        model_kwargs = model_kwargs or {}
        target = self._target(model_args, model_kwargs)
        ordinary = ordinary_prior(self._model, model_args, model_kwargs)
        refill = jax.vmap(lambda chain: self._refill(chain, target, ordinary))
        return next_draw(state, self._block_size, refill, self._take)

    def _refill(self, chain: GuidedState, target: Target, ordinary: OrdinaryPrior) -> GuidedState:
        def latents(key: Array) -> tuple[Values, Array]:
            key_prior, key_fitted = jax.random.split(key)
            z = ordinary.draw(key_prior)
            names = [name for name in z if name not in target.score_models]
            flat, unravel = ravel_pytree({name: z[name] for name in names})
            value = proposal.draw(key_fitted, chain.latent_proposal, flat)
            z = z | unravel(value)
            log_prior = ordinary.log_density(z)
            return z, proposal.log_density(chain.latent_proposal, value, log_prior)

        keys = jax.vmap(_path_keys)(draw_keys(_phase_key(chain), chain.i, self._block_size))
        starts, log_proposal = jax.vmap(latents)(keys[:, 0])
        size = ravel_pytree(score_values(chain.z, target))[0].size
        guidance = self._build_guidance(size)
        paths = guide(
            keys[:, 1], starts, log_proposal, target, chain.ladder, chain.reference,
            guidance, max_shift=self._max_shift,
        )  # fmt: skip
        # Before the proposal's density is taken off.
        target_weight = paths.log_weight + log_proposal
        block_z, moved_by, latent_proposal = self._refresh_latents(chain, paths, target)
        # The last refit changed the proposal: what is held is weighed as if proposed by the new
        # one with the latents it has now.
        held = proposal.log_density(
            chain.latent_proposal, _ordinary_vector(chain.z, target), ordinary.log_density(chain.z)
        )
        held = jnp.where(jnp.isfinite(held), chain.target_weight - held, -jnp.inf)
        cost = getattr(guidance, "num_score_evaluations", None)
        return chain._replace(
            index=jnp.zeros_like(chain.index),
            block_z=block_z,
            block_log_weight=paths.log_weight,
            block_target_weight=target_weight + moved_by,
            current_log_weight=jnp.where(
                chain.i <= chain.num_warmup, held, chain.current_log_weight
            ),
            latent_proposal=latent_proposal,
            num_score_evaluations=jnp.asarray(
                self._num_steps * (cost(size) if cost is not None else 1)
            ),
        )

    def _refresh_latents(
        self, chain: GuidedState, paths: Particles, target: Target
    ) -> tuple[Values, Array, LatentProposal]:
        """Move the latents given the events and, in warm-up, fit the next proposal to where.

        The middle one of the three is by how much the move changes the log weights of the target.
        """
        old, in_warmup = chain.latent_proposal, chain.i < chain.num_warmup
        if not old.mean.size:
            return paths.position, jnp.zeros_like(paths.log_weight), old
        # Keys of its own: the numbers 0 to 3 folded into the chain's are taken.
        phase = jax.random.fold_in(chain.rng_key, jnp.where(in_warmup, 4, 5))
        keys = draw_keys(phase, chain.i, self._block_size)
        moved = jax.vmap(lambda key, z: proposal.refresh(key, z, target, self._num_latent_steps))(
            keys, paths.position
        )
        weigh = jax.vmap(target.log_weight)
        moved_by = weigh(moved) - weigh(paths.position)
        # As if a path had been proposed with the latents that suit it: with those of the prior its
        # weight is too small to count.
        values = jax.vmap(lambda z: _ordinary_vector(z, target))(moved)
        new = proposal.fit(old, values, paths.log_weight + moved_by)
        fitted = jax.tree.map(lambda new, old: jnp.where(in_warmup, new, old), new, old)
        return moved, moved_by, fitted

    def _take(self, chain: GuidedState) -> GuidedState:
        proposed = jax.tree.map(lambda v: v[chain.index], chain.block_z)
        log_weight = chain.block_log_weight[chain.index]
        is_usable = jnp.isfinite(log_weight)
        if self._accept is None:
            rate, accepted = jnp.ones(()), jnp.ones((), bool)
        else:
            # From a start without weight every path with one is accepted.
            ratio = jnp.where(is_usable, log_weight - chain.current_log_weight, -jnp.inf)
            rate = jnp.exp(jnp.minimum(ratio, 0.0))
            key = _path_keys(draw_keys(_phase_key(chain), chain.i, 1)[0])[2]
            accepted = jax.random.uniform(key) < rate
        return chain._replace(
            i=chain.i + 1,
            z=jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposed, chain.z),
            log_weight=log_weight,
            current_log_weight=jnp.where(accepted, log_weight, chain.current_log_weight),
            target_weight=jnp.where(
                accepted, chain.block_target_weight[chain.index], chain.target_weight
            ),
            accept_prob=rate,
            is_nan=~is_usable,
            index=chain.index + 1,
        )

    def _build_guidance(self, size: int) -> Guidance:
        if self._guidance is not None:
            return self._guidance
        return FullCovariance() if size <= FULL_COVARIANCE_LIMIT else LineSearch()

    def get_diagnostics_str(self, state: GuidedState) -> str:
        """Return acceptance and cost of the last draw for the progress bar."""
        return (
            f"{state.num_score_evaluations} score evaluations a draw. "
            f"acc. prob={state.accept_prob:.2f}"
        )


def _phase_key(chain: GuidedState) -> Array:
    """Key of the warm-up or of what follows, so that no draw repeats numbers that were fitted."""
    return jax.random.fold_in(chain.rng_key, chain.i >= chain.num_warmup)


def _path_keys(key: Array) -> Array:
    """Keys of the ordinary latents, of the path and of the acceptance of one draw."""
    return jax.random.split(key, 3)


def _ordinary_vector(z: Values, target: Target) -> Array:
    ordinary = {name: value for name, value in z.items() if name not in target.score_models}
    return ravel_pytree(ordinary)[0] if ordinary else jnp.zeros(0)
