"""The effect handler that makes the score sites of a model flat."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random
from numpyro.distributions import constraints
from numpyro.distributions.util import is_identically_one
from numpyro.primitives import Messenger

from scoreppl.ppl.coordinates import Image, Unmeasured
from scoreppl.ppl.prior import ScorePrior, find_score_priors, mask_error


class FlatPrior(dist.Distribution):
    """Stand-in for a ScorePrior: same shapes and support, log density 0, cheap draws.

    It is flat in the score model's coordinates, which are the unconstrained ones: a `transform` has
    no Jacobian here. Draws are standard normal there; they only give shapes and a place to start.
    """

    arg_constraints = {}
    pytree_data_fields = ("prior",)

    def __init__(self, prior: ScorePrior, *, validate_args: bool | None = None) -> None:
        self.prior = prior
        super().__init__(prior.batch_shape, prior.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Support of the prior it stands for, reached without a Jacobian."""
        if self.prior.transform is not None:
            return Image(Unmeasured(self.prior.transform), self.event_dim)
        return self.prior.support

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw what standard normal numbers of the site's shape stand for."""
        if key is None:
            raise ValueError(
                "`key` is missing; seed the model with numpyro.handlers.seed(model, key)."
            )
        return self.prior.constrain(random.normal(key, self.shape(tuple(sample_shape))))

    def log_prob(self, value: jax.Array, intermediates: list[Any] | None = None) -> jax.Array:
        """Return zeros of the batch shape."""
        lead = jnp.shape(value)[: jnp.ndim(value) - self.event_dim]
        return jnp.zeros(jnp.broadcast_shapes(lead, self.batch_shape))


class flat_scores(Messenger):
    """Effect handler that makes every ScorePrior site of a model flat, latent or observed.

    The model's log density is then the weight: everything but the score priors. The prior that
    was replaced stays reachable as `site["fn"].prior`.

    Parameters
    ----------
    fn : callable, optional
        The model.

    Raises
    ------
    ValueError
        While the model runs, naming the site: for a score site that is masked, scaled (a
        subsampled plate scales too), wrapped in another distribution, or inside a `scan`.
        Without a density none of these has a meaning.
    """

    def process_message(self, msg: Any) -> None:
        """Swap the distribution of a score site."""
        if msg["type"] != "sample" or isinstance(msg["fn"], FlatPrior):
            return
        priors = find_score_priors(msg["fn"])
        if not priors:
            return
        prior, name = msg["fn"], f"Site '{msg['name']}'"
        if any(p.masked for p in priors):
            raise ValueError(mask_error(name))
        if not isinstance(prior, ScorePrior):
            raise ValueError(
                f"{name} wraps a ScorePrior in {type(prior).__name__}. Give it `transform=`, or "
                "sample the ScorePrior itself and transform its value in the model."
            )
        if msg.get("_control_flow_done"):
            raise ValueError(
                f"{name} is a ScorePrior inside a scan, which is not supported. Sample it before "
                "the scan (in a plate) and scan over its value."
            )
        if msg["scale"] is not None and not is_identically_one(msg["scale"]):
            raise ValueError(
                f"{name} is a ScorePrior in a subsampled plate or under handlers.scale. A prior "
                "known by its score cannot be scaled: use the whole plate, and scale or "
                "subsample the likelihood only."
            )
        # As a plate does: the draws asked for by `sample_shape` are part of the site.
        shape = tuple(msg["kwargs"].get("sample_shape", ())) + prior.batch_shape
        msg["kwargs"]["sample_shape"] = ()
        msg["fn"] = FlatPrior(prior.expand(shape))
