"""ParticleGibbs: a chain of diffusion paths by conditional SMC."""

# NumPyro declares these fields as properties, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.util import is_prng_key

from scoreppl.arguments import check_count, check_positive
from scoreppl.compose import Composition
from scoreppl.guidance import FullCovariance, Guidance, LineSearch
from scoreppl.guidance.covariance import FULL_COVARIANCE_LIMIT
from scoreppl.ppl.blocks import check_independent, ordinary_prior
from scoreppl.ppl.contract import ScoreKernel
from scoreppl.ppl.potential import Model, Values
from scoreppl.ppl.starts import check_weight
from scoreppl.samplers import proposal
from scoreppl.samplers.particle_gibbs import PathUpdate, update_path
from scoreppl.samplers.reference import Reference, fit_reference, score_values
from scoreppl.target import Target


class ParticleGibbsState(NamedTuple):
    """State of the kernel.

    Attributes
    ----------
    i
        Draws so far, warm-up included.
    z
        Unconstrained values; score sites are the end of `path`.
    path
        Flat noisy events from noise to data, shape ``(num_steps + 1, d)``.
    accept_prob
        1 if the data end of the path is new, else 0.
    renewed
        Share of the path's levels that changed.
    ess
        Effective particles of the last conditional SMC.
    num_score_evaluations
        Score evaluations of a draw, for each event of a score site.
    ladder, reference
        The discretised prior, fitted on pilot draws before the first draw.
    rng_key
        Key of the chain.
    """

    i: Array
    z: Values
    path: Array
    accept_prob: Array
    renewed: Array
    ess: Array
    num_score_evaluations: Array
    ladder: Array
    reference: Reference
    rng_key: Array


class ParticleGibbs(ScoreKernel):
    r"""Conditional SMC over the diffusion path, and Metropolis steps of the ordinary latents.

    The state is a path of the reverse diffusion from noise to data. A draw runs SMC by guided
    steps with that path as one of the particles, takes a new path from all of them, and moves the
    ordinary latents given its end. It leaves the *discretised* target, the reverse process of
    `num_steps` steps times the weight, invariant for any number of particles and any guidance,
    with no need of a conservative score (`scoreppl.samplers.particle_gibbs`).

    Parameters
    ----------
    model
        NumPyro model with `ScorePrior` sites.
    guidance
        As of `GuidedDiffusion`.
    num_particles
        Particles, the kept path among them; more of them move the path more often.
    num_steps
        Steps from noise to data.
    num_pilots
        Draws of the prior that the reference is fitted on.
    max_shift
        As of `GuidedDiffusion`.
    num_latent_steps
        Metropolis steps of the ordinary latents, given the event, in each draw.

    Notes
    -----
    Extra fields: ``accept_prob``, ``renewed``, ``ess``, ``num_score_evaluations``. There is nothing
    to adapt: warm-up draws are those in which the chain forgets its start. `numpyro.infer.Gibbs`
    does not apply.
    """

    default_fields = ("z", "accept_prob", "renewed", "ess")

    def __init__(
        self,
        model: Model,
        *,
        guidance: Guidance | None = None,
        num_particles: int = 16,
        num_steps: int = 25,
        num_pilots: int = 256,
        max_shift: float = 0.2,
        num_latent_steps: int = 60,
    ) -> None:
        super().__init__(model)
        check_count("num_particles", num_particles, 2)
        check_count("num_steps", num_steps, 2)
        check_count("num_pilots", num_pilots, 2)
        check_count("num_latent_steps", num_latent_steps, 0)
        if isinstance(guidance, type):
            raise ValueError(f"`guidance={guidance.__name__}` is a class: add parentheses.")
        if guidance is not None and not callable(guidance):
            raise ValueError(
                f"`guidance` of type {type(guidance).__name__} is not callable; use a part of "
                "sp.guidance or a function guidance(u, view)."
            )
        self._guidance = guidance
        self._num_particles = num_particles
        self._num_steps = num_steps
        self._num_pilots = num_pilots
        self._max_shift = check_positive("max_shift", max_shift)
        self._num_latent_steps = num_latent_steps

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple,
        model_kwargs: dict,
    ) -> ParticleGibbsState:
        """Fit the reference and draw the first path, for one chain or a batch of chains."""
        model_kwargs = model_kwargs or {}
        target = self._target(model_args, model_kwargs)
        check_independent(self._model, target, init_params, model_args, model_kwargs)
        composed = [n for n, m in target.score_models.items() if isinstance(m, Composition)]
        if composed:
            raise ValueError(
                f"Site(s) {composed} have a composition for a prior, whose paths need weights "
                "that this kernel does not carry; use sp.ScoreSMC."
            )
        ordinary = ordinary_prior(self._model, model_args, model_kwargs)
        check_weight(self._model, model_args, model_kwargs, target)

        def chain(key: Array) -> ParticleGibbsState:
            key_start, key_fit, key_path = jax.random.split(jax.random.fold_in(key, 2), 3)
            z = ordinary.draw(key_start)
            ladder, reference = fit_reference(
                key_fit, z, target, num_levels=self._num_steps, num_pilots=self._num_pilots
            )
            size = ravel_pytree(score_values(z, target))[0].size
            guidance = self._build_guidance(size)
            found = self._update(key_path, None, z, target, ladder, reference)
            cost = getattr(guidance, "num_score_evaluations", None)
            each = cost(size) if cost is not None else 1
            return ParticleGibbsState(
                i=jnp.zeros((), int),
                z=_with_events(z, found.path[-1], target),
                path=found.path,
                accept_prob=jnp.zeros(()),
                renewed=jnp.zeros(()),
                ess=found.ess,
                num_score_evaluations=jnp.asarray(self._num_steps * self._num_particles * each),
                ladder=ladder,
                reference=reference,
                rng_key=key,
            )

        self._sample_fn = self.sample
        # Jitted, so that it compiles once and not operation by operation.
        return jax.jit(chain if is_prng_key(rng_key) else jax.vmap(chain))(rng_key)

    def sample(
        self, state: ParticleGibbsState, model_args: tuple, model_kwargs: dict
    ) -> ParticleGibbsState:
        """Draw a new path and move the latents, for one chain or a batch of chains."""
        target = self._target(model_args, model_kwargs or {})

        def step(state: ParticleGibbsState) -> ParticleGibbsState:
            key_path, key_latents = jax.random.split(jax.random.fold_in(state.rng_key, 3 + state.i))
            found = self._update(
                key_path, state.path, state.z, target, state.ladder, state.reference
            )
            z = _with_events(state.z, found.path[-1], target)
            if set(z) != set(target.score_models) and self._num_latent_steps > 0:
                z = proposal.refresh(key_latents, z, target, self._num_latent_steps)
            return state._replace(
                i=state.i + 1,
                z=z,
                path=found.path,
                accept_prob=found.is_new[-1].astype(float),
                renewed=jnp.mean(found.is_new.astype(float)),
                ess=found.ess,
            )

        return step(state) if is_prng_key(state.rng_key) else jax.vmap(step)(state)

    def _update(
        self,
        key: Array,
        path: Array | None,
        z: Values,
        target: Target,
        ladder: Array,
        reference: Reference,
    ) -> PathUpdate:
        size = ravel_pytree(score_values(z, target))[0].size
        return update_path(
            key, path, z, target, ladder, reference, self._build_guidance(size),
            num_particles=self._num_particles, max_shift=self._max_shift,
        )  # fmt: skip

    def _build_guidance(self, size: int) -> Guidance:
        if self._guidance is not None:
            return self._guidance
        return FullCovariance() if size <= FULL_COVARIANCE_LIMIT else LineSearch()

    def get_diagnostics_str(self, state: ParticleGibbsState) -> str:
        """Return what the last draw renewed, for the progress bar."""
        return (
            f"{state.num_score_evaluations} score evaluations a draw. renewed={state.renewed:.2f}"
        )


def _with_events(z: Values, event: Array, target: Target) -> Values:
    return z | ravel_pytree(score_values(z, target))[1](event)
