"""Convolutions of PyTorch with their channels last, as XLA's fast ones for the CPU are.

In the body of a loop, such as the steps of a sampler, XLA for the CPU does not put channels last
by itself, and a convolution takes tens of times as long.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def put_channels_last(environment: Any, torch: Any, registry: Any) -> None:
    """Replace a torchax environment's convolutions of images; transposed ones stay as they are."""
    operator = torch.ops.aten.convolution
    usual = registry.all_aten_ops[operator].func

    def call_jax(fn: Callable[..., Array], *inputs: Any) -> Any:
        return environment.j2t_iso(fn(*environment.t2j_iso(inputs)))

    def convolution(
        x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
        transposed: bool, output_padding: Any, groups: int,
    ) -> Any:  # fmt: skip
        if transposed or len(weight.shape) != 4 or len(x.shape) != 4:
            shape = stride, padding, dilation, transposed, output_padding, groups
            return call_jax(usual, x, weight, bias, *shape)
        options = _pair(stride), _pair(padding), _pair(dilation), groups
        return call_jax(convolve, x, weight, bias, *options)

    def conv2d(
        x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Any:  # fmt: skip
        return convolution(x, weight, bias, stride, padding, dilation, False, 0, groups)

    environment.override_op_definition(operator.default, convolution)
    environment.override_op_definition(torch.ops.aten.conv2d.default, conv2d)


def convolve(
    x: Array, weight: Array, bias: Array | None, stride: tuple[int, int],
    padding: tuple[int, int], dilation: tuple[int, int], groups: int,
) -> Array:  # fmt: skip
    """Convolve images of shape ``(n, channels, height, width)``."""
    found = jax.lax.conv_general_dilated(
        jnp.moveaxis(x, 1, -1), jnp.transpose(weight, (2, 3, 1, 0)), stride,
        [(size, size) for size in padding], rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
    if bias is not None:
        found = found + bias
    return jnp.moveaxis(found, -1, 1)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * 2 if len(values) == 1 else values
