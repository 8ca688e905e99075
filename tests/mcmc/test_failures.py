"""Low precision, broken functions, wrong arguments: a kernel never returns a wrong number."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl import mcmc
from tests.mcmc.kernels import KERNELS, chain, history, quick_jit

ALL_KERNELS = pytest.mark.parametrize("kernel", KERNELS)


def standard_score(x):
    return -x


def flat_weight(x):
    return jnp.zeros(())


def build(kernel, **options):
    return KERNELS[kernel](standard_score, flat_weight, **{"step_size": 0.4, **options})


# Precision.


@ALL_KERNELS
def test_half_precision_scores(kernel):
    """The network may be half precision; positions, weights and log-ratios are not."""
    algorithm = KERNELS[kernel](
        lambda x: (-x).astype(jnp.float16), lambda x: -0.5 * jnp.sum((x - 1) ** 2), step_size=0.4
    )
    states, infos = chain(algorithm, jnp.array([0.5, -0.5]), 40)
    assert states.prior_score.dtype == jnp.float16
    assert states.position.dtype == states.log_weight.dtype == jnp.float32
    assert infos.log_ratio.dtype == infos.log_ratio_error.dtype == jnp.float32
    assert np.all(np.isfinite(states.position))
    assert np.mean(infos.is_accepted) > 0.2


# blackjax's NUTS starts its tree weights in the widest type, and takes no float32 beside it.
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [(k, jnp.float64) for k in KERNELS] + [(k, jnp.float32) for k in KERNELS if k != "nuts"],
)
def test_precision_follows_the_position_where_doubles_are_on(kernel, dtype):
    """Double positions stay double, and a float32 network works beside double precision."""
    with jax.enable_x64(True):
        for step_size in (0.4, np.float64(0.4)):
            algorithm = KERNELS[kernel](
                standard_score, lambda x: -0.5 * jnp.sum((x - 1) ** 2), step_size=step_size
            )
            position, key = jnp.array([0.5, -0.5], dtype), jax.random.key(0)
            start = jax.eval_shape(algorithm.init, position, key)
            state, info = jax.eval_shape(algorithm.step, key, start)
            # A scan over steps needs the types to stay.
            assert jax.tree.map(lambda a: a.dtype, state) == jax.tree.map(lambda a: a.dtype, start)
            assert state.position.dtype == info.log_ratio.dtype == dtype


# Failures that must not become numbers.

BARRIERS = {
    "NaN score": (True, jnp.nan, 0.0),
    "NaN weight": (True, 0.0, jnp.nan),
    "weight of minus infinity": (False, 0.0, -jnp.inf),
}


@cache
def against_barriers(kernel):
    """Chains from inside and from outside of x_0 <= 0.5, one a barrier, in one compilation."""

    @quick_jit
    @jax.vmap
    def run(added_score, added_weight, start):
        algorithm = KERNELS[kernel](
            lambda x: -x + jnp.where(x[0] > 0.5, added_score, 0.0),
            lambda x: jnp.where(x[0] > 0.5, added_weight, 0.0),
            step_size=0.7,
        )
        return history(algorithm, jnp.stack([start, 0.0]), 300)

    _, scores, weights = zip(*BARRIERS.values(), strict=True)
    inside = run(jnp.array(scores), jnp.array(weights), jnp.zeros(3))
    outside = run(jnp.zeros(3), jnp.full(3, -jnp.inf), jnp.array([0.6, 0.8, 1.0]))
    return inside, outside


@pytest.mark.parametrize("barrier", BARRIERS)
@ALL_KERNELS
def test_chain_stays_before_a_barrier(kernel, barrier):
    """What is no number is rejected and counted; weight zero is rejected and is no failure."""
    index, counted = list(BARRIERS).index(barrier), BARRIERS[barrier][0]
    states, infos = jax.tree.map(lambda leaf: leaf[index], against_barriers(kernel)[0])
    assert np.all(np.isfinite(states.position))
    assert np.all(states.position[:, 0] <= 0.5)
    assert np.mean(np.diff(states.position[:, 0]) != 0) > 0.1  # the chain lives
    assert (np.sum(infos.is_nan) > 10) if counted else not np.any(infos.is_nan)
    assert np.all(infos.acceptance_rate <= 1 + 1e-6)  # and no NaN among them
    if kernel != "nuts":  # whose trajectory may meet a NaN and still end elsewhere
        assert not np.any(infos.is_accepted & infos.is_nan)


@pytest.mark.parametrize("kernel", ["hmc", "barker"])
def test_gradient_outside_the_support_is_not_followed(kernel):
    """log(0) has a NaN gradient; the proposal is rejected for its weight and is no failure."""
    algorithm = KERNELS[kernel](
        standard_score, lambda x: jnp.log(jnp.maximum(0.5 - x[0], 0.0)), step_size=0.7
    )
    states, infos = chain(algorithm, jnp.zeros(2), 100)
    assert not np.any(infos.is_nan)
    assert np.any(infos.acceptance_rate == 0.0)
    assert np.all(states.position[:, 0] < 0.5)


@ALL_KERNELS
def test_start_outside_the_support_moves_in(kernel):
    """A chain that starts at weight zero takes the first proposal that has weight."""
    states, infos = against_barriers(kernel)[1]
    assert np.all(states.position[:, -1, 0] <= 0.5)
    assert np.all(np.isfinite(states.position))


def test_random_walk_asks_for_no_gradient_of_the_weight():
    def black_box(x):
        def host(z):
            return np.float32(-np.floor(np.abs(z)).sum())

        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(host, shape, x, vmap_method="sequential")

    algorithm = mcmc.random_walk(standard_score, black_box, step_size=0.8)
    states, infos = chain(algorithm, jnp.zeros(2), 50)
    assert np.mean(infos.is_accepted) > 0.2
    np.testing.assert_array_equal(states.log_weight, -np.floor(np.abs(states.position)).sum(1))
    assert np.all(states.weight_gradient == 0)


def test_divergence_is_counted():
    algorithm = build("hmc", step_size=30.0, num_integration_steps=5)
    states, infos = chain(algorithm, jnp.array([0.5, -0.5]), 20)
    assert np.all(infos.is_divergent)
    assert not np.any(infos.is_accepted)
    assert np.all(states.position == states.position[0])


# Arguments. Shapes are checked when a kernel is traced, so that nothing needs to be compiled.


def trace(algorithm, position=(0.5, -0.5)):
    """Shapes of the state and the info after one step."""
    if isinstance(position, tuple):
        position = jnp.array(position)

    def step(key):
        return algorithm.step(key, algorithm.init(position, key))

    return jax.eval_shape(step, jax.random.key(0))


@ALL_KERNELS
def test_trapezoid_warns_when_the_kernel_is_built(kernel):
    with pytest.warns(UserWarning, match=r"`quadrature='trapezoid'` biases.*'simpson'") as record:
        build(kernel, quadrature="trapezoid")
    assert len(record) == 1


@ALL_KERNELS
def test_unknown_rule_is_refused_when_the_kernel_is_built(kernel):
    with pytest.raises(ValueError, match=r"`quadrature='simpsons'` is not known"):
        build(kernel, quadrature="simpsons")


@pytest.mark.parametrize("persistence", [1.0, -0.1, float("nan")])
def test_persistence_outside_the_unit_interval_is_refused(persistence):
    with pytest.raises(ValueError, match=r"`momentum_persistence=.*must lie in \[0, 1\)"):
        build("generalised_hmc", momentum_persistence=persistence)


def test_generalised_hmc_needs_a_key_for_its_momentum():
    with pytest.raises(ValueError, match="needs `rng_key`"):
        build("generalised_hmc").init(jnp.zeros(2))


@ALL_KERNELS
def test_score_unlike_the_position_is_refused(kernel):
    """Flattening would broadcast a scalar or let leaves change places: a silent wrong number."""

    def refused(bad_score, position):
        algorithm = KERNELS[kernel](bad_score, flat_weight, step_size=0.4)
        with pytest.raises(ValueError, match="`score_fn` returned.*like the position"):
            trace(algorithm, position)

    refused(lambda x: -jnp.sum(x), jnp.zeros(2))
    refused(lambda x: jnp.zeros(3), jnp.zeros(2))
    refused(lambda x: -x[:, None], jnp.zeros(2))
    refused(lambda x: {"x": -x}, jnp.zeros(2))
    refused(lambda p: {"z": -p["x"], "theta": 0.0}, {"x": jnp.zeros(1), "theta": jnp.zeros(())})


@ALL_KERNELS
def test_weight_that_is_no_scalar_is_refused(kernel):
    bad = (lambda x: x, lambda x: jnp.zeros((1,)), lambda x: (jnp.zeros(()), x), lambda x: None)
    for weight in bad:
        algorithm = KERNELS[kernel](standard_score, weight, step_size=0.4)
        with pytest.raises(ValueError, match="`log_weight_fn` returned.*scalar"):
            trace(algorithm)


@ALL_KERNELS
def test_density_that_is_no_scalar_is_refused(kernel):
    with pytest.raises(ValueError, match="`log_density_fn` returned.*scalar"):
        trace(build(kernel, log_density_fn=lambda x: -0.5 * x**2))


@pytest.mark.parametrize("weight", [lambda x: 0, lambda x: 0.0, lambda x: jnp.float16(0)])
@ALL_KERNELS
def test_weight_may_be_a_plain_number(kernel, weight):
    state, _ = trace(KERNELS[kernel](standard_score, weight, step_size=0.4))
    assert state.log_weight.dtype == jnp.float32


@ALL_KERNELS
def test_metric_of_another_size_is_refused(kernel):
    for metric in (jnp.ones(3), jnp.ones(1), jnp.eye(3), jnp.ones(()), jnp.ones((2, 3))):
        with pytest.raises(ValueError, match="`inverse_mass_matrix` has shape"):
            trace(build(kernel, inverse_mass_matrix=metric))


@ALL_KERNELS
def test_position_of_integers_is_refused(kernel):
    for position in (jnp.array([0, 1]), {"x": jnp.zeros(2), "count": 3}):
        with pytest.raises(ValueError, match="`position` holds int32 values"):
            trace(build(kernel), position)
