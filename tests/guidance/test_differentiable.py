"""A guidance that follows gradients is refused where the weight varies without one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl.guidance import (
    LAGS,
    MPGD,
    FullCovariance,
    LimitState,
    LineSearch,
    Lookahead,
    Minority,
    MomentMatched,
    RandomNumbers,
    Tweedie,
    Unguided,
    check_differentiable,
)

POINTS = jax.random.normal(jax.random.key(0), (16, 3))
FOLLOWERS = [
    Tweedie(),
    LAGS(),
    LAGS(hvp="none"),
    LineSearch(),
    FullCovariance(),
    MPGD(),
    Minority(guidance=LAGS()),
]
OTHERS = [
    Unguided(),
    RandomNumbers(),
    LimitState(lambda x: x[0]),
    Lookahead(jnp.zeros((4, 3)), jnp.zeros(4)),
    MomentMatched(lambda x: x, jnp.zeros(3), 1.0),
    Minority(),
    lambda u, view: Unguided()(u, view),
]


def host(x):
    shape = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(
        lambda x: np.sum(x).astype(x.dtype), shape, x, vmap_method="sequential"
    )


ROUGH = {
    "zero or none": lambda x: jnp.where(x[0] > 0, 0.0, -jnp.inf),
    "logarithm of an indicator": lambda x: jnp.log((x[0] > 0).astype(float)),
    "steps": lambda x: jnp.where(x[0] > 0, 0.0, -3.0),
    "rounded": lambda x: -jnp.sum(jnp.round(x) ** 2),
    "no gradient kept": lambda x: jax.lax.stop_gradient(-jnp.sum(x**2)),
    "nowhere possible": lambda x: jnp.where(x[0] > 50.0, 0.0, -jnp.inf),
    "computed on the host": host,
}
SMOOTH = {
    "quadratic": lambda x: -jnp.sum(x**2),
    "constant": lambda x: jnp.zeros(()),
    "constant up to rounding": lambda x: 100.0 + 1e-4 * jnp.sin(1e3 * jax.lax.stop_gradient(x[0])),
    "one coordinate": lambda x: -10.0 * x[2] ** 2,
    "smooth where possible": lambda x: jnp.where(x[0] > 0, -(x[1] ** 2), -jnp.inf),
    "flat in most places": lambda x: jnp.minimum(x[0], -1.0),
}


@pytest.mark.parametrize("name", ROUGH)
@pytest.mark.parametrize("guidance", FOLLOWERS, ids=lambda g: type(g).__name__)
def test_weights_without_gradient_are_refused_with_a_remedy(guidance, name):
    with pytest.raises(ValueError) as error:
        check_differentiable(guidance, ROUGH[name], POINTS)
    words = ("Lookahead", "RandomNumbers", "LimitState", "Unguided")
    for word in (f"`guidance={type(guidance).__name__}`", *words):
        assert word in str(error.value)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("guidance", FOLLOWERS, ids=lambda g: type(g).__name__)
def test_smooth_and_constant_weights_pass(guidance, name):
    check_differentiable(guidance, SMOOTH[name], POINTS)


@pytest.mark.parametrize("name", ROUGH)
def test_guidances_without_gradient_take_any_weight(name):
    for guidance in OTHERS:
        check_differentiable(guidance, ROUGH[name], POINTS)
