"""Independent draws made in blocks, as a NumPyro kernel hands them out one at a time."""

# NumPyro declares these fields as properties, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions.transforms import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.util import is_prng_key

from scoreppl.ppl.flat import FlatPrior, flat_scores
from scoreppl.ppl.potential import Model, Values, log_weight, score_sites
from scoreppl.ppl.prior import ScorePrior
from scoreppl.target import Target


class OrdinaryPrior(NamedTuple):
    """The prior of the ordinary latents, with score sites held at zero.

    Attributes
    ----------
    draw
        ``draw(key)``: unconstrained values of all latents, those of score sites zero.
    log_density
        ``log_density(z)``: log density of the ordinary ones in unconstrained coordinates.
    """

    draw: Callable[[Array], Values]
    log_density: Callable[[Values], Array]


def ordinary_prior(model: Model, args: tuple, kwargs: dict) -> OrdinaryPrior:
    """Return how ordinary latents are drawn from their priors, and with which density.

    Raises
    ------
    ValueError
        If a prior is improper, so that nothing can be drawn from it.
    """

    def latents(key: Array, value_of: Callable[[dict], Array | None]) -> dict[str, Any]:
        sites = trace(substitute(seed(flat_scores(model), key), substitute_fn=value_of)).get_trace(
            *args, **kwargs
        )
        return {
            name: site
            for name, site in sites.items()
            if site["type"] == "sample" and not site["is_observed"]
        }

    def blank(site: dict) -> Array | None:
        is_score = site["type"] == "sample" and isinstance(site["fn"], FlatPrior)
        return site["fn"].prior.constrain(jnp.zeros(site["fn"].shape())) if is_score else None

    def draw(key: Array) -> Values:
        return {
            name: biject_to(site["fn"].support).inv(site["value"])
            for name, site in latents(key, blank).items()
        }

    def log_density(z: Values) -> Array:
        def held(site: dict) -> Array | None:
            given = blank(site)
            if given is None and site["type"] == "sample" and not site["is_observed"]:
                given = biject_to(site["fn"].support)(z[site["name"]])
            return given

        total = jnp.zeros(())
        for name, site in latents(jax.random.key(0), held).items():
            if not isinstance(site["fn"], FlatPrior):
                volume = biject_to(site["fn"].support).log_abs_det_jacobian(z[name], site["value"])
                total += jnp.sum(site["fn"].log_prob(site["value"])) + jnp.sum(volume)
        return total

    try:
        jax.eval_shape(draw, jax.random.key(0))
    except NotImplementedError as error:
        raise ValueError(
            "A latent has an improper prior, from which nothing can be proposed. Give it a proper "
            "one, or use sp.AnnealedScoreMCMC."
        ) from error
    return OrdinaryPrior(draw, log_density)


def check_independent(
    model: Model, target: Target, init_params: Values | None, args: tuple, kwargs: dict
) -> None:
    """Refuse what a kernel of independent draws cannot do."""
    if init_params is not None:
        raise ValueError(
            "`init_params` has no place here: every draw starts from pure noise, and its "
            "ordinary latents from their priors."
        )
    priors = score_sites(model, args, kwargs)
    if not priors:
        raise ValueError(
            "The model has no ScorePrior site, so there are no noise levels to move over; "
            "use sp.ScoreNUTS or numpyro.infer.NUTS."
        )
    log_weight(model, *args, **kwargs)  # refuses what has no weight
    for name, prior in priors.items():
        ScorePrior(prior.score_model, noise_level=target.floors[name])  # checks the level


def next_draw(
    state: Any,
    block_size: int,
    refill: Callable[[Any], Any],
    take: Callable[[Any], Any],
) -> Any:
    """Give the next draw of each chain, making new blocks where the last ones are spent.

    Parameters
    ----------
    state
        A kernel's state, of one chain or of a batch, with the fields ``i``, ``num_warmup``,
        ``index`` (the place of the next draw in the block) and ``rng_key``.
    block_size
        Draws of a block.
    refill
        Makes a new block for a batch of chains.
    take
        Moves one chain to the next draw of its block.
    """
    is_one_chain = is_prng_key(state.rng_key)
    chains = jax.tree.map(lambda v: v[None], state) if is_one_chain else state
    # Chains advance together, so one counter decides for all of them.
    is_used_up = chains.index[0] >= block_size
    is_warmup_over = chains.i[0] == chains.num_warmup[0]
    chains = jax.lax.cond(is_used_up | is_warmup_over, refill, lambda chains: chains, chains)
    chains = jax.vmap(take)(chains)
    return jax.tree.map(lambda v: v[0], chains) if is_one_chain else chains


def draw_keys(rng_key: Array, i: Array, block_size: int) -> Array:
    """Keys of the draws from number `i` on: a draw's key does not depend on its block."""
    numbers = i + jnp.arange(block_size)
    return jax.vmap(partial(jax.random.fold_in, rng_key))(numbers)
