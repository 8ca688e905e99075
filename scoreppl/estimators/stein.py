r"""Stein control variates: functions of mean zero made from the score of the target.

For a smooth function psi and the score s of the target, on unconstrained positions, integration by
parts gives

.. math:: E[\Delta \psi(x) + \nabla \psi(x) \cdot s(x)] = 0.

The score of a target with a score prior is known without a density: prior score plus gradient of
the log weight. Local kernels have it at every draw; recording it costs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.spatial.distance import cdist, pdist

from scoreppl.arguments import check_count, check_positive
from scoreppl.estimators.draws import WeightedDraws

_DRAWS_A_CENTRE, _MAX_CENTRES = 100, 30


@dataclass(frozen=True)
class Stein:
    r"""Zero-variance control variates by polynomials (Mira, Solgi and Imparato, arXiv:1012.2983).

    Parameters
    ----------
    degree
        1: the components of the score, d functions. 2: besides, for x standardised,
        :math:`\delta_{ij} + \tfrac12 (x_i s_j + x_j s_i)`, d (d + 1) / 2 more: for few dimensions.

    Raises
    ------
    ValueError
        If `degree` is neither.

    Notes
    -----
    Exact for a normal target and polynomials of the degree; a multimodal target needs other
    functions (`SteinKernel`, `SteinFunctions`). Indicators and other functions of jumps are hardly
    explained by any. What is biased in the draws or in the score stays so.
    """

    degree: int = 1

    def __post_init__(self) -> None:
        """Check the degree."""
        if self.degree not in (1, 2):
            raise ValueError(f"`degree={self.degree!r}` must be 1 or 2.")

    def __call__(self, draws: WeightedDraws, is_train: np.ndarray) -> np.ndarray:
        """Evaluate them at all draws."""
        x, score = _standardised(draws, is_train)
        if self.degree == 1:
            return score
        i, j = np.triu_indices(x.shape[1])
        second = 0.5 * (x[:, i] * score[:, j] + x[:, j] * score[:, i]) + (i == j)
        return np.concatenate([score, second], axis=1)


@dataclass(frozen=True)
class SteinKernel:
    r"""Control functionals by a kernel (Oates, Girolami and Chopin, arXiv:1410.2392).

    The kernel

    .. math:: k(x, c) = b(x) \, b(c) \, (1 + |x - c|^2 / \ell^2)^{-1/2}, \qquad
        b(x) = (1 + |x|^2 / 4 d)^{-1}

    of standardised positions gives

    .. math::
        \nabla_x \cdot \nabla_c k + s(x) \cdot \nabla_c k + s(c) \cdot \nabla_x k
        + s(x) \cdot s(c) \, k,

    of mean zero in x for every c, one function for each of `num_centres` draws. They follow
    anything smooth, in few dimensions, and vanish far out, where no draw tells what to follow.

    Parameters
    ----------
    num_centres
        How many functions; the regression costs as the square. None: one for every 100 draws, at
        least 2 and at most 30. Functions that follow the draws too closely leave residuals of rare
        large values, which a sample does not hold: the standard error is then too small, by a tenth
        or two by default and several times with 100 of them on a thousand draws
        (docs/estimators.md).
    length_scale
        The length :math:`\ell` in standard deviations; None: the median distance of the centres.

    Raises
    ------
    ValueError
        If an argument is not positive.
    """

    num_centres: int | None = None
    length_scale: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.num_centres is not None:
            check_count("num_centres", self.num_centres, 2)
        if self.length_scale is not None:
            check_positive("length_scale", self.length_scale)

    def __call__(self, draws: WeightedDraws, is_train: np.ndarray) -> np.ndarray:
        """Evaluate them at all draws."""
        x, score = _standardised(draws, is_train)
        # Of draws that the coefficients are not applied to: fixed functions for those.
        usable = np.flatnonzero(is_train & np.isfinite(draws.log_weight))
        wanted = self.num_centres or min(max(len(usable) // _DRAWS_A_CENTRE, 2), _MAX_CENTRES)
        chosen = usable[np.linspace(0, len(usable) - 1, min(wanted, len(usable))).astype(int)]
        # With the factor b the function is b times that of the plain kernel, with the gradient of
        # log b added to the score.
        reach = 4.0 * x.shape[1]
        square = np.sum(x**2, axis=1)
        factor = 1.0 / (1.0 + square / reach)
        score = score - 2.0 * x / (reach + square)[:, None]
        centre, centre_score = x[chosen], score[chosen]
        length = self.length_scale or np.median(pdist(centre)) or 1.0
        inside = 1.0 + cdist(x, centre, "sqeuclidean") / length**2
        kernel, slope = inside**-0.5, inside**-1.5 / length**2
        size = x.shape[1]
        # Along x - c, with the gradient of the kernel in x equal to minus `slope` times it.
        at_x = np.sum(score * x, 1)[:, None] - score @ centre.T
        at_centre = x @ centre_score.T - np.sum(centre_score * centre, 1)
        mixed = slope * (size - 3.0 * (inside - 1.0) / inside)
        found = mixed + slope * (at_x - at_centre) + kernel * (score @ centre_score.T)
        return factor[:, None] * found * factor[chosen]


@dataclass(frozen=True)
class SteinFunctions:
    """Control variates of the user's own functions: features, or a network's outputs.

    Parameters
    ----------
    functions
        ``functions(x)`` maps one standardised position, shape ``(d,)``, to ``(m,)`` values; smooth,
        and of less than exponential growth. Their Laplacians cost d second derivatives each.
    """

    functions: Callable[[Array], Array]

    def __post_init__(self) -> None:
        """Check that they can be called."""
        if not callable(self.functions):
            raise ValueError(f"`functions` of type {type(self.functions).__name__} is no function.")

    def __call__(self, draws: WeightedDraws, is_train: np.ndarray) -> np.ndarray:
        """Evaluate them at all draws."""
        x, score = _standardised(draws, is_train)
        shape = jax.eval_shape(self.functions, jax.ShapeDtypeStruct(x.shape[1:], float)).shape
        if len(shape) != 1:
            raise ValueError(f"`functions` returned shape {shape}; it must be a vector.")
        found = _generator(self.functions, jnp.asarray(x), jnp.asarray(score))
        return np.asarray(found, np.float64)


@partial(jax.jit, static_argnums=0)
def _generator(functions: Callable[[Array], Array], x: Array, score: Array) -> Array:
    """Laplacians plus gradients times scores of functions, at many positions."""

    def one(x: Array, score: Array) -> Array:
        slope = jax.jacfwd(functions)

        def along(direction: Array) -> Array:
            return jax.jvp(slope, (x,), (direction,))[1] @ direction

        bend = jnp.sum(jax.vmap(along)(jnp.eye(x.size, dtype=x.dtype)), axis=0)
        return bend + slope(x) @ score

    return jax.vmap(one)(x, score)


def _standardised(draws: WeightedDraws, is_train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions by their mean and spread, and the score in the same units."""
    if draws.position is None or draws.score is None:
        raise ValueError(
            "Stein control variates need the score of the target at the draws: run sp.ScoreMALA, "
            "sp.ScoreHMC or sp.ScoreNUTS with `extra_fields=('position', 'target_score')`, or give "
            "sp.estimators.weighted_draws a `position` and a `score`."
        )
    if draws.position.shape != draws.score.shape:
        raise ValueError(
            f"`score` has shape {draws.score.shape}, and `position` {draws.position.shape}; they "
            "must agree."
        )
    mean = draws.position[is_train].mean(0)
    spread = draws.position[is_train].std(0)
    spread = np.where(spread > 0, spread, 1.0)
    return (draws.position - mean) / spread, draws.score * spread
