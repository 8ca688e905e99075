"""ScorePrior: a NumPyro distribution known through a score and not through a density."""

import copy
import math
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import random
from jax.core import Tracer
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform
from numpyro.infer.gibbs import GIBBS_SITES_KWARG

from scoreppl.noise import time_grid
from scoreppl.ppl.coordinates import Image, check_transform, log_volume, transformed_score
from scoreppl.probability_flow import log_density
from scoreppl.score import LocalScore, ScoreModel
from scoreppl.solvers import multistep

_PROTOCOL = ("noise", "event_shape", "min_time", "score", "denoise", "sample")
_REMEDY = (
    "has a score but no log density, so this kernel cannot sample it. Use "
    "sp.AnnealedScoreMCMC, sp.ScoreMALA, sp.ScoreHMC or sp.ScoreNUTS; inside "
    "numpyro.infer.Gibbs give {site} to one of these. (`log_prob='ode'` opts in to the "
    "probability-flow density, at the cost of an integration per evaluation.)"
)
# Distance from `log_prob` to the NumPyro frame that asked for it: one frame for a bare site, a
# few more when other distributions wrap it.
_MAX_FRAMES = 16


class ScorePrior(dist.Distribution):
    r"""The law of a score model, as the distribution of a NumPyro site.

    The site's law is the model's law at one noise level :math:`t`, in data units: the law of
    :math:`x_t/\alpha_t = x_0 + (\sigma_t/\alpha_t)\,\epsilon`. Its support is the whole of
    :math:`\mathbb{R}^{\text{event}}`.

    There is no `log_prob`, and a flat stand-in would let any gradient kernel sample the wrong
    law without a word; so `log_prob` raises, and the kernels of this package evaluate the rest
    of the model through `scoreppl.ppl.flat.flat_scores` instead. Two cases are answered:

    * a site held at a value by `numpyro.infer.Gibbs`, `numpyro.handlers.condition` or `obs=`
      adds a constant to every other latent's density, and zeros are returned. That is only
      right while the score model does not depend on a latent, so an observed site whose score
      model is traced is refused. Inside `Gibbs` traced parameters are allowed (a network may
      be a model argument), and the kernel that owns the site checks what they depend on;
    * with `log_prob="ode"` the probability-flow density is integrated (small events only).

    Parameters
    ----------
    score_model : ScoreModel
        The prior. Its parameters are leaves of the distribution's pytree, so a network passed
        to the NumPyro model as an argument stays an argument.
    noise_level : float, optional
        Time :math:`t` in [`score_model.min_time`, 1); None stands for `score_model.min_time`.
    num_steps : int
        Network calls per prior draw (and integration steps of `log_prob="ode"`).
    batch_shape : tuple of int
        Shape of the independent draws in one value.
    transform : numpyro.distributions.transforms.Transform, optional
        From the score model's coordinates u to the site's, x = T(u), of the same shape: for a
        network that was trained on log(1 + x), say. The noise of `noise_level` is that of u. The
        kernels move u, so that no Jacobian is needed; where one is, as in `score`, it is there.
    log_prob : {None, "ode"}
        How `log_prob` is answered; None raises.
    validate_args : bool, optional
        Passed to NumPyro.

    Raises
    ------
    ValueError
        If `score_model` does not follow the protocol, or another argument is out of range.
    """

    arg_constraints = {}
    pytree_data_fields = ("score_model", "noise_level", "transform")
    pytree_aux_fields = ("num_steps", "masked", "_log_prob_method")

    def __init__(
        self,
        score_model: ScoreModel,
        *,
        noise_level: float | jax.Array | None = None,
        num_steps: int = 100,
        batch_shape: tuple[int, ...] = (),
        transform: Transform | None = None,
        log_prob: str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        missing = [name for name in _PROTOCOL if not hasattr(score_model, name)]
        if missing:
            raise ValueError(
                f"`score_model` of type {type(score_model).__name__} lacks {', '.join(missing)}; "
                "wrap a network with sp.ScoreNetwork or a bare score function with sp.LocalScore, "
                "or use sp.pretrained.load or sp.analytic.GaussianMixture."
            )
        if log_prob not in (None, "ode"):
            raise ValueError(f"`log_prob={log_prob!r}` is not known; use None or 'ode'.")
        if num_steps < 1:
            raise ValueError(f"`num_steps={num_steps}` must be at least 1.")
        check_transform(transform, tuple(score_model.event_shape))
        is_local = isinstance(score_model, LocalScore) and noise_level is not None
        if is_local and not _traced(noise_level) and float(np.asarray(noise_level)) != 0.0:
            raise ValueError(
                f"`noise_level={noise_level}` has no meaning for a sp.LocalScore, which is known "
                "at one level alone."
            )
        level = score_model.min_time if noise_level is None else noise_level
        if not _traced((level, score_model.min_time)):
            lowest = float(np.asarray(score_model.min_time))
            if not lowest <= float(np.asarray(level)) < 1.0:
                raise ValueError(
                    f"`noise_level={noise_level}` must be at least {lowest:g}, where the score "
                    "model begins to be valid, and below 1, where nothing but noise is left."
                )
        self.score_model = score_model
        self.noise_level = level
        self.num_steps = num_steps
        self.transform = transform
        self.masked = False
        self._log_prob_method = log_prob
        super().__init__(
            tuple(batch_shape), tuple(score_model.event_shape), validate_args=validate_args
        )

    @property
    def support(self) -> constraints.Constraint:
        """All real arrays of the shape of an event, or what `transform` makes of them."""
        if self.transform is not None:
            return Image(self.transform, self.event_dim)
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def draw_shape(self) -> tuple[int, ...]:
        """Shape of the independent score-model draws in one value of the site."""
        shape = self.batch_shape + self.event_shape
        return shape[: len(shape) - len(self.score_model.event_shape)]

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw by reverse diffusion from pure noise down to the noise level.

        Every draw has its own key, folded from `key` and the draw's index, so the first draws
        do not depend on how many are asked for.

        Parameters
        ----------
        key : jax.Array
            Random key.
        sample_shape : tuple of int
            Leading shape.

        Returns
        -------
        jax.Array
            Shape `sample_shape + batch_shape + event_shape`, in the site's coordinates.
        """
        if key is None:
            raise ValueError(
                "`key` is missing; seed the model with numpyro.handlers.seed(model, key)."
            )
        shape = tuple(sample_shape) + self.draw_shape
        # A score model that is no pytree cannot be an argument of a compiled function.
        is_pytree = not jax.tree_util.all_leaves([self.score_model])
        draws = (_compiled_draws if is_pytree else _draws)(self, key, math.prod(shape))
        return self.constrain(draws.reshape(shape + tuple(self.score_model.event_shape)))

    def constrain(self, u: jax.Array) -> jax.Array:
        """Return the site's value from the score model's coordinates, in data units.

        Parameters
        ----------
        u : jax.Array
            Shape `(..., *batch_shape, *event_shape)`.

        Returns
        -------
        jax.Array
            The value, of the same shape: `u` itself without a `transform`.
        """
        return u if self.transform is None else jnp.asarray(self.transform(u))

    def _unconstrain(self, value: jax.Array) -> jax.Array:
        return value if self.transform is None else jnp.asarray(self.transform.inv(value))

    def score(self, value: jax.Array) -> jax.Array:
        r"""Gradient of the site's log density, :math:`\alpha_t\,s(\alpha_t u, t)` for x = u.

        Parameters
        ----------
        value : jax.Array
            Value of the site, shape `(..., *batch_shape, *event_shape)`, in data units.

        Returns
        -------
        jax.Array
            The score, of the same shape.
        """
        alpha, _ = self.score_model.noise(self.noise_level)

        def one(u: jax.Array) -> jax.Array:
            return alpha * self.score_model.score(alpha * u, self.noise_level)

        u = self._unconstrain(value)
        found = jax.vmap(one)(self._events(u)).reshape(u.shape)
        if self.transform is None:
            return found
        return transformed_score(self.transform, value, found, self.event_dim)

    def log_prob(self, value: jax.Array, intermediates: list[Any] | None = None) -> jax.Array:
        """Refuse, naming the site and the kernels to use; see the class for the exceptions.

        Parameters
        ----------
        value : jax.Array
            Value of the site.
        intermediates : list, optional
            Ignored.

        Returns
        -------
        jax.Array
            Zeros of the batch shape for a site held at its value, or the probability-flow log
            density with `log_prob="ode"`.

        Raises
        ------
        ValueError
            For a latent site without density, and for a masked site.
        """
        site, held_by_gibbs = _calling_site(self)
        name = "This ScorePrior" if site is None else f"Site '{site['name']}'"
        if self.masked:
            raise ValueError(mask_error(name))
        if self._log_prob_method == "ode":
            return self._flow_log_prob(value)
        if site is None or not site["is_observed"]:
            raise ValueError(f"{name} {_REMEDY.format(site='it' if site is None else name[5:])}")
        if _traced((self.score_model, self.noise_level)) and not held_by_gibbs:
            raise ValueError(
                f"{name} is observed and its score model is traced: if it depends on a latent, "
                "its log density is needed and is not known. Build the score model outside the "
                "NumPyro model, from values that are not traced."
            )
        return jnp.zeros(_batch_shape(self, value))

    def _flow_log_prob(self, value: jax.Array) -> jax.Array:
        """Probability-flow density in data units, summed over reinterpreted batch dimensions."""
        model, level = self.score_model, self.noise_level
        alpha, _ = model.noise(level)

        def one(u: jax.Array) -> jax.Array:
            return log_density(model, alpha * u, level, num_steps=self.num_steps)

        u = self._unconstrain(value)
        draws = jax.vmap(one)(self._events(u)) + math.prod(model.event_shape) * jnp.log(alpha)
        shape = jnp.shape(value)[: jnp.ndim(value) - self.event_dim]
        total = draws.reshape(shape + (-1,)).sum(-1)
        if self.transform is not None:
            total -= log_volume(self.transform, u, value, self.event_dim)
        return jnp.broadcast_to(total, _batch_shape(self, value))

    def _events(self, value: jax.Array) -> jax.Array:
        return jnp.reshape(value, (-1,) + tuple(self.score_model.event_shape))

    def expand(self, batch_shape: tuple[int, ...]) -> "ScorePrior":
        """Return the prior of more independent draws.

        It stays a ScorePrior, so a handler never has to look inside a wrapper.
        """
        batch_shape = tuple(batch_shape)
        try:
            broadcast = jnp.broadcast_shapes(self.batch_shape, batch_shape)
        except ValueError:
            broadcast = None
        if broadcast != batch_shape:
            raise ValueError(f"`batch_shape={batch_shape}` does not extend {self.batch_shape}.")
        return self._copy(_batch_shape=batch_shape)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> "ScorePrior":
        """Return the prior with its last batch dimensions counted as event dimensions."""
        size = len(self.batch_shape)
        moved = size if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        if not 0 <= moved <= size:
            raise ValueError(
                f"`reinterpreted_batch_ndims={moved}` must lie between 0 and the number of "
                f"batch dimensions, {size}."
            )
        return self._copy(
            _batch_shape=self.batch_shape[: size - moved],
            _event_shape=self.batch_shape[size - moved :] + self.event_shape,
        )

    def mask(self, mask: Any) -> "ScorePrior":
        """Return a prior that can be drawn from but has no part in any density.

        NumPyro's own masked distribution would answer `log_prob` with zeros, that is, with a
        flat density. Drawing must go on working because `numpyro.infer.Predictive` masks every
        site, so the refusal comes when a density or a weight is asked for.
        """
        return self if mask is True else self._copy(masked=True)

    def _copy(self, **attributes: Any) -> "ScorePrior":
        other = copy.copy(self)
        for name, value in attributes.items():
            setattr(other, name, value)
        return other


def _draws(prior: ScorePrior, key: jax.Array, count: int) -> jax.Array:
    """Independent draws of single events, in data units."""
    model, level = prior.score_model, prior.noise_level
    times = time_grid(model.noise, prior.num_steps, t_min=level)
    _, sigma = model.noise(1.0)
    alpha, _ = model.noise(level)

    def draw(index: jax.Array) -> jax.Array:
        key_start, key_steps = random.split(random.fold_in(key, index))
        start = sigma * random.normal(key_start, tuple(model.event_shape))
        return multistep(key_steps, start, times, model.denoise, model.noise) / alpha

    return jax.vmap(draw)(jnp.arange(count))


_compiled_draws = partial(jax.jit, static_argnames="count")(_draws)


def find_score_priors(fn: Any) -> list[ScorePrior]:
    """Score priors that a distribution is, or is built from."""
    leaves = jax.tree.leaves(fn, is_leaf=lambda node: isinstance(node, ScorePrior))
    return [leaf for leaf in leaves if isinstance(leaf, ScorePrior)]


def mask_error(name: str) -> str:
    """Return the message for a masked score site."""
    return (
        f"{name} is a masked ScorePrior, which has no meaning: without a density nothing can be "
        "switched off. Move the mask to the likelihood (also instead of `obs_mask`)."
    )


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _batch_shape(prior: ScorePrior, value: jax.Array) -> tuple[int, ...]:
    lead = jnp.shape(value)[: max(jnp.ndim(value) - prior.event_dim, 0)]
    return jnp.broadcast_shapes(lead, prior.batch_shape)


def _calling_site(prior: ScorePrior) -> tuple[dict[str, Any] | None, bool]:
    """Find the site whose density is being asked for, and whether Gibbs holds it fixed.

    NumPyro calls `site["fn"].log_prob(value)` without the site, and neither the name for the
    error nor whether the site is observed can be had otherwise than from its frame.
    """
    frame = sys._getframe(2)
    for _ in range(_MAX_FRAMES):
        if frame is None:
            break
        site = frame.f_locals.get("site")
        if isinstance(site, dict) and any(p is prior for p in find_score_priors(site.get("fn"))):
            held = (frame.f_locals.get("model_kwargs") or {}).get(GIBBS_SITES_KWARG, {})
            return site, site["name"] in held
        frame = frame.f_back
    return None, False
