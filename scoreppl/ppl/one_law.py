"""Refusal of models in which two kernels side by side would not see the same law."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_sample
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.primitives import Messenger

from scoreppl.ppl.potential import Model


def check_one_law(model: Model, args: tuple, kwargs: dict) -> None:
    """Refuse random numbers of the model's own, and supports that depend across Gibbs blocks.

    Raises
    ------
    ValueError
        If the model draws a key or a parameter's first value, which every kernel would draw anew;
        or if, inside `numpyro.infer.Gibbs`, a support depends on a site of another block, whose
        value Gibbs does not give where it maps values back.
    """
    counter = _KeyCounter()
    with counter:
        sites = _sites(model, args, kwargs)
    if counter.count:
        raise ValueError(
            "The model draws random numbers of its own (numpyro.prng_key, or a parameter whose "
            "first value is a function of a key), so each kernel would see another model. Pass "
            "keys and first values as arguments."
        )
    held = dict(kwargs.get(GIBBS_SITES_KWARG, {}))
    if not held:
        return
    own = {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    found = _depending(model, args, kwargs, held, {}, tuple(own))
    found += _depending(model, args, kwargs, own, held, tuple(held))
    if found:
        raise ValueError(
            f"The support of site '{found[0]}' depends on a site of another block, which Gibbs "
            "does not support; put both into one block."
        )


class _KeyCounter(Messenger):
    """Count the keys that a model asks for outside of its sites."""

    def __init__(self) -> None:
        self.count = 0
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        """Look at one message."""
        self.count += msg["type"] == "prng_key"


def _sites(model: Model, args: tuple, kwargs: dict) -> dict[str, Any]:
    def start(site: dict[str, Any]) -> Any:
        return init_to_sample(site) if site["value"] is None else None

    prepared = substitute(seed(model, jax.random.key(0)), substitute_fn=start)
    return trace(prepared).get_trace(*args, **kwargs)


def _depending(
    model: Model, args: tuple, kwargs: dict, moved: dict, held: dict, names: tuple[str, ...]
) -> list[str]:
    """Names of sites whose support carries the axis over which the values `moved` are mapped."""
    dependent: list[str] = []

    def visit(moved: dict) -> None:
        is_held = not held
        settings = {**kwargs, GIBBS_SITES_KWARG: moved if is_held else held}
        sites = _sites(model if is_held else substitute(model, data=moved), args, settings)
        for name in names:

            @custom_vmap
            def probe(leaf: Array) -> Array:
                return jnp.zeros(())

            @probe.def_vmap
            def found(axis_size: int, in_batched: Any, leaf: Any, name: str = name) -> Any:
                dependent.append(name)
                return jnp.zeros(()), False

            for leaf in jax.tree.leaves(sites[name]["fn"].support):
                if isinstance(leaf, Tracer):
                    probe(leaf)

    mapped = jax.tree.map(lambda v: jnp.expand_dims(jnp.asarray(v), 0), moved)
    if mapped:
        jax.eval_shape(jax.vmap(visit), mapped)
    return dependent
