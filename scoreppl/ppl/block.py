"""A block of latents as an event of a network: coordinates, and the model's density in them."""

# NumPyro's handlers are loosely typed, hence
# pyright: reportArgumentType=false, reportOptionalCall=false
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions.transforms import biject_to
from numpyro.handlers import seed, substitute, trace

from scoreppl.ppl.potential import Model, Values
from scoreppl.score import ScoreModel

# One site, or several whose values are strung together in this order.
Names = str | tuple[str, ...]


class Evaluated(NamedTuple):
    """The model at one value of a block.

    Attributes
    ----------
    log_density
        Log density of all sites; -inf outside a support.
    z
        Unconstrained values of all latents, those of the block replaced.
    block
        The network's events, by block name.
    """

    log_density: Array
    z: Values
    block: Values


class Block(NamedTuple):
    """Which sites a network's event is made of, and in which coordinates.

    Attributes
    ----------
    networks
        Score models by site name, or by a tuple of site names.
    coordinates
        ``"constrained"``: events are values as the model sees them; ``"unconstrained"``: they are
        mapped to the reals first, as NumPyro does.
    standardise
        Location and scale that events were standardised by, by the keys of `networks`.
    """

    networks: Mapping[Names, ScoreModel]
    coordinates: str
    standardise: Mapping[Names, tuple[Array, Array]]

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites of the block."""
        return tuple(
            site
            for names in self.networks
            for site in ((names,) if isinstance(names, str) else names)
        )

    @property
    def score_models(self) -> dict[str, ScoreModel]:
        """Score models by block name."""
        return {block_name(names): model for names, model in self.networks.items()}

    def evaluate(
        self,
        model: Model,
        args: tuple,
        kwargs: dict,
        log_weight: Callable[[Values], Array],
        z: Values,
        events: Values | None = None,
    ) -> Evaluated:
        """Run the model, with the block at other events if some are given.

        Parameters
        ----------
        model, args, kwargs
            The model and its arguments.
        log_weight
            Its log density in unconstrained values, that of NumPyro's kernels: under a mask or a
            scale the Jacobians are masked and scaled with the site.
        z
            Unconstrained values of all latents.
        events
            The network's events, by block name; None for those in `z`.
        """
        given = {} if events is None else self._split(events, z)
        is_constrained = self.coordinates == "constrained"

        def value_of(site: dict[str, Any]) -> Array | None:
            name = site["name"]
            if site["type"] != "sample" or name not in z:
                return None
            if name in given and is_constrained:
                return given[name]
            return biject_to(site["fn"].support)(given.get(name, z[name]))

        prepared = substitute(seed(model, jax.random.key(0)), substitute_fn=value_of)
        sites = trace(prepared).get_trace(*args, **kwargs)
        new_z, coordinates = dict(z), {}
        volume, is_inside = jnp.zeros(()), jnp.ones((), bool)
        for name in self.sites:
            support, value = sites[name]["fn"].support, sites[name]["value"]
            transform = biject_to(support)
            if name in given:
                new_z[name] = transform.inv(value) if is_constrained else given[name]
            coordinates[name] = value if is_constrained else new_z[name]
            if is_constrained:
                # A transform's inverse may answer outside the support, too.
                is_inside &= jnp.all(support(value))
                volume += jnp.sum(transform.log_abs_det_jacobian(new_z[name], value))
        total = jnp.where(is_inside, log_weight(new_z) - volume, -jnp.inf)
        return Evaluated(total, new_z, self._join(coordinates))

    def _join(self, values: Values) -> Values:
        """Join the sites' values to events."""
        events = {}
        for names in self.networks:
            event = (
                values[names]
                if isinstance(names, str)
                else jnp.concatenate([jnp.ravel(values[name]) for name in names])
            )
            location, scale = self.standardise.get(names, (0.0, 1.0))
            events[block_name(names)] = (event - location) / scale
        return events

    def _split(self, events: Values, z: Values) -> Values:
        """Take events apart; a value has the shape of its unconstrained one."""
        values = {}
        for names in self.networks:
            location, scale = self.standardise.get(names, (0.0, 1.0))
            event = location + scale * events[block_name(names)]
            if isinstance(names, str):
                values[names] = event
                continue
            for name in names:
                shape = jnp.shape(z[name])
                size = math.prod(shape)
                values[name], event = event[:size].reshape(shape), event[size:]
        return values


def block_name(names: Names) -> str:
    """Name of the event that one site or several make."""
    return names if isinstance(names, str) else "+".join(names)
