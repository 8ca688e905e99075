"""Properties that hold for every Markov kernel, and the formulas that hold for one."""

from functools import cache, partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import IntegratorState
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from scoreppl import mcmc
from scoreppl.line_integral import gauss_legendre
from scoreppl.mcmc.trajectory import ScoreState, leapfrog, log_target, target_builder, unpack
from tests.mcmc.kernels import KERNELS, chain, quick_jit
from tests.targets import logistic_weight

ALL_KERNELS = pytest.mark.parametrize("kernel", KERNELS)


def log_density(x):
    """Three unequal modes, not normalised."""
    means = jnp.array([[2.0, 0.0], [-2.0, 1.0], [-0.5, -1.5]])
    scales, log_weights = jnp.array([0.6, 0.9, 0.7]), jnp.log(jnp.array([0.5, 0.3, 0.2]))
    return logsumexp(log_weights - 0.5 * jnp.sum(((x - means) / scales[:, None]) ** 2, 1))


score = jax.grad(log_density)


def log_weight(x):
    return -0.2 * jnp.sum((x - 0.5) ** 2)


def flat_weight(x):
    return jnp.zeros(())


def on_mixture(kernel, **options):
    return KERNELS[kernel](score, log_weight, **{"step_size": 0.4, **options})


def one_step(algorithm, positions):
    """States before and after one step, and the infos; one key a position."""

    @quick_jit
    def step(positions, keys):
        before = jax.vmap(algorithm.init)(positions, keys)
        return before, *jax.vmap(algorithm.step)(keys, before)

    return step(positions, jax.random.split(jax.random.key(4), len(positions)))


POSITIONS = 1.5 * np.random.default_rng(0).standard_normal((128, 2)).astype(np.float32)
VARIANTS = {
    "default": {},
    "converged": {"quadrature": gauss_legendre(12)},
    "exact": {"log_density_fn": log_density},
    "one by one": {"batch_nodes": False},
    "diagonal": {"inverse_mass_matrix": np.array([1.5, 0.6], np.float32)},
    "matrix": {"inverse_mass_matrix": np.diag([1.5, 0.6]).astype(np.float32)},
}


@cache
def moved(kernel, variant):
    """`one_step` of a variant of a kernel, compiled once for all tests that look at it."""
    return one_step(on_mixture(kernel, **VARIANTS[variant]), POSITIONS)


def assert_same_moves(one, other):
    """Equal but for the odd decision whose uniform falls within float32 rounding."""
    same = np.all(np.isclose(one.position, other.position, atol=1e-4), axis=1)
    assert same.mean() >= 0.98


# The line integral in the acceptance.


@ALL_KERNELS
def test_converged_quadrature_agrees_with_exact_density(kernel):
    """The same keys give the same moves, and log-ratios that agree to float32 rounding."""
    _, after, info = moved(kernel, "converged")
    _, exact_after, exact_info = moved(kernel, "exact")
    assert_same_moves(after, exact_after)
    # NUTS reports the ratio to the state that it selects, which is such a decision; and a jump
    # out of a tail may cross the plane and need still more nodes.
    for name in ("log_ratio", "acceptance_rate"):
        agree = np.isclose(getattr(info, name), getattr(exact_info, name), atol=1e-4, rtol=1e-5)
        assert agree.mean() >= 0.98
    assert np.all(exact_info.log_ratio_error == 0.0)


@ALL_KERNELS
def test_default_quadrature_is_close_to_exact_density(kernel):
    info, exact_info = moved(kernel, "default")[2], moved(kernel, "exact")[2]
    errors = np.abs(info.acceptance_rate - exact_info.acceptance_rate)
    assert np.median(errors) < 5e-3
    assert np.quantile(errors, 0.95) < 0.1
    assert np.median(info.log_ratio_error) > 0.0


@pytest.mark.parametrize("num_steps", [1, 5])
def test_trapezoid_on_a_leapfrog_path_telescopes(num_steps):
    """H_L - H_0 = eps^2/8 (|s_L|^2 - |s_0|^2): the rule sees nothing between the ends."""
    step_size = 0.4

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

    momenta = jax.random.normal(jax.random.key(1), POSITIONS.shape)
    with pytest.warns(UserWarning, match="trapezoid"):
        changes = quick_jit(jax.vmap(partial(energy_change, "trapezoid")))
        change, telescoped = changes(POSITIONS, momenta)
    np.testing.assert_allclose(change, telescoped, atol=1e-4)
    changes = quick_jit(jax.vmap(partial(energy_change, "simpson")))
    change, telescoped = changes(POSITIONS, momenta)
    assert np.max(np.abs(change - telescoped)) > 0.05


def textbook_case(kernel):
    """Ends, forces and log joint ratio of the accepted moves, in float64."""
    before, after, info = moved(kernel, "exact")
    accepted = np.asarray(info.is_accepted)
    assert 0.2 < accepted.mean() < 0.98
    log_joint = jax.vmap(lambda x: log_density(x) + log_weight(x))
    log_ratio = np.asarray(log_joint(after.position) - log_joint(before.position))
    x, y = (np.asarray(state.position, np.float64)[accepted] for state in (before, after))
    force_x, force_y = (
        np.asarray(state.prior_score + state.weight_gradient, np.float64)[accepted]
        for state in (before, after)
    )
    return x, y, force_x, force_y, log_ratio[accepted], info.acceptance_rate[accepted]


def test_mala_accepts_with_its_textbook_ratio():
    x, y, force_x, force_y, log_ratio, rate = textbook_case("mala")
    h = 0.4
    there = -np.sum((y - x - h * force_x) ** 2, 1) / (4 * h)
    back = -np.sum((x - y - h * force_y) ** 2, 1) / (4 * h)
    expected = np.exp(np.minimum(0.0, log_ratio + back - there))
    assert np.mean(expected < 0.95) > 0.1
    np.testing.assert_allclose(rate, expected, atol=2e-4)


def test_barker_accepts_with_its_textbook_ratio():
    x, y, force_x, force_y, log_ratio, rate = textbook_case("barker")
    # Livingstone and Zanella, arXiv:1908.11812: q(x, y) = 2 phi(z) / (1 + exp(-z force)).
    there = -np.log1p(np.exp(-(y - x) * force_x)).sum(1)
    back = -np.log1p(np.exp((y - x) * force_y)).sum(1)
    expected = np.exp(np.minimum(0.0, log_ratio + back - there))
    assert np.mean(expected < 0.95) > 0.1
    np.testing.assert_allclose(rate, expected, atol=2e-4)


@pytest.mark.parametrize("dense", [False, True])
def test_random_walk_has_the_covariance_of_its_metric(dense):
    inverse_mass = jnp.array([[1.2, 0.5], [0.5, 0.7]]) if dense else jnp.array([1.2, 0.7])
    algorithm = mcmc.random_walk(
        jnp.zeros_like, flat_weight, step_size=0.5, inverse_mass_matrix=inverse_mass
    )
    before, after, _ = one_step(algorithm, jnp.zeros((20_000, 2)))
    covariance = np.cov(np.asarray(after.position - before.position).T)
    expected = 0.25 * np.asarray(inverse_mass if dense else jnp.diag(inverse_mass))
    # Standard error of an entry at most 0.25 * 1.2 * sqrt(2 / 20,000) = 0.003; five of them.
    np.testing.assert_allclose(covariance, expected, atol=0.015)


def test_generalised_hmc_turns_around_on_rejection_only():
    # Next to no refreshment, sqrt(1 - 0.99999**2) = 0.004, and a step that is often too long.
    algorithm = on_mixture("generalised_hmc", momentum_persistence=0.99999, step_size=1.1)
    before, after, info = one_step(algorithm, POSITIONS)
    rejected = ~np.asarray(info.is_accepted)
    assert 5 < rejected.sum() < 120
    np.testing.assert_allclose(after.momentum[rejected], -before.momentum[rejected], atol=0.03)
    # A short step hardly changes the momentum, and is accepted.
    algorithm = on_mixture("generalised_hmc", momentum_persistence=0.99999, step_size=1e-3)
    before, after, info = one_step(algorithm, POSITIONS)
    assert np.all(info.is_accepted)
    np.testing.assert_allclose(after.momentum, before.momentum, atol=0.05)


# States, pytrees, drivers.


@ALL_KERNELS
def test_runs_on_pytrees_and_keeps_its_state_consistent(kernel):
    """blackjax drives it, and what a state remembers is what its position gives."""
    target = logistic_weight()
    step_size = 0.1 if kernel == "mala" else 0.4  # a squared length
    algorithm = KERNELS[kernel](target.score_fn, target.log_weight_fn, step_size=step_size)
    start = {"theta": jnp.asarray(0.5), "x": jnp.zeros(5)}
    _, (states, infos) = blackjax.util.run_inference_algorithm(
        jax.random.key(0), algorithm, 60, initial_position=start
    )
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
    moves = np.any(np.diff(states.position["x"], axis=0) != 0, axis=1)
    np.testing.assert_array_equal(moves, infos.is_accepted[1:])
    assert 0.1 < moves.mean()
    assert np.all((infos.acceptance_rate >= 0) & (infos.acceptance_rate <= 1 + 1e-6))
    assert not np.any(infos.is_nan)


@pytest.mark.parametrize("kernel", ["hmc", "nuts", "barker"])
def test_same_key_same_move_whatever_the_batch(kernel):
    _, together, _ = moved(kernel, "default")
    algorithm = on_mixture(kernel)
    key = jax.random.split(jax.random.key(4), len(POSITIONS))[5]
    step = quick_jit(lambda x: algorithm.step(key, algorithm.init(x, key))[0].position)
    np.testing.assert_allclose(step(POSITIONS[5]), together.position[5], atol=1e-5)


@ALL_KERNELS
def test_nodes_one_by_one_agree_with_nodes_in_a_batch(kernel):
    _, batched, batched_info = moved(kernel, "default")
    _, single, single_info = moved(kernel, "one by one")
    assert_same_moves(single, batched)
    np.testing.assert_allclose(single_info.acceptance_rate, batched_info.acceptance_rate, atol=1e-4)
    np.testing.assert_array_equal(
        single_info.num_score_evaluations, batched_info.num_score_evaluations
    )


@pytest.mark.parametrize("kernel", ["hmc", "barker"])
def test_diagonal_metric_as_a_matrix_is_the_same_kernel(kernel):
    assert_same_moves(moved(kernel, "diagonal")[1], moved(kernel, "matrix")[1])
    different = np.abs(moved(kernel, "diagonal")[1].position - moved(kernel, "default")[1].position)
    assert np.median(different) > 1e-2


def test_metric_entry_belongs_to_the_leaf_that_ravel_pytree_puts_there():
    position = {"b": jnp.zeros(1), "a": jnp.zeros(2)}
    flat, _ = ravel_pytree({"b": jnp.ones(1), "a": jnp.zeros(2)})
    algorithm = mcmc.random_walk(
        lambda p: jax.tree.map(jnp.zeros_like, p),
        lambda p: 0.0 * p["b"][0],
        step_size=1.0,
        inverse_mass_matrix=jnp.where(flat == 1, 1.0, 1e-8),  # only "b" moves
    )
    states, _ = chain(algorithm, position, 5)
    assert np.max(np.abs(states.position["a"])) < 1e-2
    assert np.std(states.position["b"]) > 0.1


@ALL_KERNELS
def test_step_size_may_be_a_number_a_numpy_scalar_or_traced(kernel):
    key = jax.random.split(jax.random.key(4), len(POSITIONS))[0]

    def move(step_size):
        algorithm = on_mixture(kernel, step_size=step_size)
        return algorithm.step(key, algorithm.init(POSITIONS[0], key))[0].position

    # The number is tested by the variants.
    traced = quick_jit(move)(0.4)
    np.testing.assert_allclose(traced, moved(kernel, "default")[1].position[0], atol=1e-5)
    for step_size in (np.float64(0.4), np.float32(0.4), jnp.asarray(0.4)):
        result = jax.eval_shape(lambda size=step_size: move(size))
        assert (result.shape, result.dtype) == ((2,), jnp.float32)


@pytest.mark.parametrize("batch_nodes", [True, False])
@ALL_KERNELS
def test_reported_score_evaluations_are_the_calls_made(kernel, batch_nodes):
    reported, calls, steps = count_calls(kernel, {"batch_nodes": batch_nodes})
    assert reported == calls > steps


@pytest.mark.parametrize("kernel", ["hmc", "nuts", "barker"])
def test_exact_density_spends_no_score_on_the_ratio(kernel):
    reported, calls, steps = count_calls(kernel, {"log_density_fn": lambda x: -0.5 * x @ x})
    assert reported == calls == steps


def count_calls(kernel, options):
    """Score evaluations reported, score calls made, and leapfrog steps, over eight steps."""
    calls = []

    def counted(x):
        jax.debug.callback(lambda _: calls.append(1), x)  # an argument: once an event
        return -x

    algorithm = KERNELS[kernel](counted, flat_weight, step_size=0.3, **options)
    state = algorithm.init(jnp.array([1.0, 0.5]), jax.random.key(0))
    jax.effects_barrier()
    assert len(calls) == 1
    step = quick_jit(algorithm.step)
    infos = [step(key, state)[1] for key in jax.random.split(jax.random.key(1), 8)]
    jax.effects_barrier()
    reported = sum(int(info.num_score_evaluations) for info in infos)
    return reported, len(calls) - 1, sum(int(info.num_integration_steps) for info in infos)


def test_states_carry_over_between_kernels():
    """All but the generalised kernel share one state, so that kernels can alternate."""
    state = on_mixture("mala").init(jnp.array([0.5, -0.5]))
    for kernel in ("hmc", "nuts", "barker"):
        state, _ = quick_jit(on_mixture(kernel).step)(jax.random.key(1), state)
        assert isinstance(state, ScoreState)
    x, _, node = unpack(state)
    np.testing.assert_allclose(node.prior_score, score(x), atol=1e-5)
