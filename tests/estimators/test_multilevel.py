"""Multilevel Monte Carlo: each diffusion keeps its law, the sum its mean, and the cost falls."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp

import scoreppl as sp
from scoreppl.estimators import coupling

MEAN, SCALES = np.array([0.7, -1.0]), np.array([0.4, 1.3])
STEPS = (4, 8, 16)


@cache
def gaussian():
    return sp.analytic.GaussianMixture(MEAN[None], scales=SCALES[None])


@cache
def mixture():
    means, scales = np.array([-1.5, 0.3, 2.2]), np.array([0.3, 0.5, 0.7])
    return sp.analytic.GaussianMixture(
        means[:, None], scales=scales[:, None], weights=[0.55, 0.3, 0.15]
    )


def moments(x):
    return jnp.stack([x[0], x[0] ** 2])


def chain_moments(num_steps):
    """Mean and variance of x_0 of ancestral steps on a Gaussian, by their recursion in float64."""
    noise = gaussian().noise
    times = np.asarray(sp.noise.time_grid(noise, max(STEPS), t_min=0.0), np.float64)
    alpha, sigma = (np.asarray(v, np.float64) for v in noise(times[:: max(STEPS) // num_steps]))
    scale = sigma / alpha
    mean, variance = np.zeros(2), np.full(2, scale[0] ** 2)
    for before, after in zip(scale[:-1], scale[1:], strict=True):
        r = (after / before) ** 2
        gain = SCALES**2 / (SCALES**2 + before**2)
        mean = r * mean + (1 - r) * (gain * mean + (1 - gain) * MEAN)
        variance = (r + (1 - r) * gain) ** 2 * variance + after**2 * (1 - r)
    return mean, variance


def law_z_scores(num_draws=40_000):
    """Of means and variances of all diffusions of a coupled draw against the recursion."""
    draw = partial(
        sp.estimators.coupled_draws,
        score_model=gaussian(),
        num_steps=STEPS,
        solver=sp.solvers.ancestral,
    )
    x = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), num_draws)), np.float64)
    scores = []
    for i, num_steps in enumerate(STEPS):
        mean, variance = chain_moments(num_steps)
        scores.append((x[:, i].mean(0) - mean) / np.sqrt(variance / num_draws))
        scores.append((x[:, i].var(0) / variance - 1) / np.sqrt(2 / num_draws))
    return np.abs(scores)


def test_every_coupled_diffusion_has_its_own_law():
    """12 z-scores below 4.5: false alarms at a rate of 1e-4."""
    assert law_z_scores().max() < 4.5


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_wrongly_scaled_noise_is_seen(reduce, monkeypatch):
    def wrong(normals, times, ratio, noise, data_scale):
        return getattr(normals.reshape(-1, ratio, *normals.shape[1:]), reduce)(1)

    monkeypatch.setattr(coupling, "coarse_normals", wrong)
    assert law_z_scores().max() > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [sp.solvers.multistep, sp.solvers.dpm_solver(2)], ids=["multistep", "dpm_solver"]
)
def test_coarse_draws_are_those_of_sample(solver):
    """Two-sample Kolmogorov-Smirnov tests of 20,000 draws of a mixture, at a rate of 1e-4 each."""
    draw = partial(
        sp.estimators.coupled_draws, score_model=mixture(), num_steps=(8, 16), solver=solver
    )
    coupled = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(1), 20_000)))
    times = sp.noise.time_grid(mixture().noise, 16, t_min=0.0)
    for i, spacing in enumerate((times[::2], times)):
        plain = mixture().sample(
            jax.random.key(2 + i), (20_000,), num_steps=len(spacing), solver=solver, spacing=spacing
        )
        assert ks_2samp(coupled[:, i, 0], np.asarray(plain)[:, 0]).pvalue > 1e-4
    assert np.corrcoef(coupled[:, :, 0].T)[0, 1] > 0.5


def test_the_shared_path_draws_coarse_and_fine_together():
    """More steps make the difference vary less, and so does the right scale of the data.

    Measured are 2.9 times less from one pair to the next, and 2.1 times less than with a Brownian
    path in SNR; variances of 2,000 draws are known to 3 %.
    """
    model = sp.analytic.GaussianMixture([[0.0]], scales=[[1.0]])

    def variances(data_scale):
        draw = partial(
            sp.estimators.coupled_draws,
            score_model=model,
            num_steps=(20, 40, 80),
            solver=sp.solvers.ancestral,
            data_scale=data_scale,
        )
        x = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 2_000)))[..., 0]
        return np.diff(x, axis=1).var(0)

    coarse, fine = variances(1.0)
    brownian = variances(1e-3)
    assert coarse / fine > 2.5
    assert brownian[1] > 1.7 * fine


def truth(num_draws=1_000_000):
    """Means of the finest diffusion with their errors, by plain draws."""
    x = mixture().sample(
        jax.random.key(99),
        (num_draws,),
        num_steps=17,
        solver=sp.solvers.dpm_solver(2),
    )
    values = np.stack([np.asarray(x)[:, 0], np.asarray(x)[:, 0] ** 2], 1).astype(np.float64)
    return values.mean(0), values.std(0) / np.sqrt(num_draws)


@pytest.mark.slow
def test_the_sum_is_unbiased_and_its_error_calibrated():
    """200 seeds: z-scores of sd 0.9 to 1.15, and of mean below 4.5 / sqrt(200)."""
    exact, error = truth()
    z = []
    for seed in range(200):
        found = sp.estimators.multilevel(
            jax.random.key(seed), moments, mixture(),
            num_steps=STEPS, num_evaluations=20_000, num_pilots=128,
        )  # fmt: skip
        z.append((found.value - exact) / np.hypot(found.standard_error, error))
    z = np.array(z)
    assert np.all((z.std(0) > 0.9) & (z.std(0) < 1.15))
    assert np.all(np.abs(z.mean(0)) < 4.5 / np.sqrt(200))


def test_the_target_is_met_at_less_than_the_plain_cost():
    found = sp.estimators.multilevel(
        jax.random.key(5),
        moments,
        mixture(),
        num_steps=(8, 16, 32, 64),
        target_standard_error=[0.02, 0.05],
    )
    share = found.standard_error / [0.02, 0.05]
    # Variances of 256 pilots, of heavier tails than a normal's, are known to about a sixth.
    assert 0.7 < share.max() < 1.3
    levels = found.levels
    np.testing.assert_array_equal(levels.costs, [9, 26, 50, 98])
    assert found.num_evaluations == levels.draws @ levels.costs
    assert found.num_pilot_evaluations == 256 * 183
    np.testing.assert_allclose(found.value, levels.means.sum(0))
    assert found.single_level_evaluations > 2 * found.num_evaluations


def test_a_constant_costs_the_least_there_is():
    found = sp.estimators.multilevel(
        jax.random.key(0), lambda x: 0 * x[0] + 2.0, gaussian(),
        num_steps=(2, 4), num_evaluations=10_000, block_size=10,
    )  # fmt: skip
    assert found.value == 2.0 and found.standard_error == 0.0
    np.testing.assert_array_equal(found.levels.draws, [10, 10])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_steps": (8, 4)}, r"`num_steps=\(8, 4\)` must increase"),
        ({"num_steps": (4, 4)}, "must increase"),
        ({"num_steps": (4, 6)}, "each a multiple of the one before"),
        ({"num_steps": (4, 8.5)}, "`num_steps=8.5` must be an integer"),
        ({"num_steps": 8}, "`num_steps=8` must be a sequence"),
        ({"num_steps": ()}, "must be a sequence"),
        ({"num_evaluations": None}, "Give either `target_standard_error` or"),
        ({"target_standard_error": 0.1}, "Give either `target_standard_error` or"),
        ({"num_evaluations": None, "target_standard_error": 0.0}, "must be positive and finite"),
        ({"num_evaluations": None, "target_standard_error": [1.0] * 3}, "must be a number or have"),
        ({"num_evaluations": -5}, "`num_evaluations=-5` must be at least 1"),
        ({"num_pilots": 1}, "`num_pilots=1` must be at least 2"),
        ({"block_size": 1}, "`block_size=1` must be at least 2"),
        ({"data_scale": 0.0}, "`data_scale=0.0` must be a positive number"),
        ({"solver": sp.solvers.dpm_solver}, "add parentheses"),
        ({"fn": lambda x: jnp.log(x)}, "`fn` is NaN or infinite at draws in 2 steps"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"fn": lambda x: x, "num_steps": (2, 4), "num_evaluations": 1_000, **change}
    with pytest.raises(ValueError, match=message):
        sp.estimators.multilevel(
            jax.random.key(0),
            score_model=gaussian(),
            **{"block_size": 8, "num_pilots": 8, **arguments},
        )


def test_a_function_that_no_draw_meets_has_no_error():
    with pytest.warns(UserWarning, match="`fn` is zero at all draws"):
        found = sp.estimators.multilevel(
            jax.random.key(0), lambda x: (x[0] > 50.0) * 1.0, gaussian(), num_steps=(4, 8),
            num_evaluations=5_000,
        )  # fmt: skip
    assert np.isinf(found.standard_error)
    # The budget is spent on looking for it.
    assert found.num_evaluations > 4_000


def test_a_level_that_the_pilots_see_nothing_of_is_not_left_to_one_batch():
    """One in 70: in a pair both diffusions mostly agree, and pilots of one level see no change."""
    found = [
        sp.estimators.multilevel(
            jax.random.key(seed),
            lambda x: (x[0] > 1.6) * 1.0,
            gaussian(),
            num_steps=(8, 16),
            num_evaluations=100_000,
            block_size=64,
        )  # fmt: skip
        for seed in range(4)
    ]
    assert all(np.all(one.levels.draws > 64) for one in found)
