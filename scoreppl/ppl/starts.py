"""Where chains and draws start, and whether the weight can be looked at there."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions.transforms import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_sample

from scoreppl.noise.schedule import is_concrete
from scoreppl.ppl.flat import flat_scores
from scoreppl.ppl.potential import Model, Values
from scoreppl.ppl.prior import ScorePrior
from scoreppl.samplers.annealed import start_from_noise
from scoreppl.score import LocalScore
from scoreppl.target import Target

_NUM_STEPS = 30


def starting_priors(
    priors: dict[str, ScorePrior], target: Target, given: Collection[str]
) -> dict[str, ScorePrior]:
    """Return the priors that score sites start from, but for the sites that are `given`.

    Built for all sites, also the given ones: this checks the noise level.
    """
    starts = {
        name: ScorePrior(
            prior.score_model,
            noise_level=target.floors[name],
            num_steps=_NUM_STEPS,
            batch_shape=prior.draw_shape,
        )
        for name, prior in priors.items()
    }
    # With one level there is no way from noise to data: start where the weight is finite.
    return {
        name: prior
        for name, prior in starts.items()
        if name not in given and not isinstance(prior.score_model, LocalScore)
    }


def finite_start(
    key: Array, checked: Values, starts: dict[str, ScorePrior], target: Target
) -> Values:
    """Draw the score sites in `starts` until the weight is finite; keep the other values.

    From a start whose weight is not a number no proposal is ever accepted. After 100 draws the
    start is `checked`, where the weight is known to be finite.
    """
    if not starts:
        return checked

    def draw(state: tuple[Array, Values]) -> tuple[Array, Values]:
        attempt, z = state
        key_attempt = jax.random.fold_in(key, attempt)
        drawn = {
            name: prior.sample(jax.random.fold_in(key_attempt, index)).astype(z[name].dtype)
            for index, (name, prior) in enumerate(starts.items())
        }
        return attempt + 1, z | drawn

    def is_refused(z: Values) -> Array:
        return ~jnp.isfinite(target.log_weight(z))

    _, z = jax.lax.while_loop(
        lambda state: (state[0] == 0) | ((state[0] < 100) & is_refused(state[1])),
        draw,
        (jnp.zeros((), int), checked),
    )
    keep = is_refused(z)
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), checked, z)


def check_weight(model: Model, args: tuple, kwargs: dict, target: Target) -> None:
    """Refuse a weight that is not a number wherever it is looked at, or never finite for a NaN."""

    def look(key: Array) -> Array:
        start = prior_values(model, args, kwargs, key)
        return target.log_weight(start_from_noise(key, start, target, log_snr=0.0))

    found = jax.jit(jax.vmap(look))(jax.random.split(jax.random.key(0), 16))
    if not is_concrete(found) or np.any(np.isfinite(found)):
        return
    # NumPyro gives an observation that is not a number the log density -inf.
    observed = {name: site["value"] for name, site in _observed_sites(model, args, kwargs).items()}
    broken = [name for name, v in observed.items() if is_concrete(v) and not _is_finite(v)]
    if broken:
        raise ValueError(
            f"Observed sites {broken} hold NaN or infinite values, and the model's log weight is "
            "nowhere finite. Leave these values out of the data, or hide them with "
            "numpyro.handlers.mask."
        )
    if np.all(np.isnan(found)):
        raise ValueError(
            "The model's log weight is not a number at any of 16 draws from the priors; check the "
            "model's arguments for NaN."
        )


def _is_finite(value: ArrayLike) -> bool:
    return bool(np.all(np.isfinite(np.asarray(value, float))))


def _observed_sites(model: Model, args: tuple, kwargs: dict) -> dict[str, dict]:
    """Return the observed sites of the model."""
    prepared = substitute(seed(flat_scores(model), 0), substitute_fn=init_to_sample())
    sites = trace(prepared).get_trace(*args, **kwargs)
    return {n: s for n, s in sites.items() if s["type"] == "sample" and s["is_observed"]}


def prior_values(model: Model, args: tuple, kwargs: dict, key: Array) -> Values:
    """Unconstrained latents at a draw from the ordinary priors; score sites only have a shape."""
    prepared = substitute(seed(flat_scores(model), key), substitute_fn=init_to_sample())
    sites = trace(prepared).get_trace(*args, **kwargs)
    return {
        name: biject_to(site["fn"].support).inv(site["value"])
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
