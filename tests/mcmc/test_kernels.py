"""Properties that hold for every Markov kernel, and the formulas that hold for one."""

from functools import cache, partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import IntegratorState
from jax.flatten_util import ravel_pytree

from scoreppl import mcmc
from scoreppl.line_integral import gauss_legendre
from scoreppl.mcmc.trajectory import ScoreState, leapfrog, log_target, target_builder, unpack
from tests.mcmc.kernels import KERNELS
from tests.targets import gaussian_weight, logistic_weight

ALL_KERNELS = pytest.mark.parametrize("kernel", KERNELS)
WITH_GRADIENT = pytest.mark.parametrize("kernel", [k for k in KERNELS if k != "random_walk"])
GAUSSIAN, LOGISTIC = cache(gaussian_weight), cache(logistic_weight)


def flat_weight(x):
    return jnp.zeros(())


def standard_score(x):
    return -x


def on_gaussian(kernel, **options):
    target = GAUSSIAN()
    return KERNELS[kernel](
        target.score_fn, target.log_weight_fn, 2, **{"step_size": 0.4, **options}
    )


def one_step(algorithm, position=None, *, count=64):
    """States before and after one step from `count` exact draws, and the infos."""
    positions = GAUSSIAN().draw(jax.random.key(3), count) if position is None else position
    keys = jax.random.split(jax.random.key(4), count)
    before = jax.jit(jax.vmap(algorithm.init))(positions, keys)
    after, info = jax.jit(jax.vmap(algorithm.step))(keys, before)
    return before, after, info


def chain(algorithm, position, num_steps, seed=0):
    """History of states and infos, by blackjax's own driver."""
    _, history = blackjax.util.run_inference_algorithm(
        jax.random.key(seed), algorithm, num_steps, initial_position=position
    )
    return history


# The line integral in the acceptance.


@ALL_KERNELS
def test_converged_quadrature_agrees_with_exact_density(kernel):
    """The same keys give the same moves, and log-ratios that agree to float32 rounding."""
    exact = on_gaussian(kernel, log_density_fn=GAUSSIAN().log_density_fn)
    _, after, info = one_step(on_gaussian(kernel, quadrature=gauss_legendre(12)))
    _, exact_after, exact_info = one_step(exact)
    np.testing.assert_allclose(info.log_ratio, exact_info.log_ratio, atol=1e-4)
    np.testing.assert_allclose(info.acceptance_rate, exact_info.acceptance_rate, atol=1e-4)
    # A draw may still decide otherwise where its uniform falls within the rounding.
    same = np.all(np.isclose(after.position, exact_after.position, atol=1e-4), axis=1)
    assert same.mean() > 0.98
    assert np.all(exact_info.log_ratio_error == 0.0)


@ALL_KERNELS
def test_default_quadrature_is_close_to_exact_density(kernel):
    exact = on_gaussian(kernel, log_density_fn=GAUSSIAN().log_density_fn)
    info, exact_info = one_step(on_gaussian(kernel))[2], one_step(exact)[2]
    errors = np.abs(info.acceptance_rate - exact_info.acceptance_rate)
    assert np.median(errors) < 1e-2
    assert np.median(info.log_ratio_error) > 0.0


@pytest.mark.parametrize("num_steps", [1, 5])
def test_trapezoid_on_a_leapfrog_path_telescopes(num_steps):
    """H_L - H_0 = eps^2/8 (|s_L|^2 - |s_0|^2): the rule sees nothing between the ends."""
    step_size, score = 0.4, GAUSSIAN().score_fn

    def energy_change(quadrature, x, momentum):
        target = target_builder(
            score, flat_weight, log_density_fn=None, quadrature=quadrature, batch_nodes=True
        )(lambda x: x)
        start = target.start(x)
        state = IntegratorState(x, momentum, log_target(start), start)
        step = leapfrog(target)(score, lambda v: 0.5 * v @ v)
        for _ in range(num_steps):
            state = step(state, jnp.asarray(step_size))
        end = state.logdensity_grad
        change = 0.5 * (state.momentum @ state.momentum - momentum @ momentum) - log_target(end)
        scores = end.prior_score @ end.prior_score - start.prior_score @ start.prior_score
        return change, step_size**2 / 8 * scores

    x = GAUSSIAN().draw(jax.random.key(0), 50)
    momentum = jax.random.normal(jax.random.key(1), x.shape)
    with pytest.warns(UserWarning, match="trapezoid"):
        change, telescoped = jax.vmap(partial(energy_change, "trapezoid"))(x, momentum)
    np.testing.assert_allclose(change, telescoped, atol=1e-4)
    change, telescoped = jax.vmap(partial(energy_change, "simpson"))(x, momentum)
    assert np.max(np.abs(change - telescoped)) > 0.05


def test_mala_accepts_with_its_textbook_ratio():
    target, h = GAUSSIAN(), 0.4
    before, after, info = one_step(
        mcmc.mala(
            target.score_fn,
            target.log_weight_fn,
            step_size=h,
            log_density_fn=target.log_density_fn,
        )
    )
    moved = np.asarray(info.is_accepted)
    assert 0.2 < moved.mean() < 0.95

    def log_proposal(to, state):
        drift = h * np.asarray(state.prior_score + state.weight_gradient, np.float64)
        return -np.sum((to - state.position - drift) ** 2, 1) / (4 * h)

    def log_joint(x):
        return jax.vmap(lambda z: target.log_density_fn(z) + target.log_weight_fn(z))(x)

    x, y = (np.asarray(s.position, np.float64) for s in (before, after))
    log_ratio = log_joint(after.position) - log_joint(before.position)
    log_ratio = np.asarray(log_ratio) + log_proposal(x, after) - log_proposal(y, before)
    expected = np.exp(np.minimum(0.0, log_ratio))
    np.testing.assert_allclose(info.acceptance_rate[moved], expected[moved], atol=2e-4)


def test_barker_accepts_with_its_textbook_ratio():
    target = GAUSSIAN()
    before, after, info = one_step(
        mcmc.barker(
            target.score_fn,
            target.log_weight_fn,
            step_size=0.9,
            log_density_fn=target.log_density_fn,
        )
    )
    moved = np.asarray(info.is_accepted)
    assert 0.2 < moved.mean() < 0.95

    def log_joint(x):
        return jax.vmap(lambda z: target.log_density_fn(z) + target.log_weight_fn(z))(x)

    def force(state):
        return np.asarray(state.prior_score + state.weight_gradient, np.float64)

    # Livingstone and Zanella, arXiv:1908.11812, equation (19).
    z = np.asarray(after.position, np.float64) - np.asarray(before.position, np.float64)
    correction = np.log1p(np.exp(-z * force(before))) - np.log1p(np.exp(z * force(after)))
    log_ratio = np.asarray(log_joint(after.position) - log_joint(before.position))
    expected = np.exp(np.minimum(0.0, log_ratio + correction.sum(1)))
    np.testing.assert_allclose(info.acceptance_rate[moved], expected[moved], atol=2e-4)


@pytest.mark.parametrize("dense", [False, True])
def test_random_walk_has_the_covariance_of_its_metric(dense):
    inverse_mass = jnp.array([[1.2, 0.5], [0.5, 0.7]]) if dense else jnp.array([1.2, 0.7])
    algorithm = mcmc.random_walk(
        jnp.zeros_like, flat_weight, step_size=0.5, inverse_mass_matrix=inverse_mass
    )
    before, after, _ = one_step(algorithm, jnp.zeros((20_000, 2)), count=20_000)
    covariance = np.cov(np.asarray(after.position - before.position).T)
    expected = 0.25 * np.asarray(inverse_mass if dense else jnp.diag(inverse_mass))
    # Standard error of an entry at most 0.25 * 1.2 * sqrt(2 / 20,000) = 0.003; five of them.
    np.testing.assert_allclose(covariance, expected, atol=0.015)


def test_generalised_hmc_turns_around_on_rejection_only():
    # No refreshment to speak of: sqrt(1 - 0.99999**2) = 0.004.
    options = dict(momentum_persistence=0.99999, step_size=0.9)
    before, after, info = one_step(on_gaussian("generalised_hmc", **options), count=500)
    rejected = ~np.asarray(info.is_accepted)
    assert 10 < rejected.sum() < 490
    np.testing.assert_allclose(
        after.momentum[rejected], -before.momentum[rejected], atol=0.03
    )
    # A short step hardly changes the momentum, and is accepted.
    before, after, info = one_step(
        on_gaussian("generalised_hmc", **(options | {"step_size": 1e-3})), count=500
    )
    assert np.all(info.is_accepted)
    np.testing.assert_allclose(after.momentum, before.momentum, atol=0.05)


# States, pytrees, drivers.


@ALL_KERNELS
def test_runs_on_pytrees_and_keeps_its_state_consistent(kernel):
    """blackjax drives it, and what a state remembers is what its position gives."""
    target = LOGISTIC()
    algorithm = KERNELS[kernel](target.score_fn, target.log_weight_fn, 6, step_size=0.4)
    start = {"theta": jnp.asarray(0.5), "x": jnp.zeros(5)}
    states, infos = chain(algorithm, start, 60)
    assert states.position["theta"].shape == (60,)
    assert states.position["x"].shape == (60, 5)
    scores = jax.vmap(target.score_fn)(states.position)
    log_weights, gradients = jax.vmap(jax.value_and_grad(target.log_weight_fn))(states.position)
    if kernel == "random_walk":
        gradients = jax.tree.map(jnp.zeros_like, gradients)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, states.prior_score, scores)
    jax.tree.map(close, states.weight_gradient, gradients)
    close(states.log_weight, log_weights)
    moved = np.any(np.diff(states.position["x"], axis=0) != 0, axis=1)
    np.testing.assert_array_equal(moved, infos.is_accepted[1:])
    assert 0.1 < moved.mean()
    assert np.all((infos.acceptance_rate >= 0) & (infos.acceptance_rate <= 1 + 1e-6))
    assert not np.any(infos.is_nan)


@ALL_KERNELS
def test_same_key_same_move_whatever_the_batch(kernel):
    algorithm = on_gaussian(kernel)
    _, together, _ = one_step(algorithm, count=8)
    positions = GAUSSIAN().draw(jax.random.key(3), 8)
    keys = jax.random.split(jax.random.key(4), 8)
    alone, _ = jax.jit(algorithm.step)(keys[5], algorithm.init(positions[5], keys[5]))
    np.testing.assert_allclose(alone.position, together.position[5], atol=1e-5)


@ALL_KERNELS
def test_nodes_one_by_one_agree_with_nodes_in_a_batch(kernel):
    _, batched, batched_info = one_step(on_gaussian(kernel))
    _, single, single_info = one_step(on_gaussian(kernel, batch_nodes=False))
    same = np.all(np.isclose(single.position, batched.position, atol=1e-4), axis=1)
    assert same.mean() > 0.98  # the rest are decisions within rounding
    np.testing.assert_allclose(
        single_info.acceptance_rate, batched_info.acceptance_rate, atol=1e-4
    )
    np.testing.assert_array_equal(
        single_info.num_score_evaluations, batched_info.num_score_evaluations
    )


@ALL_KERNELS
def test_diagonal_metric_as_a_matrix_is_the_same_kernel(kernel):
    diagonal = jnp.array([1.5, 0.6])
    _, vector, _ = one_step(on_gaussian(kernel, inverse_mass_matrix=diagonal))
    _, matrix, _ = one_step(on_gaussian(kernel, inverse_mass_matrix=jnp.diag(diagonal)))
    same = np.all(np.isclose(vector.position, matrix.position, atol=1e-4), axis=1)
    assert same.mean() > 0.98  # the rest are decisions within rounding


@ALL_KERNELS
def test_step_size_may_be_a_number_a_numpy_scalar_or_traced(kernel):
    position, key = jnp.array([0.5, -0.5]), jax.random.key(0)

    @jax.jit
    def move(step_size):
        algorithm = on_gaussian(kernel, step_size=step_size)
        return algorithm.step(key, algorithm.init(position, key))[0].position

    traced = move(0.3)
    for step_size in (0.3, np.float64(0.3), np.float32(0.3), jnp.asarray(0.3)):
        algorithm = on_gaussian(kernel, step_size=step_size)
        state, _ = jax.jit(algorithm.step)(key, algorithm.init(position, key))
        np.testing.assert_allclose(state.position, traced, atol=1e-6)


@pytest.mark.parametrize("batch_nodes", [True, False])
@ALL_KERNELS
def test_reported_score_evaluations_are_the_calls_made(kernel, batch_nodes):
    calls = []

    def score(x):
        jax.debug.callback(lambda: calls.append(1))
        return -x

    algorithm = KERNELS[kernel](score, flat_weight, 2, step_size=0.3, batch_nodes=batch_nodes)
    state = algorithm.init(jnp.array([1.0, 0.5]), jax.random.key(0))
    jax.effects_barrier()
    assert len(calls) == 1
    calls.clear()
    _, info = jax.jit(algorithm.step)(jax.random.key(1), state)
    jax.effects_barrier()
    assert info.num_score_evaluations == len(calls)


@ALL_KERNELS
def test_exact_density_spends_no_score_on_the_ratio(kernel):
    calls = []

    def score(x):
        jax.debug.callback(lambda: calls.append(1))
        return -x

    algorithm = KERNELS[kernel](
        score, flat_weight, 2, step_size=0.3, log_density_fn=lambda x: -0.5 * x @ x
    )
    state = algorithm.init(jnp.array([1.0, 0.5]), jax.random.key(0))
    jax.effects_barrier()
    calls.clear()
    _, info = jax.jit(algorithm.step)(jax.random.key(1), state)
    jax.effects_barrier()
    assert info.num_score_evaluations == info.num_integration_steps == len(calls)


# Precision.


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@ALL_KERNELS
def test_half_precision_scores(kernel, dtype):
    """The network may be half precision; positions, weights and log-ratios are not."""
    algorithm = KERNELS[kernel](
        lambda x: (-x).astype(dtype), lambda x: -0.5 * jnp.sum((x - 1) ** 2), 2, step_size=0.4
    )
    states, infos = chain(algorithm, jnp.array([0.5, -0.5]), 40)
    assert states.prior_score.dtype == dtype
    assert states.position.dtype == states.log_weight.dtype == jnp.float32
    assert infos.log_ratio.dtype == infos.log_ratio_error.dtype == jnp.float32
    assert np.all(np.isfinite(states.position))
    assert np.mean(infos.is_accepted) > 0.2


@ALL_KERNELS
def test_double_precision_positions(kernel):
    with jax.enable_x64(True):
        algorithm = KERNELS[kernel](
            standard_score, lambda x: -0.5 * jnp.sum((x - 1) ** 2), 2, step_size=0.4
        )
        states, infos = chain(algorithm, jnp.array([0.5, -0.5], jnp.float64), 20)
        assert states.position.dtype == infos.log_ratio.dtype == jnp.float64
        # A float32 network while double precision is on elsewhere.
        states, infos = chain(algorithm, jnp.array([0.5, -0.5], jnp.float32), 20)
        assert np.all(np.isfinite(states.position))


# Failures that must not become numbers.


def assert_stays_below(states, infos, bound):
    assert np.all(np.isfinite(states.position))
    assert np.all(states.position[:, 0] <= bound)
    assert np.mean(np.diff(states.position[:, 0]) != 0) > 0.05  # the chain lives


@ALL_KERNELS
def test_nan_score_is_rejected_and_counted(kernel):
    algorithm = KERNELS[kernel](
        lambda x: jnp.where(x[0] > 0.5, jnp.nan, -x), flat_weight, 2, step_size=0.7
    )
    states, infos = chain(algorithm, jnp.zeros(2), 300)
    assert_stays_below(states, infos, 0.5)
    assert np.sum(infos.is_nan) > 3
    if kernel != "nuts":  # whose trajectory may meet a NaN and still move elsewhere
        assert not np.any(infos.is_accepted & infos.is_nan)


@ALL_KERNELS
def test_nan_weight_is_rejected_and_counted(kernel):
    algorithm = KERNELS[kernel](
        standard_score, lambda x: jnp.log(0.5 - x[0]), 2, step_size=0.7
    )
    states, infos = chain(algorithm, jnp.zeros(2), 300)
    assert_stays_below(states, infos, 0.5)
    assert np.sum(infos.is_nan) > 3


@ALL_KERNELS
def test_weight_of_minus_infinity_is_rejected_and_is_no_failure(kernel):
    """A truncated normal: the chain keeps inside and nothing counts as NaN."""
    algorithm = KERNELS[kernel](
        standard_score, lambda x: jnp.where(x[0] > 0.5, -jnp.inf, 0.0), 2, step_size=0.7
    )
    states, infos = chain(algorithm, jnp.zeros(2), 300)
    assert_stays_below(states, infos, 0.5)
    assert not np.any(infos.is_nan)
    assert np.any(infos.acceptance_rate < 0.05) or kernel == "nuts"


@ALL_KERNELS
def test_start_outside_the_support_moves_in(kernel):
    """A chain that starts at weight zero takes the first proposal that has weight."""
    algorithm = KERNELS[kernel](
        standard_score, lambda x: jnp.where(x[0] > 0.5, -jnp.inf, 0.0), 2, step_size=0.7
    )
    states, _ = chain(algorithm, jnp.array([0.8, 0.0]), 50)
    assert states.position[-1, 0] <= 0.5
    assert np.all(np.isfinite(states.position))


def test_random_walk_asks_for_no_gradient_of_the_weight():
    def black_box(x):
        shape = jax.ShapeDtypeStruct((), jnp.float32)

        def host(z):
            return np.float32(-np.floor(np.abs(z)).sum())

        return jax.pure_callback(host, shape, x, vmap_method="sequential")

    algorithm = mcmc.random_walk(standard_score, black_box, step_size=0.8)
    states, infos = chain(algorithm, jnp.zeros(2), 50)
    assert np.mean(infos.is_accepted) > 0.2
    np.testing.assert_allclose(
        states.log_weight, -np.floor(np.abs(states.position)).sum(1), atol=0
    )
    assert np.all(states.weight_gradient == 0)


def test_divergence_is_counted():
    algorithm = on_gaussian("hmc", step_size=30.0, num_integration_steps=5)
    _, _, info = one_step(algorithm)
    assert np.all(info.is_divergent | info.is_nan)
    assert not np.any(info.is_accepted)


# Arguments.


@ALL_KERNELS
def test_trapezoid_warns(kernel):
    with pytest.warns(UserWarning, match=r"`quadrature='trapezoid'` biases.*'simpson'") as record:
        on_gaussian(kernel, quadrature="trapezoid")
    assert len(record) == 1


@ALL_KERNELS
def test_unknown_rule_is_refused(kernel):
    with pytest.raises(ValueError, match=r"`quadrature='simpsons'` is not known"):
        on_gaussian(kernel, quadrature="simpsons")


@pytest.mark.parametrize("persistence", [1.0, -0.1, float("nan")])
def test_persistence_outside_the_unit_interval_is_refused(persistence):
    with pytest.raises(ValueError, match=r"`momentum_persistence=.*must lie in \[0, 1\)"):
        on_gaussian("generalised_hmc", momentum_persistence=persistence)


def test_generalised_hmc_needs_a_key_for_its_momentum():
    with pytest.raises(ValueError, match="needs `rng_key`"):
        on_gaussian("generalised_hmc").init(jnp.zeros(2))


BAD_SCORES = {
    "scalar": lambda x: -jnp.sum(x),
    "too long": lambda x: jnp.zeros(3),
    "column": lambda x: -x[:, None],
    "structure": lambda x: {"x": -x},
}


@pytest.mark.parametrize("score", BAD_SCORES.values(), ids=BAD_SCORES)
@ALL_KERNELS
def test_score_unlike_the_position_is_refused(kernel, score):
    algorithm = KERNELS[kernel](score, flat_weight, 2, step_size=0.4)
    with pytest.raises(ValueError, match="`score_fn`.*like the position"):
        algorithm.init(jnp.zeros(2), jax.random.key(0))


@ALL_KERNELS
def test_score_with_the_leaves_of_another_site_is_refused(kernel):
    """Equal sizes and other names: flattening both would give a silent wrong number."""
    algorithm = KERNELS[kernel](
        lambda p: {"a": -p["x"], "theta": jnp.zeros(())}, lambda p: 0.0 * p["theta"], 3,
        step_size=0.4,
    )
    position = {"x": jnp.zeros(2), "theta": jnp.zeros(())}
    with pytest.raises(ValueError, match="`score_fn`.*like the position"):
        algorithm.init(position, jax.random.key(0))


@ALL_KERNELS
def test_weight_that_is_no_scalar_is_refused(kernel):
    for weight in (lambda x: x, lambda x: jnp.zeros((1,)), lambda x: (jnp.zeros(()), x)):
        algorithm = KERNELS[kernel](standard_score, weight, 2, step_size=0.4)
        with pytest.raises(ValueError, match="`log_weight_fn`.*scalar"):
            algorithm.init(jnp.zeros(2), jax.random.key(0))


@ALL_KERNELS
def test_metric_of_another_size_is_refused(kernel):
    position, key = jnp.zeros(2), jax.random.key(0)
    for metric in (jnp.ones(3), jnp.ones(1), jnp.eye(3), jnp.ones(()), jnp.ones((2, 3))):
        algorithm = on_gaussian(kernel, inverse_mass_matrix=metric)
        state = on_gaussian(kernel).init(position, key)
        with pytest.raises(ValueError, match="`inverse_mass_matrix`.*shape"):
            algorithm.step(key, state)


@ALL_KERNELS
def test_position_of_integers_is_refused(kernel):
    with pytest.raises(ValueError, match="position.*float"):
        on_gaussian(kernel).init(jnp.array([0, 1]), jax.random.key(0))


def test_flat_order_of_a_metric_is_that_of_ravel_pytree():
    """A metric entry belongs to the leaf that ``ravel_pytree`` puts there."""
    position = {"b": jnp.zeros(1), "a": jnp.zeros(2)}
    flat, _ = ravel_pytree({"b": jnp.ones(1), "a": jnp.zeros(2)})
    metric = jnp.where(flat == 1, 1.0, 1e-8)  # only "b" moves
    algorithm = mcmc.random_walk(
        lambda p: jax.tree.map(jnp.zeros_like, p), lambda p: 0.0 * p["b"][0],
        step_size=1.0, inverse_mass_matrix=metric,
    )
    states, _ = chain(algorithm, position, 5)
    assert np.max(np.abs(states.position["a"])) < 1e-2
    assert np.std(states.position["b"]) > 0.1


def test_states_carry_over_between_kernels():
    """All but the generalised kernel share one state, so that kernels can alternate."""
    state = on_gaussian("mala").init(jnp.array([0.5, -0.5]))
    for kernel in ("hmc", "nuts", "barker"):
        state, _ = on_gaussian(kernel).step(jax.random.key(1), state)
        assert isinstance(state, ScoreState)
    x, _, node = unpack(state)
    np.testing.assert_allclose(node.prior_score, GAUSSIAN().score_fn(x), atol=1e-5)
