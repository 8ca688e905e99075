"""ScoreSMC: weighted particles and evidence for NumPyro models and for composed score models."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.arguments import check_count, check_positive
from scoreppl.compose import Composition, lead
from scoreppl.estimators.evidence import resample
from scoreppl.guidance import FullCovariance, Guidance, LineSearch
from scoreppl.guidance.covariance import FULL_COVARIANCE_LIMIT
from scoreppl.guidance.differentiable import check_differentiable
from scoreppl.ppl.blocks import OrdinaryPrior, check_independent, ordinary_prior
from scoreppl.ppl.contract import bind_target, constrainer
from scoreppl.ppl.potential import Model, Values
from scoreppl.ppl.prior import ScorePrior
from scoreppl.ppl.smc_result import SMCResult, check_some_weight, pooled
from scoreppl.ppl.starts import check_weight
from scoreppl.samplers import proposal
from scoreppl.samplers.control import Corrector, LaplacianOnly
from scoreppl.samplers.correctors import ANY_LEVEL, corrected
from scoreppl.samplers.guided import Particles, guide
from scoreppl.samplers.reference import (
    data_scale,
    draw_prior,
    fit_ladder,
    fit_reference,
    score_values,
)
from scoreppl.samplers.smc import Resampling
from scoreppl.score import ScoreModel
from scoreppl.target import Target

# Up to this size Laplacians are exact unless asked otherwise.
_EXACT_LAPLACIAN_LIMIT = 10
_NUM_PILOT_STEPS = 100


class ScoreSMC:
    r"""Sequential Monte Carlo over noise levels: weighted particles, resampled on the way.

    Two methods, chosen by `corrector`:

    * guided paths with twists (`corrector=None` on a model): as `GuidedDiffusion`, with the
      particles resampled late. Sites of composed score models are weighed, too, for what their
      reverse diffusion gets wrong;
    * correctors (`corrector=...`, and the default for `score_model=` without a weight): the
      composition's own reverse diffusion with the weight as a tilt that rises towards data.

    Parameters
    ----------
    model
        NumPyro model with `ScorePrior` sites; the composition may be inside of one.
    score_model
        In place of `model`: a score model or composition, whose draws are called ``"x"``.
    log_weight
        With `score_model`: log weight of one event, a scalar; none when not given.
    num_particles
        Particles of a run.
    num_steps
        Noise levels, and steps from noise to data.
    guidance
        As of `GuidedDiffusion`; not with a corrector.
    corrector
        `sp.correctors.LaplacianOnly`, `FeynmanKac` or `VarianceControl`, for models with one score
        site.
    num_probes
        Probes of each Laplacian of a composition, at 2 evaluations each. None: exact up to 10
        dimensions, 1 beyond.
    resampling
        `sp.correctors.Resampling`: when and how. None: below half of the particles and once there
        is more signal than noise for guided paths, below nine tenths at any level for correctors.
    num_runs
        Independent runs, one after another, that are pooled by their evidence.
    num_pilots
        Draws of the prior that the noise levels and the reference are fitted on.
    max_shift
        As of `GuidedDiffusion`.
    num_latent_steps
        Metropolis steps of the ordinary latents, given the event, when a run has ended.

    Notes
    -----
    What is exact: with guided paths on a plain score model the evidence is unbiased for the
    discretised prior, and the particles tend to its posterior as they are added. With compositions
    and correctors both tend to the truth as steps *and* particles are added.
    """

    def __init__(
        self,
        model: Model | None = None,
        *,
        score_model: ScoreModel | None = None,
        log_weight: Callable[[Array], Array] | None = None,
        num_particles: int = 1000,
        num_steps: int = 100,
        guidance: Guidance | None = None,
        corrector: Corrector | None = None,
        num_probes: int | None = None,
        resampling: Resampling | None = None,
        num_runs: int = 1,
        num_pilots: int = 256,
        max_shift: float = 0.2,
        num_latent_steps: int = 60,
    ) -> None:
        if (model is None) == (score_model is None):
            raise ValueError("Give either `model`, a NumPyro model, or `score_model=`, not both.")
        if log_weight is not None and score_model is None:
            raise ValueError("`log_weight` goes with `score_model=`; a model has its own weight.")
        if score_model is not None and log_weight is None and guidance is None:
            corrector = LaplacianOnly() if corrector is None else corrector
        if corrector is not None and guidance is not None:
            raise ValueError("Give `guidance` or `corrector`, not both: these are two methods.")
        for name, part in (("guidance", guidance), ("corrector", corrector)):
            if isinstance(part, type):
                raise ValueError(f"`{name}={part.__name__}` is a class: add parentheses.")
        if corrector is not None and not hasattr(corrector, "control"):
            raise ValueError(
                f"`corrector` of type {type(corrector).__name__} is none of sp.correctors."
            )
        if guidance is not None and not callable(guidance):
            raise ValueError(
                f"`guidance` of type {type(guidance).__name__} is not callable; use a part of "
                "sp.guidance or a function guidance(u, view)."
            )
        if resampling is not None and not isinstance(resampling, Resampling):
            raise ValueError(
                f"`resampling` of type {type(resampling).__name__} must be a "
                "sp.correctors.Resampling."
            )
        check_count("num_particles", num_particles, 2)
        check_count("num_steps", num_steps, 2)
        check_count("num_runs", num_runs, 1)
        check_count("num_pilots", num_pilots, 2)
        check_count("num_latent_steps", num_latent_steps, 0)
        if num_probes is not None:
            check_count("num_probes", num_probes, 1)
        self._model = model if model is not None else _model_of(score_model, log_weight)
        self._model_args = () if score_model is None else (score_model,)
        self._num_particles = num_particles
        self._num_steps = num_steps
        self._guidance = guidance
        self._corrector = corrector
        self._num_probes = num_probes
        self._resampling = resampling
        self._num_runs = num_runs
        self._num_pilots = num_pilots
        self._max_shift = check_positive("max_shift", max_shift)
        self._num_latent_steps = num_latent_steps
        self._result: SMCResult | None = None

    def run(self, rng_key: Array, *args: Any, **kwargs: Any) -> None:
        """Run all particles through all levels.

        Parameters
        ----------
        rng_key
            PRNG key.
        *args, **kwargs
            Arguments of the model.

        Raises
        ------
        ValueError
            If the model has no score site, a latent without a proper prior, a weight that is
            nowhere a number or zero for all particles, or more score sites than a corrector takes.
        """
        args = (*self._model_args, *args)
        target = bind_target(self._model, args, kwargs)
        check_independent(self._model, target, None, args, kwargs)
        check_weight(self._model, args, kwargs, target)
        ordinary = ordinary_prior(self._model, args, kwargs)
        size = _size(target, ordinary)
        self._check_sites(target, ordinary, size)
        # A network given as `score_model` is an argument of what is compiled, no constant of it.
        traced = () if jax.tree_util.all_leaves(self._model_args) else self._model_args

        def run_all(keys: Array, traced: tuple) -> Particles:
            bound = (*traced, *args[len(traced) :])
            target = bind_target(self._model, bound, kwargs)
            ordinary = ordinary_prior(self._model, bound, kwargs)
            run = self._corrected if self._corrector is not None else self._guided
            return jax.lax.map(lambda key: run(key, target, ordinary, size), keys)

        runs = jax.jit(run_all)(jax.random.split(rng_key, self._num_runs), traced)
        check_some_weight(runs, self._corrector)
        position = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), runs.position)
        constrain = constrainer(self._model, args, kwargs)
        samples = jax.jit(lambda z: jax.lax.map(constrain, z, batch_size=256))(position)
        scheme = (self._resampling or ANY_LEVEL).scheme
        self._result = pooled(runs, samples, self._num_evaluations(target, size), scheme)

    def _guided(self, key: Array, target: Target, ordinary: OrdinaryPrior, size: int) -> Particles:
        led = Target(lead(dict(target.score_models)), target.floors, target.log_weight)
        key_fit, key_latents, key_paths, key_moves = jax.random.split(key, 4)
        starts = jax.vmap(ordinary.draw)(jax.random.split(key_latents, self._num_particles))
        ladder, reference = fit_reference(
            key_fit, ordinary.draw(key_fit), led,
            num_levels=self._num_steps, num_pilots=self._num_pilots,
        )  # fmt: skip
        found = guide(
            jax.random.split(key_paths, self._num_particles), starts,
            jax.vmap(ordinary.log_density)(starts), led, ladder, reference,
            self._build_guidance(size), self._resampling or Resampling(),
            self._max_shift, self._probes(size),
        )  # fmt: skip
        return self._move_latents(key_moves, found, target)

    def _corrected(
        self, key: Array, target: Target, ordinary: OrdinaryPrior, size: int
    ) -> Particles:
        key_fit, key_latents, key_paths, key_moves = jax.random.split(key, 4)
        starts = jax.vmap(ordinary.draw)(jax.random.split(key_latents, self._num_particles))
        led = Target(lead(dict(target.score_models)), target.floors, target.log_weight)
        clean = draw_prior(
            key_fit, ordinary.draw(key_fit), led,
            num_draws=self._num_pilots, num_steps=_NUM_PILOT_STEPS,
        )  # fmt: skip
        # The tilt is the weight without the ordinary latents' prior, which they are drawn from.
        tilted = Target(
            target.score_models,
            target.floors,
            lambda z: target.log_weight(z) - ordinary.log_density(z),
        )
        latents = {n: v for n, v in starts.items() if n not in target.score_models}
        assert self._corrector is not None
        found = corrected(
            jax.random.split(key_paths, self._num_particles), latents, tilted,
            fit_ladder(clean, target, self._num_steps), data_scale(clean), self._corrector,
            num_probes=self._probes(size), resampling=self._resampling or ANY_LEVEL,
        )  # fmt: skip
        return self._move_latents(key_moves, found, target)

    def _move_latents(self, key: Array, found: Particles, target: Target) -> Particles:
        """Take Metropolis steps of the ordinary latents given the event, which keep the weights."""
        if set(found.position) == set(target.score_models) or self._num_latent_steps == 0:
            return found
        keys = jax.random.split(key, self._num_particles)
        moved = jax.vmap(lambda k, z: proposal.refresh(k, z, target, self._num_latent_steps))(
            keys, found.position
        )
        return found._replace(position=moved)

    def _build_guidance(self, size: int) -> Guidance:
        if self._guidance is not None:
            return self._guidance
        return FullCovariance() if size <= FULL_COVARIANCE_LIMIT else LineSearch()

    def _probes(self, size: int) -> int | None:
        if self._num_probes is None:
            return None if size <= _EXACT_LAPLACIAN_LIMIT else 1
        return self._num_probes if self._num_probes < size else None

    def _check_sites(self, target: Target, ordinary: OrdinaryPrior, size: int) -> None:
        if self._corrector is not None:
            names = list(target.score_models)
            z = ordinary.draw(jax.random.key(0))
            if len(names) > 1 or z[names[0]].shape != tuple(
                target.score_models[names[0]].event_shape
            ):
                raise ValueError(
                    f"A corrector takes one score site without plates, and the model has {names}; "
                    "leave `corrector` out, and guided paths weigh every composed site."
                )
            return
        guidance = self._build_guidance(size)
        if not getattr(guidance, "needs_gradient", False):
            return
        led = Target(lead(dict(target.score_models)), target.floors, target.log_weight)
        z = ordinary.draw(jax.random.key(0))
        unravel = ravel_pytree(score_values(z, target))[1]
        drawn = draw_prior(jax.random.key(1), z, led, num_draws=16, num_steps=20)
        points = jax.vmap(lambda x: ravel_pytree(x)[0])(drawn)
        check_differentiable(guidance, lambda x: target.log_weight(z | unravel(x)), points)

    def _num_evaluations(self, target: Target, size: int) -> int:
        """Network evaluations of one particle of a run."""
        models = max(_num_models(model) for model in target.score_models.values())
        probes = self._probes(size)
        laplacian = 2 * (size if probes is None else probes)
        if self._corrector is not None:
            return self._num_steps * models * laplacian
        cost = getattr(self._build_guidance(size), "num_score_evaluations", None)
        is_composed = any(isinstance(m, Composition) for m in target.score_models.values())
        each = (1 if cost is None else cost(size)) + (laplacian if is_composed else 0)
        return self._num_steps * models * each

    @property
    def result(self) -> SMCResult:
        """What the last `run` found."""
        if self._result is None:
            raise ValueError("There is no result yet: call `run(rng_key, ...)` first.")
        return self._result

    @property
    def log_evidence(self) -> float:
        """Log of the integral of weight times prior; a composition is not normalised."""
        return self.result.log_evidence

    @property
    def log_evidence_error(self) -> float:
        """Its standard error, from the lineages of the particles."""
        return self.result.log_evidence_error

    def get_weighted_samples(self) -> tuple[Values, np.ndarray]:
        """Return all particles, constrained, with deterministic sites, and their log weights."""
        return self.result.samples, self.result.log_weight

    def get_samples(self, key: Array, num_samples: int) -> Values:
        """Return draws of equal weight, resampled from the particles.

        Parameters
        ----------
        key
            PRNG key.
        num_samples
            How many; a particle may come several times.

        Raises
        ------
        ValueError
            If fewer than 10 particles are effective.
        """
        return resample(key, self.result.samples, self.result.log_weight, num_samples)

    def to_inference_data(self, key: Array | None = None) -> Any:
        """Return as many resampled draws as particles for ArviZ.

        ``sample_stats`` has the log weight of the particle behind each draw and its number; the
        attributes have the evidence with its errors, effective particles, Pareto k and cost.

        Parameters
        ----------
        key
            PRNG key of the resampling.
        """
        return self.result.to_inference_data(jax.random.key(0) if key is None else key)

    def print_summary(self) -> None:
        """Print evidence, effective particles, lineages and cost."""
        print(self.result.summary())


def _model_of(score_model: Any, log_weight: Callable[[Array], Array] | None) -> Model:
    """Return a NumPyro model of one score model, its argument, and a weight."""
    if not isinstance(score_model, ScoreModel):
        raise ValueError(
            f"`score_model` of type {type(score_model).__name__} is no score model; use "
            "sp.ScoreNetwork or a part of sp.analytic."
        )

    def model(score_model: ScoreModel) -> None:
        x = jnp.asarray(numpyro.sample("x", ScorePrior(score_model)))
        if log_weight is None:
            return
        value = log_weight(x)
        if jnp.shape(value) != ():
            raise ValueError(
                f"`log_weight` returned shape {jnp.shape(value)} for one event of shape "
                f"{jnp.shape(x)}; it must return a scalar."
            )
        numpyro.factor("log_weight", value)

    return model


def _num_models(model: ScoreModel) -> int:
    return len(model.models) if isinstance(model, Composition) else 1


def _size(target: Target, ordinary: OrdinaryPrior) -> int:
    shapes = jax.eval_shape(ordinary.draw, jax.random.key(0))
    return sum(int(np.prod(shapes[name].shape)) for name in target.score_models)
