"""PyTorch modules as score models, by torchax: the module runs on JAX arrays, under JAX."""

from typing import Any

from jax.typing import ArrayLike

from scoreppl.backends.extras import load
from scoreppl.backends.plain import Inputs, Outputs, from_callable
from scoreppl.backends.torch_call import own_environment
from scoreppl.noise import Schedule
from scoreppl.score import ScoreNetwork


def from_torch(
    module: Any,
    *,
    noise: Schedule,
    prediction: str,
    event_shape: tuple[int, ...],
    condition: Any = None,
    input_transform: Inputs | None = None,
    output_transform: Outputs | None = None,
    sigma_data: ArrayLike = 0.5,
    min_time: ArrayLike | None = None,
    check_data: ArrayLike | None = None,
) -> ScoreNetwork:
    """Wrap a PyTorch module as a score model; needs ``pip install 'scoreppl[torch]'``.

    The module's operations run as JAX operations, so that `jax.jit`, `jax.vmap`, `jax.grad` and
    `jax.jvp` apply. Its parameters and buffers are copied once and become an argument of every
    compiled program. What in the module depends on the *values* of its inputs, such as Python
    branches, cannot be traced.

    Parameters
    ----------
    module
        A `torch.nn.Module` in evaluation mode, called as ``module(x, t)`` with x of shape
        ``(batch, *event_shape)`` and t of shape ``(batch,)`` unless `input_transform` says
        otherwise.
    noise, prediction, event_shape, sigma_data, min_time
        As of `sp.ScoreNetwork`.
    condition
        Pytree of arrays that `input_transform` gets, for a batch of one.
    input_transform, output_transform, check_data
        As of `from_callable`, on JAX arrays with a leading axis of length one.

    Returns
    -------
    ScoreNetwork
        The score model.

    Raises
    ------
    ImportError
        If PyTorch or torchax is missing.
    ValueError
        If `module` is no module in evaluation mode, or as `from_callable`.
    """
    torch = load("torch", extra="torch", needed_by="from_torch")
    torchax = load("torchax", extra="torch", needed_by="from_torch")
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"`module` of type {type(module).__name__} is no torch.nn.Module.")
    if any(part.training for part in module.modules()):
        raise ValueError(
            "`module` is in training mode, where dropout and normalisation act at random; call "
            "module.eval() first."
        )
    params, call = torchax.extract_jax(module, own_environment("from_torch"))

    def fn(params: Any, *inputs: Any, **named: Any) -> Any:
        return call(params, inputs, named)

    return from_callable(
        fn, params, noise=noise, prediction=prediction, event_shape=event_shape,
        condition=condition, input_transform=input_transform, output_transform=output_transform,
        batched=True, sigma_data=sigma_data, min_time=min_time, check_data=check_data,
    )  # fmt: skip
