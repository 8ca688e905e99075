"""Network moves on the unconstrained latents of a NumPyro model."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.guidance.covariance import FULL_COVARIANCE_LIMIT
from scoreppl.ppl.block import Block, Evaluated, Names, block_name
from scoreppl.ppl.potential import Model, Values
from scoreppl.samplers.path_moves import path_move
from scoreppl.samplers.reference import (
    Reference,
    fit_reference,
    reverse_kernel,
)
from scoreppl.score import ScoreModel
from scoreppl.target import Target

_PROTOCOL = ("noise", "event_shape", "min_time", "denoise", "sample")
# Nats by which the density half-way lies below both ends where modes are told apart.
_VALLEY = 1.0


class Moved(NamedTuple):
    """What one network move did; attributes as in `scoreppl.ppl.diffusion_mh.DiffusionMHState`."""

    z: Values
    accept_prob: Array
    is_accepted: Array
    is_nan: Array
    noise_level: Array
    squared_jump: Array
    expected_squared_jump: Array
    is_across_valley: Array
    num_score_evaluations: Array
    num_density_evaluations: Array


class NetworkMoves(NamedTuple):
    """A model with its arguments, and a block of its latents that networks propose."""

    model: Model
    args: tuple
    kwargs: dict
    log_weight: Callable[[Values], Array]
    block: Block
    covariance: str | None
    num_proposals: int

    @property
    def target(self) -> Target:
        """The networks as score models of the block; their law has no part in the answer."""
        models = self.block.score_models
        floors = {name: jnp.asarray(model.min_time) for name, model in models.items()}
        return Target(models, floors, lambda events: jnp.zeros(()))

    def evaluate(self, z: Values, events: Values | None = None) -> Evaluated:
        """Run the model, with the block at other events if some are given."""
        return self.block.evaluate(self.model, self.args, self.kwargs, self.log_weight, z, events)

    def check(self, z: Values) -> None:
        """Refuse networks that do not fit the model's latents, given one start."""
        for site in self.block.sites:
            if site not in z:
                raise ValueError(
                    f"`networks` names '{site}', which is not a latent site of the model (here); "
                    f"those are {list(z)}."
                )
        events = jax.eval_shape(lambda z: self.evaluate(z), z).block
        for names, network in self.block.networks.items():
            expected, found = tuple(network.event_shape), events[block_name(names)].shape
            is_one = isinstance(names, str)
            fits = found[len(found) - len(expected) :] == expected if is_one else found == expected
            if not fits:
                raise ValueError(
                    f"The network of {names!r} has events of shape {expected}, but the values have "
                    f"shape {found} in {self.block.coordinates} coordinates."
                )
            for site in (names,) if is_one else names:
                self._check_shape(site, z)

    def _check_shape(self, site: str, z: Values) -> None:
        single = self.block._replace(networks={site: None}, standardise={})
        values = jax.eval_shape(lambda z: self._replace(block=single).evaluate(z), z).block
        if values[site].shape != jnp.shape(z[site]):
            raise ValueError(
                f"Site '{site}' has constrained values of shape {values[site].shape} but "
                f"{jnp.shape(z[site])} degrees of freedom, so a law of the former has no density; "
                "train the network on unconstrained values and pass coordinates='unconstrained'."
            )

    def fit(
        self, key: Array, z: Values, num_pilots: int, num_levels: int
    ) -> tuple[Array, Reference]:
        """Return the ladder and the reverse kernels' variances, from draws of the networks."""
        events = self.evaluate(z).block
        return fit_reference(key, events, self.target, num_levels=num_levels, num_pilots=num_pilots)

    def move(self, key: Array, z: Values, top: Array, ladder: Array, reference: Reference) -> Moved:
        """Make one move up to the level `top`, counted from the cleanest, and down again."""
        here = self.evaluate(z)
        x, unravel = ravel_pytree(here.block)
        is_full = self._is_full(x.size)
        scales, reverse = reverse_kernel(
            here.block, self.target, ladder, reference, uses_covariance=is_full
        )

        def log_density(x: Array) -> Array:
            events = unravel(x)
            return self.evaluate(z, events).log_density

        _, info = path_move(
            key, x, here.log_density, log_density, top, scales, reverse, self.num_proposals
        )
        there = self.evaluate(z, unravel(info.proposal))
        half_way = log_density(0.5 * (x + info.proposal))
        distance = jnp.sum((info.proposal - x) ** 2)
        rate = info.acceptance_rate
        return Moved(
            # A rejected event keeps its very bits.
            z=jax.tree.map(lambda new, old: jnp.where(info.is_accepted, new, old), there.z, z),
            accept_prob=rate,
            is_accepted=info.is_accepted,
            is_nan=info.is_nan,
            noise_level=jnp.mean(scales[top]),
            squared_jump=jnp.where(info.is_accepted, distance, 0.0),
            expected_squared_jump=jnp.where(rate > 0, rate * distance, 0.0),
            is_across_valley=half_way < jnp.minimum(here.log_density, there.log_density) - _VALLEY,
            num_score_evaluations=top * (1 + self.num_proposals) * (1 + 2 * x.size * is_full),
            num_density_evaluations=jnp.asarray(self.num_proposals + 3),
        )

    def _is_full(self, size: int) -> bool:
        if self.covariance is None:
            return size <= FULL_COVARIANCE_LIMIT
        return self.covariance == "full"


def check_standardise(
    standardise: Mapping[Names, tuple] | None, networks: Mapping[Names, ScoreModel]
) -> dict[Names, tuple[Array, Array]]:
    """Return locations and scales as arrays, or say what is wrong with them."""
    if standardise is not None and not isinstance(standardise, Mapping):
        raise ValueError(
            f"`standardise` of type {type(standardise).__name__} must be a dictionary with the "
            "keys of `networks`."
        )
    checked = {}
    for names, pair in (standardise or {}).items():
        if names not in networks:
            raise ValueError(
                f"`standardise` has the key {names!r}, which `networks` has not; those are "
                f"{list(networks)}."
            )
        try:
            location, scale = (jnp.asarray(value, float) for value in pair)
            shape = jnp.broadcast_shapes(location.shape, scale.shape)
            fits = jnp.broadcast_shapes(shape, networks[names].event_shape)
            fits = fits == tuple(networks[names].event_shape)
        except (TypeError, ValueError):
            fits = False
        if not fits or not bool(
            jnp.all(scale > 0) & jnp.all(jnp.isfinite(location) & jnp.isfinite(scale))
        ):
            raise ValueError(
                f"`standardise[{names!r}]` must be a pair of a finite location and a finite "
                f"positive scale that fit events of shape {tuple(networks[names].event_shape)}."
            )
        checked[names] = (location, scale)
    return checked


def check_networks(networks: Mapping[Names, ScoreModel]) -> dict[Names, ScoreModel]:
    """Return the networks as a dictionary, or say what is wrong with them."""
    if not isinstance(networks, Mapping) or not networks:
        raise ValueError(
            "`networks` must be a dictionary with a score model for at least one site, such as "
            "{'x': network} or {('mu', 'tau'): network}."
        )
    seen = set()
    for names, network in networks.items():
        is_tuple = isinstance(names, tuple) and names and all(isinstance(n, str) for n in names)
        if not isinstance(names, str) and not is_tuple:
            raise ValueError(
                f"`networks` has the key {names!r}; it must be the name of a site, or a tuple of "
                "names."
            )
        missing = [name for name in _PROTOCOL if not hasattr(network, name)]
        if missing:
            raise ValueError(
                f"`networks[{names!r}]` of type {type(network).__name__} lacks "
                f"{', '.join(missing)}; wrap a network with sp.ScoreNetwork."
            )
        for name in (names,) if isinstance(names, str) else names:
            if name in seen:
                raise ValueError(f"`networks` names site '{name}' twice.")
            seen.add(name)
        if not isinstance(names, str) and len(network.event_shape) != 1:
            raise ValueError(
                f"The network of {names!r} has events of shape {tuple(network.event_shape)}; for "
                "several sites together it must be (d,)."
            )
    return dict(networks)
