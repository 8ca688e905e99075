"""The ring and the bar, and what is composed of them.

The plane benchmark of Du et al. (arXiv:2302.11552) and Sjöberg et al. (arXiv:2307.14012): eight
Gaussians on a ring, and a bar. The bar is a mixture of wide Gaussians in place of a box, so that
its score is known at every noise level, and one in a hundred of its draws is background. Without
background the bar's density would be nothing where the ring is, and 1 / bar no law that could be
learned from draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import scoreppl as sp

NOISE = sp.noise.VPCosine()
RADIUS, RING_SCALE = 0.5, 0.03
BAR_SCALE, BACKGROUND, BACKGROUND_SCALE = (0.03, 0.1), 0.01, 0.5
# Half-densities of the bar lie at |x0| = 0.21 and |x1| = 1.
BAR_HALF_WIDTHS = (0.21, 1.0)
ANGLES = 2 * np.pi * np.arange(8) / 8
RING_CENTRES = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
NEGATION_EXPONENTS = np.array([1.3, -0.3])


def ring() -> sp.analytic.GaussianMixture:
    """Return eight Gaussians of equal weight on a circle."""
    return sp.analytic.GaussianMixture(RING_CENTRES, scales=RING_SCALE, noise=NOISE)


def bar() -> sp.analytic.GaussianMixture:
    """Return the smoothed bar with its background, 71 Gaussians."""
    columns, rows = np.linspace(-0.18, 0.18, 7), np.linspace(-0.9, 0.9, 10)
    centres = np.stack(np.meshgrid(columns, rows, indexing="ij"), -1).reshape(-1, 2)
    means = np.concatenate([centres, np.zeros((1, 2))])
    scales = np.concatenate([np.tile(BAR_SCALE, (len(centres), 1)), [[BACKGROUND_SCALE] * 2]])
    weights = np.append(np.full(len(centres), (1 - BACKGROUND) / len(centres)), BACKGROUND)
    return sp.analytic.GaussianMixture(means, scales=scales, weights=weights, noise=NOISE)


class Problem(NamedTuple):
    """A composition.

    Attributes
    ----------
    name
        For tables.
    compose
        From score models of the ring and the bar to their composition.
    law
        The law in words.
    """

    name: str
    compose: Callable[[sp.ScoreModel, sp.ScoreModel], sp.ScoreModel]
    law: str


def _mixture(first: sp.ScoreModel, second: sp.ScoreModel) -> sp.ScoreModel:
    return sp.mixture([first, second])


def _negation(first: sp.ScoreModel, second: sp.ScoreModel) -> sp.ScoreModel:
    return sp.geometric_average([first, second], NEGATION_EXPONENTS)


PRODUCT = Problem("product", sp.product, "ring × bar")
MIXTURE = Problem("mixture", _mixture, "ring + bar")
NEGATION = Problem("negation", _negation, "ring^1.3 / bar^0.3")
PROBLEMS = (PRODUCT, MIXTURE, NEGATION)
