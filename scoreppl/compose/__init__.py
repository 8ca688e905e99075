r"""Score models made of others: products, geometric averages, tempering, negation, mixtures.

A composition is the law

.. math:: \pi(x) \propto \prod_i p_i(x)^{\gamma_i}

at data. **At a noise level its score is the sum of its parts' scores, which is not the score of the
noised composition**: noising and multiplying do not commute (Du et al., arXiv:2302.11552). So the
law at each level is the product of the noised parts, kernels at the lowest level have the right
law, and a plain reverse diffusion (`sample`) has not, however many steps it takes. `sp.ScoreSMC`
weighs its particles for the difference; `sp.AnnealedScoreMCMC` with inner moves by line integrals
moves under the product at every level. A mixture is the exception: it does commute.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.compose.composition import Composition
from scoreppl.compose.leading import Leading, lead
from scoreppl.compose.mixture import Mixture
from scoreppl.noise import is_concrete
from scoreppl.score import ScoreModel

__all__ = [
    "Composition",
    "Leading",
    "Mixture",
    "classifier_free",
    "geometric_average",
    "lead",
    "mixture",
    "negate",
    "product",
    "temper",
]


def product(*models: ScoreModel) -> Composition:
    r"""Return the product :math:`\prod_i p_i`, what all of the models agree on.

    Parameters
    ----------
    *models
        Score models of one event shape.

    Raises
    ------
    ValueError
        If there is none, one is no score model, or event shapes differ.
    """
    return Composition(models, np.ones(len(models)))


def geometric_average(models: Sequence[ScoreModel], exponents: ArrayLike) -> Composition:
    r"""Return :math:`\prod_i p_i^{\gamma_i}` with exponents of sum 1.

    Parameters
    ----------
    models
        Score models of one event shape.
    exponents
        Of sum 1; negative ones are allowed.

    Raises
    ------
    ValueError
        If the models do not fit together or the sum is not 1.
    """
    powers = np.asarray(exponents, float) if is_concrete(exponents) else exponents
    if isinstance(powers, np.ndarray) and abs(powers.sum() - 1) > 1e-6:
        raise ValueError(
            f"`exponents={exponents}` have the sum {powers.sum():g}; those of a geometric average "
            "have 1. Use sp.product and sp.temper for other powers."
        )
    return Composition(models, powers)


def temper(model: ScoreModel, beta: ArrayLike) -> Composition:
    r"""Return :math:`p^\beta`: sharper for beta > 1, flatter below.

    Parameters
    ----------
    model
        A score model.
    beta
        Positive inverse temperature, a scalar.

    Raises
    ------
    ValueError
        If beta is not a positive number.
    """
    power = _scalar("beta", beta)
    if is_concrete(power) and not float(power) > 0:
        raise ValueError(f"`beta={beta}` must be positive.")
    return Composition((model,), power[None])


def classifier_free(cond: ScoreModel, uncond: ScoreModel, scale: ArrayLike) -> Composition:
    r"""Return :math:`p_{cond}^{g} p_{uncond}^{1 - g}`, classifier-free guidance of scale g.

    The scores at a level are those of Ho and Salimans (arXiv:2207.12598) with g = 1 + their w.

    Parameters
    ----------
    cond, uncond
        The conditional and the unconditional model.
    scale
        The guidance scale g; 1 is the conditional model.
    """
    scale = _scalar("scale", scale)
    return Composition((cond, uncond), jnp.stack([scale, 1.0 - scale]))


def negate(model: ScoreModel, other: ScoreModel, strength: ArrayLike = 0.5) -> Composition:
    r"""Return :math:`p / q^\gamma`: like the one and unlike the other.

    Parameters
    ----------
    model, other
        The models p and q.
    strength
        The power gamma, from 0 to below 1: at high noise both are the same wide Gaussian.

    Raises
    ------
    ValueError
        If the strength is not in [0, 1).
    """
    power = _scalar("strength", strength)
    if is_concrete(power) and not 0 <= float(power) < 1:
        raise ValueError(f"`strength={strength}` must be in [0, 1); for others use Composition.")
    return Composition((model, other), jnp.stack([jnp.ones(()), -power]))


def mixture(models: Sequence[ScoreModel], log_weights: ArrayLike | None = None) -> Mixture:
    r"""Return :math:`\sum_i w_i p_i`.

    Parameters
    ----------
    models
        Score models of one event shape and one noise schedule.
    log_weights
        Log weights, shape ``(len(models),)``, normalised if they are not; equal when not given.

    Raises
    ------
    ValueError
        If models or weights do not fit together.
    """
    return Mixture(models, log_weights)


def _scalar(name: str, value: ArrayLike) -> Array:
    if isinstance(value, str) or np.shape(value) != ():
        raise ValueError(f"`{name}={value!r}` must be one number.")
    return jnp.asarray(value, float)
