"""A small convolutional U-Net in plain JAX: the architecture of the shipped networks.

A network is a flat dictionary of arrays, so that it maps one to one onto a safetensors file, and
a pure function ``unet(params, x, t, condition)`` on a batch of images. The image is folded
2 x 2 pixels to one position (`space_to_depth`), so that every convolution runs at half the
resolution or less; the lowest level carries one self-attention layer and therefore sees the
whole image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_TIME_FEATURES = 16


class UNetShape(NamedTuple):
    """Widths and depths of the network; everything else is fixed.

    Attributes
    ----------
    image_size
        Height and width of the square image; a multiple of 4.
    width
        Channels at half the resolution.
    inner_width
        Channels at a quarter of the resolution.
    blocks
        Residual blocks on the way down, at the bottom and on the way up.
    """

    image_size: int
    width: int
    inner_width: int
    blocks: tuple[int, int, int]


def init_unet(key: Array, shape: UNetShape) -> dict[str, Array]:
    """Draw the initial parameters; the last layer and each block's last layer start at zero."""
    params: dict[str, Array] = {}
    keys = iter(jax.random.split(key, 128))

    def linear(name: str, fan_in: int, fan_out: int, scale: float = 1.0) -> None:
        weight = jax.random.normal(next(keys), (fan_in, fan_out))
        params[f"{name}.weight"] = scale * weight / jnp.sqrt(fan_in)
        params[f"{name}.bias"] = jnp.zeros(fan_out)

    def conv(name: str, fan_in: int, fan_out: int, scale: float = 1.0) -> None:
        weight = jax.random.normal(next(keys), (3, 3, fan_in, fan_out))
        params[f"{name}.weight"] = scale * weight / jnp.sqrt(9 * fan_in)
        params[f"{name}.bias"] = jnp.zeros(fan_out)

    def block(name: str, width: int) -> None:
        conv(f"{name}.first", width, width)
        conv(f"{name}.second", width, width, scale=0.0)
        linear(f"{name}.film", 4 * shape.width, 2 * width, scale=0.1)

    down, bottom, up = shape.blocks
    linear("time.first", 4 * _TIME_FEATURES, 4 * shape.width)
    linear("time.second", 4 * shape.width, 4 * shape.width)
    conv("enter", 4, shape.width)
    for i in range(down):
        block(f"down.{i}", shape.width)
    linear("fold", 4 * shape.width, shape.inner_width)
    for i in range(bottom):
        block(f"bottom.{i}", shape.inner_width)
    linear("attention.qkv", shape.inner_width, 3 * shape.inner_width)
    linear("attention.out", shape.inner_width, shape.inner_width, scale=0.0)
    linear("unfold", shape.inner_width, 4 * shape.width)
    linear("merge", 2 * shape.width, shape.width)
    for i in range(up):
        block(f"up.{i}", shape.width)
    conv("leave", shape.width, 4, scale=0.0)
    return params


def unet(params: dict[str, Array], x: Array, t: Array, condition: None = None) -> Array:
    """Run the network on a batch.

    Parameters
    ----------
    params
        As drawn by `init_unet`; depths and widths are read off the arrays.
    x
        Images, shape ``(batch, height, width)``.
    t
        Noise times in (0, 1], shape ``(batch,)``.
    condition
        Unused: the shipped networks are unconditional.

    Returns
    -------
    Array
        The prediction, shape ``(batch, height, width)``.
    """
    time = _time_embedding(params, t)
    h = _conv(params, "enter", _space_to_depth(x[..., None]))
    for i in range(_depth(params, "down")):
        h = _block(params, f"down.{i}", h, time)
    skip = h
    h = _linear(params, "fold", _space_to_depth(h))
    bottom = _depth(params, "bottom")
    for i in range(bottom):
        h = _block(params, f"bottom.{i}", h, time)
        if i == (bottom - 1) // 2:
            h = _attention(params, h)
    h = _depth_to_space(_linear(params, "unfold", h))
    h = _linear(params, "merge", jnp.concatenate([h, skip], -1))
    for i in range(_depth(params, "up")):
        h = _block(params, f"up.{i}", h, time)
    return _depth_to_space(_conv(params, "leave", jax.nn.silu(_normalise(h))))[..., 0]


def _time_embedding(params: dict[str, Array], t: Array) -> Array:
    # log t resolves the low noise levels (log-SNR ~ -log t there), t itself the high ones.
    frequencies = jnp.pi * 2.0 ** jnp.linspace(-1.0, 4.0, _TIME_FEATURES)
    angles = jnp.concatenate(
        [t[:, None] * frequencies, 0.2 * jnp.log(t)[:, None] * frequencies], -1
    )
    features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    hidden = jax.nn.silu(_linear(params, "time.first", features))
    return jax.nn.silu(_linear(params, "time.second", hidden))


def _depth(params: dict[str, Array], level: str) -> int:
    return sum(name.startswith(f"{level}.") and name.endswith("film.bias") for name in params)


def _linear(params: dict[str, Array], name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _conv(params: dict[str, Array], name: str, x: Array) -> Array:
    out = jax.lax.conv_general_dilated(
        x, params[f"{name}.weight"], (1, 1), "SAME", dimension_numbers=_DIMENSIONS
    )
    return out + params[f"{name}.bias"]


def _normalise(x: Array) -> Array:
    # Over channels at each position, never over the image: the network must see the mean pixel.
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


def _block(params: dict[str, Array], name: str, x: Array, time: Array) -> Array:
    scale, shift = jnp.split(_linear(params, f"{name}.film", time)[:, None, None], 2, -1)
    h = _conv(params, f"{name}.first", jax.nn.silu(_normalise(x) * (1 + scale) + shift))
    return x + _conv(params, f"{name}.second", jax.nn.silu(_normalise(h)))


def _attention(params: dict[str, Array], x: Array, heads: int = 4) -> Array:
    batch, height, width, channels = x.shape
    qkv = _linear(params, "attention.qkv", _normalise(x))
    qkv = qkv.reshape(batch, height * width, 3, heads, channels // heads)
    mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    return x + _linear(params, "attention.out", mixed.reshape(batch, height, width, channels))


def _space_to_depth(x: Array) -> Array:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def _depth_to_space(x: Array) -> Array:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)
