"""ScoreSMC: weighted particles and evidence for NumPyro models and for composed score models."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.arguments import check_count
from scoreppl.compose.members import (
    Picks,
    all_picks,
    choose,
    has_composed_member,
    is_mixture_of_choices,
    no_picks,
)
from scoreppl.estimators.evidence import resample
from scoreppl.guidance import Guidance
from scoreppl.guidance.differentiable import check_differentiable
from scoreppl.ppl.blocks import OrdinaryPrior, check_independent, ordinary_prior
from scoreppl.ppl.contract import bind_target, constrainer
from scoreppl.ppl.potential import Model, Values
from scoreppl.ppl.prior import ScorePrior
from scoreppl.ppl.smc_arguments import check_model, check_reach, check_settings
from scoreppl.ppl.smc_result import (
    SMCResult,
    check_some_weight,
    pooled,
    warn_of_few_ancestors,
)
from scoreppl.ppl.smc_runs import (
    Settings,
    event_size,
    led,
    num_score_evaluations,
    renewal_evaluations,
    run_corrected,
    run_guided,
    shared_out,
)
from scoreppl.ppl.starts import check_weight
from scoreppl.samplers.control import Corrector, LaplacianOnly
from scoreppl.samplers.correctors import ANY_LEVEL
from scoreppl.samplers.guided import Particles
from scoreppl.samplers.reference import draw_prior, score_values
from scoreppl.samplers.smc import Moves, Resampling
from scoreppl.score import ScoreModel
from scoreppl.target import Target


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
        Particles of a run. A mixture of models without densities is taken apart into runs of its
        models, which share them.
    num_steps
        Noise levels, and steps from noise to data.
    guidance
        As of `GuidedDiffusion`; not with a corrector.
    corrector
        `sp.correctors.LaplacianOnly`, `VarianceControl`, `EnergyControl` or `FeynmanKac`, for
        models with one score site.
    num_probes
        Probes of each Laplacian of a composition, at 2 evaluations each. None: exact up to 10
        dimensions, 1 beyond.
    resampling
        `sp.correctors.Resampling`: when and how. None: below half of the particles and once there
        is more signal than noise for guided paths, below nine tenths at any level for correctors.
    moves
        `sp.correctors.Moves`: Langevin moves of resampled particles under the law of their level,
        or waste-free chains; with a corrector. None: they stay.
    num_runs
        Independent runs, one after another, that are pooled by their evidence.
    num_pilots
        Draws of the prior that the noise levels and the reference are fitted on.
    num_level_pilots
        Particles of a pilot run that moves the noise levels to where weights vary, before each run;
        the levels are frozen then and the pilots enter no estimate. 0: levels as fitted to the
        prior.
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
        moves: Moves | None = None,
        num_runs: int = 1,
        num_pilots: int = 256,
        num_level_pilots: int = 0,
        max_shift: float = 0.2,
        num_latent_steps: int = 60,
    ) -> None:
        check_model(model, score_model, log_weight)
        if score_model is not None and log_weight is None and guidance is None:
            corrector = LaplacianOnly() if corrector is None else corrector
        settings = Settings(
            num_particles=num_particles,
            num_steps=num_steps,
            guidance=guidance,
            corrector=corrector,
            num_probes=num_probes,
            resampling=resampling,
            moves=moves,
            num_pilots=num_pilots,
            num_level_pilots=num_level_pilots,
            max_shift=max_shift,
            num_latent_steps=num_latent_steps,
        )
        check_settings(settings)
        check_count("num_runs", num_runs, 1)
        self._model = model if model is not None else _model_of(score_model, log_weight)
        self._model_args = () if score_model is None else (score_model,)
        self._has_weight = score_model is None or log_weight is not None
        self._settings = settings
        self._num_runs = num_runs
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
        size = event_size(target, ordinary)
        picks = self._picks(target)
        first = target.with_models(choose(target.score_models, picks[0]).models)
        self._check_sites(first, ordinary, len(picks) > 1)
        # A network given as `score_model` is an argument of what is compiled, no constant of it.
        traced = () if jax.tree_util.all_leaves(self._model_args) else self._model_args
        settings = self._settings._replace(
            num_particles=shared_out(self._settings.num_particles, len(picks), self._settings.moves)
        )

        def run_all(keys: Array, traced: tuple) -> tuple[Particles, Array]:
            bound = (*traced, *args[len(traced) :])
            target = bind_target(self._model, bound, kwargs)
            ordinary = ordinary_prior(self._model, bound, kwargs)
            run = run_guided if settings.corrector is None else run_corrected
            chosen = [choose(target.score_models, pick) for pick in picks]

            def run_choices(key: Array) -> Particles:
                keys = [key] if len(picks) == 1 else jax.random.split(key, len(picks))
                found = [
                    run(k, target.with_models(choice.models), ordinary, settings)
                    for k, choice in zip(keys, chosen, strict=True)
                ]
                return jax.tree.map(lambda *v: jnp.stack(v), *found)

            runs = jax.lax.map(run_choices, keys)
            shares = jnp.stack([choice.log_probability for choice in chosen])
            return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), runs), shares

        keys = jax.random.split(rng_key, self._num_runs)
        runs, shares = jax.jit(run_all)(keys, traced)
        check_some_weight(runs, settings.corrector, self._has_weight)
        position = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), runs.position)
        constrain = constrainer(self._model, args, kwargs)
        samples = jax.jit(lambda z: jax.lax.map(constrain, z, batch_size=256))(position)
        scheme = (settings.resampling or ANY_LEVEL).scheme
        resampled = np.asarray(runs.trace.is_resampled).reshape(self._num_runs, len(picks), -1)
        cost = 0
        for pick, num_resamplings in zip(picks, resampled.sum((0, 2)), strict=True):
            chosen = target.with_models(choose(target.score_models, pick).models)
            each = num_score_evaluations(chosen, size, settings) * settings.num_particles
            cost += self._num_runs * each
            cost += int(num_resamplings) * renewal_evaluations(chosen, size, settings)
        result = pooled(runs, samples, cost, scheme, np.asarray(shares))
        if settings.moves is not None and settings.moves.waste_free:
            # The states of a chain are one family, and far from one particle.
            run = np.arange(len(result.log_weight)) // settings.num_particles
            result = result._replace(log_evidence_error=np.nan, lineage=run)
        warn_of_few_ancestors(result)
        self._result = result

    def _picks(self, target: Target) -> list[dict[str, Picks]]:
        """Take mixtures apart into runs of their own, where no ratio of densities is needed."""
        models = target.score_models
        for name, model in models.items():
            if has_composed_member(model) and not is_mixture_of_choices(model):
                raise ValueError(
                    f"The site {name!r} has a mixture of compositions under an exponent other than "
                    "one: their integrals are not known, and so is no ratio of their densities."
                )
            if not is_mixture_of_choices(model) and self._settings.corrector is None:
                raise ValueError(
                    f"The site {name!r} has a mixture of models without densities under an "
                    "exponent other than one; give `corrector=sp.correctors.LaplacianOnly()`, "
                    "which follows the ratios of their densities."
                )
        if all(is_mixture_of_choices(model) for model in models.values()):
            return all_picks(models)
        if self._settings.moves is not None:
            raise ValueError(
                "`moves` need the score at any event, and a mixture of models without densities "
                "has one along the particles' paths alone; leave `moves` out."
            )
        return [no_picks(models)]

    def _check_sites(self, target: Target, ordinary: OrdinaryPrior, is_split: bool) -> None:
        z = ordinary.draw(jax.random.key(0))
        names = list(target.score_models)
        in_plates = any(
            z[name].shape != tuple(model.event_shape) for name, model in target.score_models.items()
        )
        if is_split and in_plates:
            raise ValueError(
                "A mixture of models without densities in a plate would need a run for each choice "
                "of a model for each event; write the plate as separate sites."
            )
        if self._settings.corrector is not None:
            if len(names) > 1 or in_plates:
                raise ValueError(
                    f"A corrector takes one score site without plates, and the model has {names}; "
                    "leave `corrector` out, and guided paths weigh every composed site."
                )
            if self._has_weight:
                check_reach(self._settings.corrector, target, z)
            return
        guidance = self._settings.guidance_for(event_size(target, ordinary))
        if not getattr(guidance, "needs_gradient", False):
            return
        unravel = ravel_pytree(score_values(z, target))[1]
        drawn = draw_prior(jax.random.key(1), z, led(target), num_draws=16, num_steps=20)
        points = jax.vmap(lambda x: ravel_pytree(x)[0])(drawn)
        check_differentiable(guidance, lambda x: target.log_weight(z | unravel(x)), points)

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
