"""The quickstart's models: a digit seen through a blur and a screen, and a number seen in noise."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

import scoreppl as sp

SIZE = 28
VISIBLE = 14
BLUR_SD = 1.0


def _blur_matrix() -> np.ndarray:
    """Gaussian blur of one axis, rows summing to 1 (the border keeps its light)."""
    offsets = np.arange(SIZE)[:, None] - np.arange(SIZE)[None]
    kernel = np.exp(-0.5 * (offsets / BLUR_SD) ** 2)
    return (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)


BLUR = _blur_matrix()


def observe(x: Array) -> Array:
    """Blur an image and keep its upper half: shape ``(VISIBLE, SIZE)``."""
    return BLUR[:VISIBLE] @ x @ BLUR.T


def digit_model(prior: sp.ScoreModel, y: Array | None = None) -> None:
    """Model a digit, blurred, its lower half hidden, in noise of unknown scale."""
    x = numpyro.sample("x", sp.ScorePrior(prior))
    noise_scale = numpyro.sample("noise_scale", dist.HalfNormal(0.5))
    numpyro.deterministic("ink", total_ink(x))
    numpyro.deterministic("hidden_ink", total_ink(x[VISIBLE:]))
    numpyro.deterministic("centre_pixel", (x[SIZE // 2, SIZE // 2] + 1) / 2)
    numpyro.sample("y", dist.Normal(observe(x), noise_scale).to_event(2), obs=y)


def total_ink(x: Array) -> Array:
    """Sum of the pixels, with black 0 and ink 1."""
    return jnp.sum(x + 1) / 2


def standard_normal_score(params: None, x: Array, t: Array, condition: None) -> Array:
    """Score of a standard normal, which the variance-preserving noise leaves as it is."""
    return -x


STANDARD_NORMAL = sp.ScoreNetwork(
    standard_normal_score,
    None,
    noise=sp.noise.VPLinear(),
    prediction="score",
    event_shape=(),
)


def number_model(y: float) -> None:
    """Model a standard normal number, known by its score, seen in unit noise."""
    x = numpyro.sample("x", sp.ScorePrior(STANDARD_NORMAL))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


@jax.custom_vjp
def zero_valued_density(x: Array) -> Array:
    """Value 0 with the right gradient: what must never be given to NUTS."""
    return jnp.zeros_like(x)


zero_valued_density.defvjp(lambda x: (jnp.zeros_like(x), x), lambda x, g: (-g * x,))


def wrong_number_model(y: float) -> None:
    """Give the same model with the prior as a zero-valued density."""
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.factor("prior", zero_valued_density(x))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
