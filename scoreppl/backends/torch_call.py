"""A PyTorch module without weights of its own as a JAX function of its weights."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from jax import Array

from scoreppl.backends.convolution import put_channels_last
from scoreppl.backends.extras import load


def on_meta(make: Callable[[], Any], needed_by: str) -> Any:
    """Build a module that has shapes and no memory, in evaluation mode."""
    torch = load("torch", extra="torch", needed_by=needed_by)
    with torch.device("meta"):
        return make().eval()


def shapes_of(module: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a module's parameters and buffers by name."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def own_environment(needed_by: str) -> Any:
    """Return an environment of torchax of our own: its default one is the user's, too."""
    environment = load("torchax.tensor", extra="torch", needed_by=needed_by).Environment()
    put_channels_last(
        environment,
        load("torch", extra="torch", needed_by=needed_by),
        load("torchax.ops.ops_registry", extra="torch", needed_by=needed_by),
    )
    return environment


def jax_call(module: Any, needed_by: str, method: str = "forward") -> Callable[..., Any]:
    """Return ``fn(params, *inputs, **named)`` that runs a method of a module on JAX arrays.

    The module may be one of `on_meta`: what it computes with is `params`, by name, alone.
    """
    interop = load("torchax.interop", extra="torch", needed_by=needed_by)
    environment = own_environment(needed_by)
    stateless = interop.JittableModule(module, dedup_parameters=False)

    def fn(params: Mapping[str, Array], *inputs: Any, **named: Any) -> Any:
        weights = {name: params[name] for name in stateless.params}
        buffers = {name: params[name] for name in stateless.buffers}
        given = environment.j2t_iso((weights, buffers, inputs, named))
        # JAX has no 64-bit integers by default, and nothing here counts that far.
        with environment, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")
            found = stateless.functional_call(method, *given[:2], *given[2], **given[3])
        return environment.t2j_iso(found)

    return fn
