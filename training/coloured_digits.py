"""MNIST digits in colours on black, with captions of a few words."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb

from training.digits import read_images, read_labels

SIZE = 64
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # a sixth of the hues each
# Shares of captions that name colour and digit, digit, colour, and neither; the rest have none.
SHARES = (0.4, 0.15, 0.15, 0.2)
NOTHING = ""


class Pictures(NamedTuple):
    """Digits, and what could be said of them.

    Attributes
    ----------
    grey
        Bytes, shape ``(n, 28, 28)``.
    rgb
        Colours in [0, 1], shape ``(n, 3)``.
    digits, colours
        Places in `DIGITS` and `COLOURS`.
    """

    grey: np.ndarray
    rgb: np.ndarray
    digits: np.ndarray
    colours: np.ndarray

    def take(self, chosen: np.ndarray | slice) -> "Pictures":
        """Return some of them."""
        return Pictures(*(part[chosen] for part in self))


def read(data: Path, kind: str, count: int, seed: int) -> Pictures:
    """Read `count` digits of the ``train`` or ``t10k`` files and give each a colour."""
    random = np.random.default_rng(seed)
    labels = read_labels(data / f"{kind}-labels-idx1-ubyte")
    chosen = random.permutation(len(labels))[:count]
    hue = random.random(len(chosen))
    saturation, value = random.uniform(0.7, 1.0, (2, len(chosen)))
    rgb = hsv_to_rgb(np.stack([hue, saturation, value], -1))
    named = np.round(6 * hue).astype(int) % 6
    grey = read_images(data / f"{kind}-images-idx3-ubyte")[chosen]
    return Pictures(grey, rgb.astype(np.float32), labels[chosen].astype(int), named)


def draw(pictures: Pictures) -> torch.Tensor:
    """Return images in [-1, 1], shape ``(n, 3, 64, 64)``: twice as large, with a black margin."""
    grey = torch.tensor(pictures.grey, dtype=torch.float32)[:, None] / 255
    large = torch.nn.functional.interpolate(grey, scale_factor=2, mode="bilinear")
    margin = (SIZE - large.shape[-1]) // 2
    large = torch.nn.functional.pad(large, (margin,) * 4)
    return 2 * large * torch.tensor(pictures.rgb)[:, :, None, None] - 1


def captions() -> list[str]:
    """Return everything that can be said, with nothing at last."""
    known = [f"a {colour} {digit}" for colour in (*COLOURS, "") for digit in (*DIGITS, "digit")]
    return [" ".join(caption.split()) for caption in known] + [NOTHING]


def caption(pictures: Pictures, random: np.random.Generator) -> np.ndarray:
    """Return the places in `captions` of what is said of each this time."""
    known, count = len(captions()), len(pictures.digits)
    both, digit, colour, neither = np.cumsum(SHARES)
    u = random.random(count)
    says_colour = (u < both) | ((u >= digit) & (u < colour))
    says_digit = u < digit
    said = np.where(says_colour, pictures.colours, len(COLOURS)) * (len(DIGITS) + 1)
    said += np.where(says_digit, pictures.digits, len(DIGITS))
    return np.where(u < neither, said, known - 1)
