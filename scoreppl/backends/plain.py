"""Networks that are functions of JAX arrays: plain, flax, equinox."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike

from scoreppl.backends.fit import check_prediction
from scoreppl.noise import Schedule
from scoreppl.score import ScoreNetwork

Inputs = Callable[[Array, Array, Any], tuple | dict[str, Any]]
Outputs = Callable[[Any], Array]


def from_callable(
    fn: Callable[..., Any],
    params: Any,
    *,
    noise: Schedule,
    prediction: str,
    event_shape: tuple[int, ...],
    condition: Any = None,
    input_transform: Inputs | None = None,
    output_transform: Outputs | None = None,
    batched: bool = False,
    sigma_data: ArrayLike = 0.5,
    min_time: ArrayLike | None = None,
    check_data: ArrayLike | None = None,
) -> ScoreNetwork:
    """Wrap a function of JAX arrays as a score model.

    A flax module is ``from_callable(module.apply, variables, ...)``; an equinox one is
    ``params, static = equinox.partition(module, equinox.is_array)`` with the function
    ``lambda params, x, t: equinox.combine(params, static)(x, t)``.

    Parameters
    ----------
    fn
        ``fn(params, *inputs)``.
    params
        Pytree of parameters; an argument of every compiled program, never a constant in it.
    noise, prediction, event_shape, sigma_data, min_time
        As of `sp.ScoreNetwork`.
    condition
        Pytree that `input_transform` gets, a prompt's embedding for instance.
    input_transform
        ``input_transform(x, t, condition)`` returns the positional inputs of `fn` as a tuple, or
        its keyword inputs as a dictionary, from a noisy event, the time in [0, 1] and the
        condition: ``lambda x, t, condition: (x, 1000 * t)`` for a network that counts its steps.
        None: ``(x, t)``, and the condition after them if there is one.
    output_transform
        From what `fn` returns to the prediction. None: as it is, or the only entry of a tuple.
    batched
        Whether `fn` is written for a batch; see `sp.ScoreNetwork`.
    check_data
        Clean events, shape ``(n, *event_shape)``: they are noised and denoised, and a network that
        does so by another prediction type, or not at all, is refused.

    Returns
    -------
    ScoreNetwork
        The score model.

    Raises
    ------
    ValueError
        If an argument is not as above, shapes do not fit, or the network does not fit `check_data`.
    """
    for name, part in (("fn", fn), ("input_transform", input_transform)):
        if part is not None and not callable(part):
            raise ValueError(f"`{name}` of type {type(part).__name__} is not callable.")

    def apply(params: Any, x: Array, t: Array, condition: Any) -> Array:
        if input_transform is not None:
            inputs = input_transform(x, t, condition)
        else:
            inputs = (x, t) if condition is None else (x, t, condition)
        if isinstance(inputs, dict):
            output = fn(params, **inputs)
        elif isinstance(inputs, tuple):
            output = fn(params, *inputs)
        else:
            raise ValueError(
                f"`input_transform` returned a {type(inputs).__name__}; it must return the "
                "network's inputs as a tuple, or by name as a dictionary."
            )
        return _prediction(output, output_transform)

    network = ScoreNetwork(
        apply, params, noise=noise, prediction=prediction, event_shape=event_shape,
        condition=condition, batched=batched, sigma_data=sigma_data,
        min_time=min_time,  # type: ignore[arg-type]
    )  # fmt: skip
    # The network's shapes, seen before the first sampler is.
    try:
        jax.eval_shape(network.denoise, jax.ShapeDtypeStruct(network.event_shape, float), 0.5)
    except Exception as error:
        # Networks raise what they like.
        raise ValueError(
            f"The network could not be traced on one event of shape {network.event_shape} "
            f"({type(error).__name__}: {error}). Check `event_shape`, `input_transform` and "
            "whether the function is written for a batch; what depends on values cannot be traced."
        ) from error
    if check_data is not None:
        check_prediction(network, check_data)
    return network


def _prediction(output: Any, output_transform: Outputs | None) -> Any:
    if output_transform is not None:
        return output_transform(output)
    if isinstance(output, (tuple, list)) and len(output) == 1:
        return output[0]
    if not hasattr(output, "shape"):
        raise ValueError(
            f"The network returned a {type(output).__name__}; pass `output_transform` to take the "
            "prediction out of it."
        )
    return output
