"""The exact weight of a NumPyro model: its log density with the score sites made flat."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from numpyro.distributions.transforms import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_sample
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.util import constrain_fn, find_valid_initial_params, potential_energy
from numpyro.util import is_prng_key

from scoreppl.ppl.flat import FlatPrior, flat_scores
from scoreppl.ppl.prior import ScorePrior

Model = Callable[..., Any]
Values = dict[str, jax.Array]


class ModelWeight(NamedTuple):
    """The weight of a model, on dictionaries of unconstrained latent values.

    Attributes
    ----------
    initial : dict of str to jax.Array
        Unconstrained starting values of every latent site: ordinary sites drawn from their
        priors, score sites standard normal, unless given. A batch of keys gives a leading axis.
    log_weight : callable
        `log_weight(z, args, kwargs)`: scalar log density of everything but the score priors,
        with ordinary priors, factors, likelihood and the Jacobians of the transforms.
    constrain : callable
        `constrain(z, args, kwargs)`: constrained values with the deterministic sites.
    site_names : tuple of str
        Latent sites, in the order of the model.
    score_site_names : tuple of str
        Those that are score priors.
    """

    initial: Values
    log_weight: Callable[[Values, tuple, dict | None], jax.Array]
    constrain: Callable[[Values, tuple, dict | None], Values]
    site_names: tuple[str, ...]
    score_site_names: tuple[str, ...]


def score_sites(
    model: Model, args: tuple = (), kwargs: dict | None = None
) -> dict[str, ScorePrior]:
    """Latent score sites of a model, with their batch shapes.

    The model runs once with flat score sites, so no network is called; inside a jitted function
    the parameters of networks that are model arguments stay traced.

    Parameters
    ----------
    model : callable
        NumPyro model.
    args, kwargs : tuple, dict
        Its arguments.

    Returns
    -------
    dict of str to ScorePrior
        By site name, in the order of the model.
    """
    sites = _trace(flat_scores(model), random.key(0), args, kwargs)
    return {name: site["fn"].prior for name, site in _latents(sites).items() if _is_score(site)}


def weight_of_model(
    model: Model,
    key: jax.Array,
    args: tuple = (),
    kwargs: dict | None = None,
    *,
    init_params: Values | None = None,
) -> ModelWeight:
    """Split a NumPyro model into its score sites and an exact weight.

    Parameters
    ----------
    model : callable
        NumPyro model; one made by `numpyro.infer.gibbs.conditioned` is fine.
    key : jax.Array
        One key, or a batch of keys, one for each chain.
    args, kwargs : tuple, dict
        The model's arguments.
    init_params : dict of str to jax.Array, optional
        Unconstrained starting values of some or all latent sites, with the leading axis of a
        batch of keys.

    Returns
    -------
    ModelWeight
        Starting values and functions. The functions take the model's arguments again, so that
        new data or new network parameters need no new trace.

    Raises
    ------
    ValueError
        If a latent site is discrete or a Delta, if a plate subsamples at random, if a score
        model depends on a latent site, if `init_params` has unknown names or wrong shapes, or
        if no start with a finite weight was found.
    """
    batch = () if is_prng_key(key) else (key.shape[0],)
    flat, sites = _inspect(model, key[0] if batch else key, args, kwargs)
    names = tuple(sites)
    weight = partial(_log_weight, flat, names)
    given = _checked_init_params(init_params, sites, batch)
    if set(given) == set(names):
        initial = given
    else:
        initial = {**_random_start(flat, sites, key, args, kwargs), **given}
    if given:
        evaluate = partial(weight, args=args, kwargs=kwargs)
        values = (jax.vmap(evaluate) if batch else evaluate)(initial)
        if not isinstance(values, Tracer) and not jnp.all(jnp.isfinite(values)):
            raise ValueError(
                "The model's log weight is not finite at `init_params`; choose unconstrained "
                "values at which every factor and likelihood term is finite."
            )
    scores = tuple(name for name in names if _is_score(sites[name]))
    return ModelWeight(initial, weight, partial(_constrain, flat), names, scores)


def log_weight(model: Model, *args: Any, **kwargs: Any) -> Callable[[Values], jax.Array]:
    r"""Return the log weight of a model as a function of its unconstrained latents.

    .. math:: \log w(z) = \log p(\text{model at } z) - \sum_{\text{score sites}} \log p(x)

    with the log determinants of the transforms from unconstrained values. Score sites made with
    `log_prob="ode"` are left out as well.

    Parameters
    ----------
    model : callable
        NumPyro model.
    *args, **kwargs
        Its arguments.

    Returns
    -------
    callable
        From a dictionary with the unconstrained value of every latent site to a scalar. It can
        be jitted, differentiated and vmapped.
    """
    flat, sites = _inspect(model, random.key(0), args, kwargs)
    return partial(_log_weight, flat, tuple(sites), args=args, kwargs=kwargs)


def _trace(flat: Model, key: jax.Array, args: tuple, kwargs: dict | None) -> dict[str, Any]:
    prepared = substitute(seed(flat, key), substitute_fn=_start_value)
    return trace(prepared).get_trace(*args, **(kwargs or {}))


def _start_value(site: dict[str, Any]) -> Any:
    """Draw a site from its prior; leave alone what already has a value (NumPyro would warn)."""
    return init_to_sample(site) if site["value"] is None else None


def _latents(sites: dict[str, Any]) -> dict[str, Any]:
    return {
        name: site
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


def _is_score(site: dict[str, Any]) -> bool:
    return isinstance(site["fn"], FlatPrior)


def _inspect(
    model: Model, key: jax.Array, args: tuple, kwargs: dict | None
) -> tuple[Model, dict[str, Any]]:
    """Return the flat model, ready to be evaluated, and its latent sites; refuse what cannot."""
    flat = flat_scores(model)
    sites = _trace(flat, key, args, kwargs)
    latents = _latents(sites)
    discrete = [name for name, site in latents.items() if site["fn"].support.is_discrete]
    if discrete:
        raise ValueError(
            f"Latent sites {discrete} are discrete, which needs a kernel of its own: use "
            "numpyro.infer.Gibbs with DiscreteGibbs for them and a kernel that can be a block of "
            "it for the others, such as sp.ScoreMALA or, given a density, sp.DiffusionMH. "
            "Enumeration is not supported."
        )
    for name, site in latents.items():
        if isinstance(site["fn"], dist.Delta):
            raise ValueError(f"Site '{name}' is a latent Delta; use numpyro.deterministic.")
    for name, site in sites.items():
        # Indices that the user substituted need no key; random ones would freeze one subset.
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            if site["kwargs"].get("rng_key") is not None:
                raise ValueError(
                    f"Plate '{name}' subsamples at random, so the weight is not a function of "
                    "the latents. Use the whole plate, or fix the indices with "
                    "numpyro.handlers.substitute."
                )
    _check_fixed_priors(flat, key, latents, args, kwargs)
    parameters = {
        name: site["value"] for name, site in sites.items() if site["type"] in ("param", "mutable")
    }
    # Only `numpyro.prng_key()` statements get the fixed key; latent sites never draw from it.
    hidden = ["sample", "plate", "control_flow"]
    return seed(substitute(flat, data=parameters), random.key(0), hidden), latents


def _check_fixed_priors(
    flat: Model, key: jax.Array, latents: dict[str, Any], args: tuple, kwargs: dict | None
) -> None:
    """Refuse score models whose parameters depend on a latent site.

    Then log p(x | latent) would be needed as a function of the latent, and the score in x does
    not determine it. Every latent value (of this block, and of the sites that Gibbs holds fixed)
    is given a mapped axis; a parameter that carries the axis depends on one of them.
    """
    values = {name: site["value"] for name, site in latents.items()}
    held = (kwargs or {}).get(GIBBS_SITES_KWARG, {})
    dependent: list[str] = []

    def visit(values: Values, held: Values) -> None:
        settings = {**(kwargs or {}), GIBBS_SITES_KWARG: held} if held else kwargs
        sites = _trace(substitute(flat, data=values), key, args, settings)
        for name, site in sites.items():
            if site["type"] != "sample" or not _is_score(site):
                continue

            @custom_vmap
            def probe(leaf: jax.Array) -> jax.Array:
                return jnp.zeros(())

            @probe.def_vmap
            def found(axis_size: int, in_batched: Any, leaf: Any, name: str = name) -> Any:
                dependent.append(name)
                return jnp.zeros(()), False

            for leaf in jax.tree.leaves(site["fn"].prior):
                if isinstance(leaf, Tracer):
                    probe(leaf)

    mapped = jax.tree.map(lambda v: jnp.expand_dims(v, 0), (values, dict(held)))
    if jax.tree.leaves(mapped):
        jax.eval_shape(jax.vmap(visit), *mapped)
    if dependent:
        raise ValueError(
            f"The score model of site '{dependent[0]}' depends on a latent site. Its log density "
            "would be needed as a function of that latent, and a score does not give it: make "
            "the score model fixed, or put the dependence into the likelihood."
        )


def _checked_init_params(
    init_params: Values | None, sites: dict[str, Any], batch: tuple[int, ...]
) -> Values:
    given = {name: jnp.asarray(value) for name, value in (init_params or {}).items()}
    for name, value in given.items():
        if name not in sites:
            raise ValueError(
                f"`init_params` names '{name}', which is not a latent site of the model; those "
                f"are {list(sites)}."
            )
        expected = batch + jnp.shape(biject_to(sites[name]["fn"].support).inv(sites[name]["value"]))
        if value.shape != expected:
            raise ValueError(
                f"`init_params['{name}']` has shape {value.shape}, but the unconstrained value "
                f"has shape {expected} (chains first)."
            )
    return given


def _random_start(
    flat: Model, sites: dict[str, Any], key: jax.Array, args: tuple, kwargs: dict | None
) -> Values:
    prototype = {
        name: biject_to(site["fn"].support).inv(site["value"]) for name, site in sites.items()
    }
    (initial, _, _), valid = find_valid_initial_params(
        key,
        flat,
        init_strategy=partial(_start_value),
        model_args=args,
        model_kwargs=kwargs or {},
        prototype_params=prototype,
        validate_grad=False,
    )
    if not isinstance(valid, Tracer) and not jnp.all(valid):
        raise ValueError(
            "The model's log weight was not finite at any of 100 random starts (ordinary sites "
            "from their priors, score sites standard normal). Pass `init_params`, with the "
            f"unconstrained values of {list(sites)} at a point where every factor and likelihood "
            "term is finite."
        )
    return initial


def _log_weight(
    flat: Model, names: tuple[str, ...], z: Values, args: tuple = (), kwargs: dict | None = None
) -> jax.Array:
    if set(z) != set(names):
        raise ValueError(
            f"The latent values must be those of {sorted(names)}, but {sorted(z)} were given."
        )
    return jnp.asarray(-potential_energy(flat, args, kwargs or {}, z))


def _constrain(flat: Model, z: Values, args: tuple = (), kwargs: dict | None = None) -> Values:
    return constrain_fn(flat, args, kwargs or {}, z, return_deterministic=True)
