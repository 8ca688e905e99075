"""Every kernel leaves two exact targets invariant, and every mutant is caught.

False alarms. A check bounds max|z| over its test functions at a family-wise rate. The default
suite runs each of the 12 correct cases and a dense metric once, at 0.1 %: at most 1.3 % for all of
them. The slow suite runs the 12 cases on five seeds at 1 % and allows one alarm a case, which a
correct kernel passes with probability 0.999: at most 1.2 % for all. The seeds are fixed.
"""

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm

from tests import mutants
from tests.mcmc.kernels import KERNELS
from tests.oracle import OracleResult, family_threshold, one_step_oracle, paired_z_scores
from tests.targets import (
    ExactTarget,
    gaussian_weight,
    logistic_weight,
    moments,
    moments_and_momentum,
)

TARGETS = {"gaussian": cache(gaussian_weight), "logistic": cache(logistic_weight)}
SEEDS = range(5)

# Working step sizes: acceptance between 0.4 and 0.9, where a wrong acceptance shows.
STEP_SIZES = {
    "gaussian": {
        "hmc": 0.55,
        "nuts": 0.6,
        "generalised_hmc": 0.55,
        "mala": 0.25,
        "random_walk": 0.8,
        "barker": 0.9,
    },
    "logistic": {
        "hmc": 0.5,
        "nuts": 0.5,
        "generalised_hmc": 0.5,
        "mala": 0.15,
        "random_walk": 0.4,
        "barker": 0.5,
    },
}
CASES = [(target, kernel) for target in TARGETS for kernel in KERNELS]


def build(target: str, kernel: str, replace: dict[str, Any] | None = None, **options: Any):
    """One kernel on one target, with some of the target's functions replaced."""
    exact = TARGETS[target]()._replace(**(replace or {}))
    return KERNELS[kernel](
        exact.score_fn,
        exact.log_weight_fn,
        **{"step_size": STEP_SIZES[target][kernel], **options},
    )


def run(
    kernel: SamplingAlgorithm,
    target: ExactTarget,
    *,
    seeds: Any,
    num_draws: int,
    false_alarm_rate: float = 0.01,
) -> Iterator[OracleResult]:
    """Outcome of the oracle on each seed; the draws hold the momentum if the state has one."""
    key = jax.random.key(0)
    position = jax.tree.map(lambda leaf: leaf[0], target.draw(key, 8))
    state = jax.eval_shape(kernel.init, position, key)
    functions = moments_and_momentum if hasattr(state, "momentum") else moments
    check = one_step_oracle(kernel, functions, block_size=5_000, false_alarm_rate=false_alarm_rate)
    for seed in seeds:
        key_draws, key_check = jax.random.split(jax.random.key(seed))
        yield check(key_check, target.draw(key_draws, num_draws))


def assert_invariant(kernel: SamplingAlgorithm, target: ExactTarget) -> None:
    (result,) = run(kernel, target, seeds=[0], num_draws=20_000, false_alarm_rate=0.001)
    assert not result.alarm, f"max|z| = {result.max_abs_z:.1f} > {result.threshold:.2f}"
    # Where everything is accepted the check of an acceptance has no power.
    assert 0.3 < result.acceptance_rate < 0.95


@pytest.mark.parametrize(("target", "kernel"), CASES)
def test_kernel_leaves_target_invariant(target, kernel):
    assert_invariant(build(target, kernel), TARGETS[target]())


@pytest.mark.slow
@pytest.mark.parametrize(("target", "kernel"), CASES)
def test_kernel_leaves_target_invariant_on_many_draws(target, kernel):
    outcomes = list(run(build(target, kernel), TARGETS[target](), seeds=SEEDS, num_draws=100_000))
    report = [f"{outcome.max_abs_z:.2f}" for outcome in outcomes]
    assert sum(outcome.alarm for outcome in outcomes) <= 1, report


@pytest.mark.parametrize(
    "kernel", ["barker", *(pytest.param(k, marks=pytest.mark.slow) for k in ("hmc", "random_walk"))]
)
def test_dense_metric_leaves_target_invariant(kernel):
    dense = jnp.array([[1.2, 0.5], [0.5, 0.7]])
    assert_invariant(build("gaussian", kernel, inverse_mass_matrix=dense), TARGETS["gaussian"]())


# Mutants. Each entry builds a kernel on a named target; what is wrong with it is in its name.


def own_kernel(proposal: str, **defect: Any):
    """A kernel from `mutants.metropolis` at the working step size of the package's own."""

    def make(target: str) -> SamplingAlgorithm:
        step_size = STEP_SIZES[target][proposal]
        propose = {
            "hmc": lambda: mutants.leapfrog_proposal(step_size, 3),
            "mala": lambda: mutants.leapfrog_proposal((2 * step_size) ** 0.5),
            "barker": lambda: mutants.barker_proposal(step_size),
            "random_walk": lambda: mutants.random_walk_proposal(step_size),
        }[proposal]()
        exact = TARGETS[target]()
        return mutants.metropolis(exact.score_fn, exact.log_weight_fn, propose, **defect)

    return make


def with_rule(kernel: str, rule: Any):
    def make(target: str) -> SamplingAlgorithm:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the trapezoid's, tested elsewhere
            return build(target, kernel, quadrature=rule)

    return make


def with_weight(kernel: str, defect: Any):
    def make(target: str) -> SamplingAlgorithm:
        return build(target, kernel, {"log_weight_fn": defect(TARGETS[target]().log_weight_fn)})

    return make


def with_folded_weight(kernel: str):
    def make(target: str) -> SamplingAlgorithm:
        exact = TARGETS[target]()
        folded = mutants.weight_folded_into_score(exact.score_fn, exact.log_weight_fn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            replace = dict(zip(("score_fn", "log_weight_fn"), folded, strict=True))
            return build(target, kernel, replace, quadrature="trapezoid")

    return make


def without_flip(target: str) -> SamplingAlgorithm:
    return mutants.without_momentum_flip(build(target, "generalised_hmc"))


PROPOSALS = ["hmc", "mala", "barker", "random_walk"]
MUTANTS = (
    {f"unadjusted {p}": ("gaussian", own_kernel(p, accept=False)) for p in PROPOSALS}
    | {
        f"no proposal ratio {p}": ("gaussian", own_kernel(p, proposal_ratio=False))
        for p in ("hmc", "mala", "barker")
    }
    | {
        f"{rule if isinstance(rule, str) else rule.name} {k}": ("gaussian", with_rule(k, rule))
        for rule in (mutants.half_integral(), mutants.left_endpoint(), "trapezoid")
        for k in KERNELS
    }
    | {
        f"no weight ratio {k}": ("gaussian", with_weight(k, mutants.without_weight_ratio))
        for k in KERNELS
    }
    | {f"no jacobian {k}": ("logistic", with_weight(k, mutants.without_jacobian)) for k in KERNELS}
    | {f"folded weight {k}": ("logistic", with_folded_weight(k)) for k in KERNELS}
    | {"no momentum flip": ("gaussian", without_flip)}
)
# One of each defect; the others differ in the kernel only.
FAST_MUTANTS = [
    "unadjusted mala",
    "no proposal ratio mala",
    "no proposal ratio barker",
    "half_integral nuts",
    "left_endpoint random_walk",
    "trapezoid hmc",
    "trapezoid mala",
    "no weight ratio barker",
    "no jacobian random_walk",
    "folded weight mala",
    "no momentum flip",
]


@pytest.mark.parametrize("name", FAST_MUTANTS)
def test_mutant_is_caught(name):
    target, make = MUTANTS[name]
    (result,) = run(
        make(target), TARGETS[target](), seeds=[0], num_draws=20_000, false_alarm_rate=0.001
    )
    assert result.alarm, f"max|z| = {result.max_abs_z:.1f} <= {result.threshold:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MUTANTS.keys() - set(FAST_MUTANTS)))
def test_other_mutants_are_caught(name):
    target, make = MUTANTS[name]
    (result,) = run(make(target), TARGETS[target](), seeds=[0], num_draws=100_000)
    assert result.alarm, f"max|z| = {result.max_abs_z:.1f} <= {result.threshold:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_kernel_of_the_mutants_is_correct_without_a_defect(proposal):
    assert_invariant(own_kernel(proposal)("gaussian"), TARGETS["gaussian"]())


# The oracle itself.


def test_threshold_has_the_family_wise_rate():
    assert family_threshold(1, 0.05) == pytest.approx(1.959964, abs=1e-6)
    assert family_threshold(6, 0.01) == pytest.approx(3.143, abs=1e-3)
    normals = np.random.default_rng(0).standard_normal((200_000, 9))
    alarms = np.mean(np.abs(normals).max(1) > family_threshold(9, 0.01))
    # Standard error of the rate 0.01 at 200,000 trials: 0.00022; five of them.
    assert alarms == pytest.approx(0.01, abs=0.0011)


def test_z_scores_are_standard_normal_under_the_null_and_see_a_shift():
    rng = np.random.default_rng(1)
    differences = rng.standard_t(8, (400, 300, 5)) * [1e-3, 1.0, 10.0, 1.0, 1.0]
    scores = np.array([paired_z_scores(block) for block in differences])
    # 2000 scores: standard deviation of their mean 0.022, of their variance 0.032; five of them.
    assert abs(scores.mean()) < 0.11
    assert abs(scores.var() - 1.0) < 0.16
    shifted = paired_z_scores(differences[0] + [1e-3, 0.0, 0.0, 0.0, 0.0])
    assert shifted[0] == pytest.approx(np.sqrt(300 * 6 / 8), rel=0.3)


def test_scores_without_change_and_with_nan():
    differences = np.zeros((10, 3))
    differences[3, 1] = np.nan
    differences[:, 2] = 1.0
    scores = paired_z_scores(differences)
    assert scores[0] == 0.0
    assert scores[1] == np.inf
    assert scores[2] > 1e100
    assert OracleResult(scores, 3.0, 0.5).alarm


@pytest.mark.parametrize("name", TARGETS)
def test_draws_of_the_targets_are_exact(name):
    """Stein's identity E[s_i + dlog w/dx_i] = 0 and E[x_i (s_i + dlog w/dx_i)] = -1."""
    target = TARGETS[name]()
    positions = target.draw(jax.random.key(7), 100_000)

    def identities(position):
        log_weight_gradient = jax.grad(target.log_weight_fn)(position)
        force = jax.tree.map(jnp.add, target.score_fn(position), log_weight_gradient)
        flat_x, flat_force = (
            jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
            for tree in (position, force)
        )
        return jnp.concatenate([flat_force, flat_x * flat_force + 1.0])

    scores = paired_z_scores(np.asarray(jax.jit(jax.vmap(identities))(positions)))
    assert np.max(np.abs(scores)) < family_threshold(len(scores), 0.001)
