"""Convolutions of PyTorch with their channels last, as XLA's fast ones for the CPU are.

In the body of a loop, such as the steps of a sampler, XLA for the CPU does not put channels last
by itself, and a convolution takes tens of times as long.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


def put_channels_last(environment: Any, torch: Any, registry: Any) -> None:
    """Replace a torchax environment's convolutions of images, and what it gets wrong of others."""
    operator = torch.ops.aten.convolution
    usual = registry.all_aten_ops[operator].func

    def call_jax(fn: Callable[..., Array], *inputs: Any) -> Any:
        return environment.j2t_iso(fn(*environment.t2j_iso(inputs)))

    def convolution(
        x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
        transposed: bool, output_padding: Any, groups: int,
    ) -> Any:  # fmt: skip
        shape = stride, padding, dilation, transposed, output_padding
        if transposed and 1 < groups < weight.shape[0]:
            # torchax confuses the channels of groups.
            return call_jax(lambda *inputs: _by_groups(usual, groups, shape, *inputs),
                            x, weight, bias)  # fmt: skip
        if transposed or len(weight.shape) != 4 or len(x.shape) != 4:
            return call_jax(usual, x, weight, bias, *shape, groups)
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
    shape = Shape(stride, padding, dilation, groups)
    found = _convolve(shape, jnp.moveaxis(x, 1, -1), jnp.transpose(weight, (2, 3, 1, 0)))
    if bias is not None:
        found = found + bias
    return jnp.moveaxis(found, -1, 1)


class Shape(NamedTuple):
    """How a kernel moves over an image; all but `groups` for rows and columns."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def _plain(shape: Shape, x: Array, weight: Array) -> Array:
    """Convolve with channels last, kernels of shape ``(rows, columns, in, out)``."""
    return jax.lax.conv_general_dilated(
        x, weight, shape.stride, [(size, size) for size in shape.padding],
        rhs_dilation=shape.dilation, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=shape.groups,
    )  # fmt: skip


_convolve = jax.custom_jvp(_plain, nondiff_argnums=(0,))


@_convolve.defjvp
def _derivative(
    shape: Shape, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Write the part that is linear in the image so that its transpose is fast, too.

    The transpose of a convolution has its kernel's channels exchanged, which brings the slow loops
    back; that of sums and products has not.
    """
    (x, weight), (dx, dweight) = primals, tangents
    if shape.groups == 1:
        by_image = jax.lax.platform_dependent(
            dx, weight, cpu=partial(_by_products, shape), default=partial(_plain, shape)
        )
    else:
        by_image = _plain(shape, dx, weight)
    return _convolve(shape, x, weight), by_image + _plain(shape, x, dweight)


def _by_products(shape: Shape, x: Array, weight: Array) -> Array:
    """Convolve as a sum of matrix products, one for each entry of the kernel."""
    margins = [(0, 0), *((size, size) for size in shape.padding), (0, 0)]
    padded = jnp.pad(x, margins)
    rows, columns = weight.shape[:2]
    reach = shape.dilation[0] * (rows - 1), shape.dilation[1] * (columns - 1)
    height, width = padded.shape[1] - reach[0], padded.shape[2] - reach[1]
    total = jnp.zeros(())
    for row in range(rows):
        for column in range(columns):
            top, left = row * shape.dilation[0], column * shape.dilation[1]
            seen = padded[
                :, top : top + height : shape.stride[0], left : left + width : shape.stride[1]
            ]
            total = total + seen @ weight[row, column]
    return total


def _by_groups(
    usual: Callable[..., Array], groups: int, shape: tuple, x: Array, weight: Array,
    bias: Array | None,
) -> Array:  # fmt: skip
    """Convolve each group of channels by itself."""
    axis = x.ndim + 1 - weight.ndim
    parts = [
        usual(channels, kernel, None, *shape, 1)
        for channels, kernel in zip(
            jnp.split(x, groups, axis), jnp.split(weight, groups), strict=True
        )
    ]
    found = jnp.concatenate(parts, axis)
    return found if bias is None else found + bias.reshape(-1, *[1] * (weight.ndim - 2))


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * 2 if len(values) == 1 else values
