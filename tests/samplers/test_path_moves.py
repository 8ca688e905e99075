"""Moves proposed by a network leave a density invariant, however wrong the network is."""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VPLinear
from scoreppl.samplers import path_moves
from scoreppl.samplers.level_choice import (
    add_gain,
    draw_level,
    level_probabilities,
    no_gains,
)
from scoreppl.samplers.path_moves import choose, path_move
from scoreppl.samplers.reference import angle_ladder, reverse_kernel
from scoreppl.score import ScoreNetwork
from scoreppl.target import Target
from tests.given_ladder import reference_at
from tests.oracle import one_step_oracle

NUM_LEVELS, DRAWS, MUTANT_DRAWS = 24, 10_000, 60_000
TOPS = (3, 12, 24)
SEEDS = (0, 1)


class Setup(NamedTuple):
    law: GaussianMixture
    scales: Array
    reverse: path_moves.Reverse


def law(size):
    """Four unequal modes, of which one is skewed by a neighbour."""
    rng = np.random.default_rng(size)
    means = 3.0 * rng.standard_normal((4, size)) / np.sqrt(max(1.0, size / 8))
    means[3] = means[0] + 0.8
    scales = np.array([0.5, 0.8, 0.4, 0.9])
    return GaussianMixture(means, scales=np.repeat(scales[:, None], size, 1), weights=WEIGHTS)


WEIGHTS = np.array([0.45, 0.3, 0.15, 0.1])


def wrong_network(size):
    """Know another mixture, and add a rotation that is no gradient of anything."""
    truth, rng = law(size), np.random.default_rng(size + 1)
    other = GaussianMixture(
        np.asarray(truth.means) + 0.1 * rng.standard_normal((4, size)),
        scales=1.15 * np.array([0.5, 0.8, 0.4, 0.9])[:, None] * np.ones((1, size)),
        weights=np.ones(4) / 4,
    )

    def denoise(params, x, t, condition):
        return other.denoise(x, t) + 0.05 * jnp.sin(jnp.roll(x, 1))

    return ScoreNetwork(denoise, (), noise=VPLinear(), prediction="x0", event_shape=(size,))


@cache
def setup(size, uses_covariance):
    network = wrong_network(size)
    target = Target({"x": network}, {"x": network.min_time}, lambda z: jnp.zeros(()))
    ladder = angle_ladder(NUM_LEVELS, 1.0, -9.0, network.noise.log_snr(network.min_time))
    start = {"x": jnp.zeros(size)}
    reference = reference_at(jax.random.key(7), start, target, ladder, num_pilots=500, num_steps=50)
    kernel = reverse_kernel(start, target, ladder, reference, uses_covariance=uses_covariance)
    return Setup(law(size), *kernel)


class Kernel(NamedTuple):
    """What the oracle asks for, around one kind of move; the level goes along with the event."""

    made: Setup
    move: Callable
    num_proposals: int = 1

    def init(self, position, key):
        return position

    def step(self, key, state):
        x, top = state
        log_density = self.made.law.log_prob
        moved, info = self.move(
            key, x, log_density(x), log_density, top,
            self.made.scales, self.made.reverse, self.num_proposals,
        )  # fmt: skip
        return (moved, top), info


@cache
def judge_of(size, uses_covariance, move=path_move, num_proposals=1):
    made = setup(size, uses_covariance)

    def functions(state):
        x = state[0]
        modes = made.law.mode_probabilities(x)
        return jnp.concatenate([x[:2], x[:2] ** 2, modes, jnp.sum(x**2)[None]])

    check = one_step_oracle(Kernel(made, move, num_proposals), functions)

    def judge(top, seed=0, count=DRAWS):
        key_draws, key = jax.random.split(jax.random.key(seed))
        draws = made.law.sample_exact(key_draws, (count,))
        return check(key, (draws, jnp.full(count, top)))

    return judge


# Thirty verdicts at the oracle's 1 % each; the seeds are fixed.
@pytest.mark.parametrize(
    "size, uses_covariance",
    [
        (2, True),
        pytest.param(2, False, marks=pytest.mark.slow),
        pytest.param(8, True, marks=pytest.mark.slow),
        (8, False),
        pytest.param(30, False, marks=pytest.mark.slow),
    ],
)
def test_a_wrong_network_leaves_the_density_invariant(size, uses_covariance):
    judge = judge_of(size, uses_covariance)
    for top, seed in product(TOPS, SEEDS):
        found = judge(top, seed)
        assert not found.alarm, (top, seed, found.max_abs_z, found.threshold)
        # It moves: else the oracle sees nothing.
        assert found.acceptance_rate > (0.002 if size == 30 else 0.05), top


@pytest.mark.parametrize("num_proposals", [2, 7])
def test_several_proposals_leave_it_invariant_and_are_accepted_more_often(num_proposals):
    single = judge_of(8, False)(16)
    several = judge_of(8, False, num_proposals=num_proposals)(16)
    assert not several.alarm
    assert several.acceptance_rate > 1.1 * single.acceptance_rate


# The same move once more, from the formula with bridges, path by path; mutants drop its terms.


class Terms(NamedTuple):
    """Log densities of one path: of the data, q(u_n | x_0), the bridges, the reverse kernels."""

    density: Array
    noised: Array
    bridges: Array
    reverse: Array


def log_normal(value, mean, sd):
    return jnp.sum(-0.5 * ((value - mean) / sd) ** 2 - jnp.log(sd))


def bridge(x, u, level, scales):
    """Mean and sd of the event one level below `u`, given the data too."""
    ratio = (scales[level - 1] / scales[level]) ** 2
    return x + ratio * (u - x), scales[level - 1] * jnp.sqrt(1.0 - ratio)


def terms_of(path, log_density, scales, reverse):
    """From the path's events, data first."""
    x, top = path[0], len(path) - 1
    bridges, down = jnp.zeros(()), jnp.zeros(())
    for level in range(1, top + 1):
        mean, sd = reverse(path[level], jnp.asarray(level))
        down += log_normal(path[level - 1], mean, sd)
        if level > 1:
            bridges += log_normal(path[level - 1], *bridge(x, path[level], level, scales))
    return Terms(log_density(x), log_normal(path[-1], x, scales[top]), bridges, down)


def by_bridges(top, flaw):
    def move(key, x, here, log_density, _, scales, reverse, num_proposals):
        key_up, key_bridge, key_down, key_choose = jax.random.split(key, 4)
        normal = lambda key, level: jax.random.normal(jax.random.fold_in(key, level), x.shape)  # noqa: E731
        u = x + scales[top] * normal(key_up, 0)
        old, new = [u], [u]
        for level in range(top, 0, -1):
            mean, sd = bridge(x, old[0], level, scales)
            old.insert(0, x if level == 1 else mean + sd * normal(key_bridge, level))
            mean, sd = reverse(new[0], jnp.asarray(level))
            new.insert(0, mean + sd * normal(key_down, level))
        weights = flaw(*(terms_of(path, log_density, scales, reverse) for path in (old, new)))
        rate = jnp.exp(jnp.minimum(weights[1] - weights[0], 0.0))
        accepted = jax.random.uniform(key_choose) < rate
        info = path_moves.PathMoveInfo(rate, accepted, new[0], jnp.isnan(rate))
        return jnp.where(accepted, new[0], x), info

    return move


def weight(terms):
    return terms.density + terms.noised + terms.bridges - terms.reverse


def correct(old, new):
    return weight(old), weight(new)


def without(**dropped):
    def flaw(old, new):
        zero = {name: jnp.zeros(()) for name in dropped}
        return weight(old._replace(**zero)), weight(new._replace(**zero))

    flaw.__name__ = "without_" + "_".join(dropped)
    return flaw


def always(old, new):
    return jnp.zeros(()), jnp.zeros(())


def with_the_new_data_in_the_old_weight(old, new):
    return weight(old._replace(density=new.density, noised=new.noised)), weight(new)


MUTANTS = [
    without(density=True),
    without(noised=True),
    without(bridges=True),
    without(reverse=True),
    always,
    with_the_new_data_in_the_old_weight,
]
TOP = 9


def test_the_move_is_the_one_of_the_formula_with_bridges():
    own = judge_of(2, False, by_bridges(TOP, correct))(TOP, count=MUTANT_DRAWS)
    assert not own.alarm
    # 10,000 draws: rates differ by less than 0.02 but for 1 in 10,000 chances.
    assert abs(own.acceptance_rate - judge_of(2, False)(TOP).acceptance_rate) < 0.02


def each_mutant():
    quick = ("without_noised", "with_the_new_data_in_the_old_weight")
    return [
        pytest.param(flaw, marks=() if flaw.__name__ in quick else pytest.mark.slow)
        for flaw in MUTANTS
    ]


@pytest.mark.parametrize("flaw", each_mutant(), ids=lambda flaw: flaw.__name__)
def test_mutants_are_seen(flaw):
    found = judge_of(2, False, by_bridges(TOP, flaw))(TOP, count=MUTANT_DRAWS)
    assert found.max_abs_z > 2 * found.threshold


# Parts.


def test_the_weights_of_both_directions_are_the_same_function():
    """Of a path that is drawn down and one that is drawn up, by the formula with bridges."""
    made, top = setup(2, True), 5
    scales, key = made.scales, jax.random.key(3)
    x = jnp.array([0.3, -0.4])
    u, total = path_moves._climb(key, x, top, scales, made.reverse)
    path = [x]
    for level in range(1, top + 1):
        sd = jnp.sqrt(scales[level] ** 2 - scales[level - 1] ** 2)
        path.append(path[-1] + sd * jax.random.normal(jax.random.fold_in(key, level), x.shape))
    np.testing.assert_allclose(path[-1], u, rtol=1e-5)
    down = jnp.zeros(())
    for level in range(1, top + 1):
        mean, root = made.reverse(path[level], jnp.asarray(level))
        z = jax.scipy.linalg.solve_triangular(root, path[level - 1] - mean, lower=True)
        down += -0.5 * jnp.sum(z**2) - jnp.sum(jnp.log(jnp.diagonal(root)))
    bridges = sum(
        log_normal(path[level - 1], *bridge(x, path[level], level, scales))
        for level in range(2, top + 1)
    )
    expected = log_normal(u, x, scales[top]) + bridges - down
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-3)


def from_the_origin(here, factor):
    """Move under the density of the law times a factor."""
    # Outside of what is compiled: `setup` is kept for other tests, which must not get tracers.
    made = setup(2, False)
    move = jax.jit(
        lambda here, factor: path_move(
            jax.random.key(0), jnp.zeros(2), here, lambda x: made.law.log_prob(x) + factor,
            jnp.asarray(4), made.scales, made.reverse, 3,
        )
    )  # fmt: skip
    return move(here, factor)


@pytest.mark.parametrize("factor, is_nan", [(-np.inf, False), (np.nan, True), (np.inf, False)])
def test_no_usable_proposal_is_a_rejection_that_shows(factor, is_nan):
    moved, info = from_the_origin(0.0, factor)
    np.testing.assert_array_equal(moved, np.zeros(2))
    assert info.acceptance_rate == 0 and bool(info.is_nan) == is_nan


@pytest.mark.parametrize("here", [-np.inf, np.nan])
def test_an_event_without_density_is_left(here):
    moved, info = from_the_origin(here, 0.0)
    assert info.is_accepted and np.all(np.isfinite(moved))


def test_the_choice_is_metropolis_hastings_for_one_proposal():
    for proposed, current in ((-1.0, 0.5), (2.0, 0.5)):
        _, rate = choose(jax.random.key(0), jnp.array([proposed]), jnp.asarray(current))
        np.testing.assert_allclose(rate, min(1.0, np.exp(proposed - current)), rtol=1e-6)


def test_levels_are_chosen_by_what_they_gain_per_cost():
    cost = jnp.array([1.0, 2.0, 4.0])
    gains = no_gains(3)
    np.testing.assert_allclose(level_probabilities(gains, cost), np.ones(3) / 3, rtol=1e-6)
    for index, jump, change in ((0, 1.0, 0.0), (1, 1.0, 0.0), (2, 8.0, 0.5), (2, 8.0, 0.5)):
        gains = add_gain(gains, index, jump, change)
    # Per visit and cost: jumps 1, 1/2, 2; changes 0, 0, 1/8.
    expected = 0.1 / 3 + 0.9 * (np.array([2, 1, 4]) / 7 / 2 + np.array([0, 0, 1]) / 2)
    np.testing.assert_allclose(level_probabilities(gains, cost), expected, rtol=1e-5)
    drawn = jax.vmap(lambda key: draw_level(key, level_probabilities(gains, cost)))(
        jax.random.split(jax.random.key(0), 10_000)
    )
    # Five standard errors of a share are at most 0.025.
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 1e4, expected, atol=0.025)
