"""The ladder, the start, and a block of draws down the levels with its tuning."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VE
from scoreppl.samplers.annealed import (
    START_LOG_SNR,
    Annealed,
    LevelTuning,
    anneal,
    initial_tuning,
    noise_ladder,
    start_from_noise,
)
from scoreppl.samplers.inner import Inner
from scoreppl.samplers.level_moves import level_moves
from scoreppl.samplers.split_gibbs import split_gibbs
from scoreppl.samplers.weight_moves import hamiltonian, mala, random_slice
from scoreppl.target import Position, Target
from tests.oracle import family_threshold, paired_z_scores
from tests.samplers.exact import PRIOR, ExactReverse, moments

# Tests compile much and compute little.
QUICK = {"xla_backend_optimization_level": 0}
LEVELS, DRAWS = 4, 8
NARROW = GaussianMixture(jnp.array([[1.6, 0.0], [-1.4, 1.0]]), scales=0.6)
WIDE = GaussianMixture(jnp.array([[-30.0], [40.0]]), scales=5.0, noise=VE(0.05, 500.0))
# A flat position has the order of the names: a, three events of v, x.
SIZE = 1 + 3 + 2


def log_weight(z: Position) -> Array:
    """Observations of every site, one of `a` and `x` together; no number beyond a = 1000."""
    seen = 0.5 * jnp.sum((z["x"] - 0.4) ** 2) + 0.02 * jnp.sum((z["v"] - 35.0) ** 2)
    weight = -seen - 0.5 * (z["a"] / 0.1) ** 2 - 0.1 * (z["a"] - z["x"][0]) ** 2
    return jnp.where(z["a"] > 1e3, jnp.nan, 1.0) * weight


# Two score sites, one of them three events in a plate, and an ordinary latent.
TARGET = Target({"x": NARROW, "v": WIDE}, {"x": 0.05, "v": 0.3}, log_weight)
LADDER = noise_ladder(TARGET, LEVELS)


def positions(a: Array) -> Position:
    """Starting values of the ordinary latent; those of score sites are to be ignored."""
    none = partial(jnp.full, fill_value=jnp.nan)
    return {"a": a, "x": none((len(a), 2)), "v": none((len(a), 3, 1))}


START = positions(0.1 * jnp.arange(DRAWS))
INNERS = {
    "split": split_gibbs(mala(), num_steps=25, num_reverse_steps=3),
    "sweeps": split_gibbs(hamiltonian(2), num_sweeps=2, num_steps=3, num_reverse_steps=2),
    "slice": split_gibbs(random_slice(), num_steps=2, num_reverse_steps=2),
    "mala": level_moves(num_steps=15),
}
EVERY_INNER = pytest.mark.parametrize("name", INNERS)


@cache
def untuned(name: str) -> LevelTuning:
    one = jax.tree.map(lambda v: v[0], START)
    return jax.jit(lambda: initial_tuning(TARGET, one, LADDER, INNERS[name]))()


def annealer(inner: Inner, target: Target = TARGET) -> Callable[..., Annealed]:
    """Compile ``run(keys, start, tuning, adapt)``."""

    @partial(jax.jit, compiler_options=QUICK)
    def run(keys: Array, start: Position, tuning: LevelTuning, adapt: bool) -> Annealed:
        return one_chain(keys, start, target, tuning, inner, adapt)

    return run


def one_chain(
    keys: Array, start: Position, target: Target, tuning: LevelTuning, inner: Inner, adapt: bool
) -> Annealed:
    """`anneal` for a single chain, without the axis of the chains."""
    keys, start, tuning = jax.tree.map(lambda v: v[None], (keys, start, tuning))
    found = anneal(keys, start, target, LADDER, tuning, inner, adapt)
    return jax.tree.map(lambda v: v[0], found)


compiled = cache(lambda name: annealer(INNERS[name]))


def keys(seed: int, count: int = DRAWS) -> Array:
    return jax.random.split(jax.random.key(seed), count)


@cache
def blocks(name: str) -> list[Annealed]:
    """Five blocks of warm-up and one of draws."""
    tuning, found = untuned(name), []
    for number in range(6):
        found.append(compiled(name)(keys(number), START, tuning, number < 5))
        tuning = found[-1].tuning
    return found


# The ladder.


def test_the_ladder_goes_down_uniformly_to_the_floor_of_the_least_noisy_site():
    ladder = np.asarray(noise_ladder(TARGET, 7))
    assert ladder.shape == (7,) and ladder[0] == -4.0
    np.testing.assert_allclose(np.diff(ladder), np.diff(ladder)[0], rtol=1e-4)
    floors = [NARROW.noise.log_snr(0.05), WIDE.noise.log_snr(0.3)]
    assert floors[1] < floors[0] - 1.0
    assert ladder[-1] == pytest.approx(float(floors[0]), rel=1e-5)


def test_a_floor_without_noise_is_replaced_by_the_least_noise():
    target = Target({"x": PRIOR}, {"x": 0.0}, log_weight)
    np.testing.assert_allclose(noise_ladder(target, 3), [-4.0, 3.0, 10.0], rtol=1e-6)
    found = noise_ladder(target, 3, first_log_snr=-2.0, last_log_snr=6.0)
    np.testing.assert_allclose(found, [-2.0, 2.0, 6.0], rtol=1e-6)


def test_a_ladder_of_one_level_is_the_floor():
    target = Target({"x": PRIOR}, {"x": 0.0}, log_weight)
    np.testing.assert_allclose(noise_ladder(target, 1), [10.0])


def test_the_ladder_of_a_floor_above_its_top_never_goes_back_up():
    target = Target({"x": PRIOR}, {"x": 0.95}, log_weight)
    ladder = np.asarray(noise_ladder(target, 4))
    floor = float(PRIOR.noise.log_snr(0.95))
    assert floor < -4.0 and (np.diff(ladder) >= 0).all()
    np.testing.assert_allclose(ladder[-1], floor, rtol=1e-5)


# The start.


@EVERY_INNER
def test_untuned(name):
    tuning, num_blocks = untuned(name), 1 if name == "mala" else 2
    assert tuning.step_size.shape == (LEVELS, num_blocks)
    np.testing.assert_allclose(tuning.step_size, SIZE ** (-1 / 6), rtol=1e-6)
    np.testing.assert_array_equal(tuning.visits, np.zeros(LEVELS))
    expected = np.ones((LEVELS, SIZE))
    for level, log_snr in enumerate(LADDER):
        scales = TARGET.scales(TARGET.times(log_snr))
        expected[level, 1:4], expected[level, 4:] = scales["v"] ** 2, scales["x"] ** 2
    np.testing.assert_allclose(tuning.inverse_mass, expected, rtol=1e-5)


def test_the_start_is_pure_noise():
    count = 4_000
    start = positions(jnp.arange(float(count)))
    each = jax.vmap(lambda key, z: start_from_noise(key, z, TARGET))
    found = jax.jit(each)(keys(0, count), start)
    np.testing.assert_array_equal(found["a"], start["a"])
    # Both schedules begin above sd exp(5) = 148.
    z = np.concatenate([np.asarray(found[name], float).reshape(count, -1) for name in "xv"], 1)
    z /= np.exp(-START_LOG_SNR / 2)
    assert z.shape == (count, 5)
    # 20 means and second moments of standard normal numbers, with errors of 1 to sqrt(2) over
    # sqrt(count): each is out of bounds once in 60,000.
    assert np.abs(z.mean(0)).max() < 4.3 / np.sqrt(count)
    assert np.abs(z.T @ z / count - np.eye(5)).max() < 4.3 * np.sqrt(2 / count)


# A block of draws.


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "mala")) for n in INNERS]
)
def test_shapes_and_ranges(name):
    found = blocks(name)[-1]
    shapes = {site: value.shape for site, value in found.position.items()}
    assert shapes == {"a": (DRAWS,), "x": (DRAWS, 2), "v": (DRAWS, 3, 1)}
    for site, value in found.position.items():
        assert np.isfinite(value).all()
        assert len(np.unique(value)) == value.size, f"{site} repeats"
    rates = np.asarray(found.acceptance_rate)
    assert rates.shape == (DRAWS, LEVELS)
    assert (rates >= 0).all() and (rates <= 1 + 1e-5).all() and (rates.mean(0) > 0.2).all()
    np.testing.assert_array_equal(found.num_nan, np.zeros(DRAWS))


@pytest.mark.parametrize("name", ["sweeps", pytest.param("mala", marks=pytest.mark.slow)])
def test_a_draw_depends_on_its_own_key_and_the_tuning_alone(name):
    """In double precision: rounding that differs between batches turns no acceptance around."""
    tunings, some = [blocks(name)[-1].tuning, untuned(name)], jnp.array([6, 0, 3])
    with jax.enable_x64(True):
        start, run = positions(0.1 * jnp.arange(DRAWS)), annealer(INNERS[name])
        tuning, untouched = (
            tuning._replace(inverse_mass=tuning.inverse_mass.astype(float)) for tuning in tunings
        )
        together = run(keys(7), start, tuning, False)
        assert together.position["x"].dtype == jnp.float64
        few = jax.tree.map(lambda v: v[some], (keys(7), start))
        alone = run(*few, tuning, False)
        for found, expected in zip(alone[:3], together[:3], strict=True):
            expected = jax.tree.map(lambda v: v[some], expected)
            jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), found, expected)
        # The comparison means something: with another tuning, or other keys, draws differ.
        for other in (run(keys(7), start, untouched, False), run(keys(8), start, tuning, False)):
            assert (np.abs(other.position["x"] - together.position["x"]) > 1e-3).mean() > 0.8


def test_a_draw_has_the_law_of_the_last_level():
    """Without a weight a draw is x_0 + s z, with exact reverse steps."""
    target = Target({"x": ExactReverse(PRIOR)}, {"x": 0.05}, lambda position: jnp.zeros(()))
    inner = split_gibbs(mala(), num_steps=2, num_reverse_steps=1)
    key_clean, key_noise, key_run = jax.random.split(jax.random.key(0), 3)

    @partial(jax.jit, compiler_options=QUICK)
    def differences(count_like: Array) -> Array:
        tuning = initial_tuning(target, {"x": jnp.zeros(2)}, LADDER, inner)
        each = jax.random.split(key_run, len(count_like))
        found = one_chain(each, {"x": count_like}, target, tuning, inner, False)
        clean = PRIOR.sample_exact(key_clean, (len(count_like),))
        alpha, sigma = PRIOR.noise(0.05)
        exact = clean + sigma / alpha * jax.random.normal(key_noise, clean.shape)
        return jax.vmap(moments)(found.position["x"]) - jax.vmap(moments)(exact)

    scores = paired_z_scores(np.asarray(differences(jnp.zeros((4_000, 2)))))
    assert np.abs(scores).max() < family_threshold(len(scores), 1e-4)


# Tuning.


@EVERY_INNER
def test_tuning_is_left_alone_after_the_warm_up(name):
    before, after = blocks(name)[-2].tuning, blocks(name)[-1].tuning
    jax.tree.map(np.testing.assert_array_equal, before, after)


@EVERY_INNER
def test_warm_up_changes_the_tuning_and_counts_its_visits(name):
    first, *later = [untuned(name), *(block.tuning for block in blocks(name)[:5])]
    if name == "slice":  # has nothing to tune
        np.testing.assert_array_equal(later[-1].step_size, first.step_size)
        np.testing.assert_array_equal(later[-1].inverse_mass, first.inverse_mass)
        return
    for number, tuning in enumerate(later, 1):
        np.testing.assert_array_equal(tuning.visits, number * INNERS[name].num_sweeps)
        assert (tuning.inverse_mass > 0).all() and (tuning.step_size > 0).all()
    assert (later[0].inverse_mass != first.inverse_mass).all()
    assert (later[1].inverse_mass != later[0].inverse_mass).all()
    assert (later[1].step_size != later[0].step_size).all()


def test_warm_up_finds_the_precision():
    """Medians of few, correlated squares: at worst of one squared normal, 0.45 of its mean."""
    scales = np.exp(-np.asarray(LADDER) / 2)
    # From the first block on, which is not blended with the untuned guess.
    for block in (blocks("split")[0], blocks("split")[-1]):
        masses = np.asarray(block.tuning.inverse_mass)
        # `a` has precision 100.2 at every level, far from the untuned 1; x has 1 + 1 / s^2.
        assert (np.abs(np.log(masses[:, 0] * 100.2)) < np.log(3.5)).all()
        precision = 1 + 1 / scales[:, None] ** 2
        assert (np.abs(np.log(masses[:, 4:] * precision)) < np.log(3.5)).all()


@pytest.mark.parametrize("name", ["split", "mala"])
def test_warm_up_finds_the_acceptance(name):
    rates = np.asarray(blocks(name)[-1].acceptance_rate).mean(0)
    wanted = [rate for rate in INNERS[name].target_acceptance_rates if rate is not None]
    assert (np.abs(rates - np.mean(wanted)) < 0.2).all(), rates


# What is not a number.


@EVERY_INNER
def test_a_weight_that_is_never_a_number_is_counted_and_moves_nothing_to_infinity(name):
    inner, start = INNERS[name], positions(jnp.full(DRAWS, 1e4))
    found = compiled(name)(keys(0), start, untuned(name), True)
    expected = LEVELS * inner.num_sweeps * inner.num_steps
    np.testing.assert_array_equal(found.num_nan, np.full(DRAWS, expected))
    np.testing.assert_array_equal(found.position["a"], start["a"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    np.testing.assert_array_equal(found.tuning.inverse_mass, untuned(name).inverse_mass)


@cache
def one_bad_draw(name: str) -> Annealed:
    """The first block of warm-up, its second draw starting where the weight is no number."""
    start = positions(START["a"].at[1].set(1e4))
    return compiled(name)(keys(0), start, untuned(name), True)


@EVERY_INNER
def test_one_bad_draw_is_counted_alone(name):
    found, inner = one_bad_draw(name), INNERS[name]
    assert found.num_nan[1] == LEVELS * inner.num_sweeps * inner.num_steps
    np.testing.assert_array_equal(np.delete(found.num_nan, 1), np.zeros(DRAWS - 1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("name", ["split", "mala"])
def test_one_bad_draw_does_not_keep_the_others_from_tuning(name):
    assert (one_bad_draw(name).tuning.inverse_mass != untuned(name).inverse_mass).all()
