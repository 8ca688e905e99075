"""What a reconstruction is judged by: error, intervals and the whole posterior, from few draws."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import scoreppl as sp
from case_studies.galaxies.coverage import inside, ranks
from case_studies.tomography.model import blocks, ink, slant, total

# Ranks of a truth among nineteen draws make intervals of exactly 50 and 90 per cent.
NUM_DRAWS = 19
LEVELS = (0.5, 0.9)
# A pixel varies if its ink has this standard deviation over the shipped test digits, a block if
# its ink, in pixels, has the other.
PIXEL_SD, BLOCK_SD = 0.2, 1.0


class Share(NamedTuple):
    """A mean over digits and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        """Give both in per cent."""
        return f"{100 * self.mean:.0f} ± {100 * self.error:.0f}"


def mean_and_error(values: np.ndarray) -> Share:
    """Return the mean over the first axis, the digits, and its standard error."""
    return Share(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def quantities() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what is asked of images, ``(..., size, size) -> (..., values)``, fixed beforehand."""
    digits = np.asarray(ink(sp.pretrained.test_digits().images))
    pixel = digits.std(0) > PIXEL_SD
    block = np.asarray(blocks(digits)).std(0) > BLOCK_SD
    return {
        "pixels": lambda images: images[..., pixel],
        "blocks": lambda images: np.asarray(blocks(images))[..., block],
        "total ink": lambda images: np.asarray(total(images))[..., None],
        "slant": lambda images: np.asarray(slant(images))[..., None],
    }


def psnr(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in decibels, for a peak of 1; shape ``(..., size, size)``."""
    return -10 * np.log10(np.mean((image - truth) ** 2, (-2, -1)))


def psnr_of_exact_mean(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    r"""Return the decibels of the mean of infinitely many draws, estimated from few.

    The squared error of a mean of m independent draws is that of their law's mean and, in
    expectation, their variance over m, which is subtracted here. NaN where nothing is left.

    Parameters
    ----------
    draws
        Shape ``(..., draws, size, size)``.
    truth
        Shape ``(..., size, size)``.
    """
    squared = np.mean((draws.mean(-3) - truth) ** 2, (-2, -1))
    own = np.mean(draws.var(-3, ddof=1), (-2, -1)) / draws.shape[-3]
    return -10 * np.log10(np.where(squared > own, squared - own, np.nan))


def crps(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    r"""Return the continuous ranked probability score, unbiased for few draws.

    .. math:: \frac1m \sum_i |x_i - y| - \frac{1}{2m(m-1)} \sum_{ij} |x_i - x_j|

    which is the fair score of Ferro (2014, doi:10.1002/qj.2270); small is good.

    Parameters
    ----------
    draws
        Shape ``(draws, ...)``.
    truth
        Shape ``(...)``.
    """
    count = len(draws)
    # Sorted, the sum over pairs needs one pass: value number i is the larger of i pairs.
    weight = (2 * np.arange(count) - count + 1).reshape((count,) + (1,) * truth.ndim)
    pairs = np.sum(weight * np.sort(draws, 0), 0) / (count * (count - 1))
    return np.abs(draws - truth).mean(0) - pairs


def coverage(draws: np.ndarray, truth: np.ndarray, level: float) -> Share:
    """Return the share of truths inside central intervals, averaged within each digit.

    Parameters
    ----------
    draws
        Shape ``(digits, draws, values)``.
    truth
        Shape ``(digits, values)``.
    level
        Probability of the intervals.
    """
    held = inside(ranks(np.moveaxis(draws, 1, -1), truth), level, draws.shape[1])
    return mean_and_error(held.mean(-1))
