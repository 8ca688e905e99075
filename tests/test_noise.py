"""Schedules against their formulas in float64, and the grids of times."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl import noise


def vp_linear(t):
    integral = 0.1 * t + 19.9 * t**2 / 2
    return np.exp(-integral / 2), np.sqrt(-np.expm1(-integral))


def vp_cosine(t):
    # The complement of the angle keeps float64's digits of cos near pi / 2.
    low, high = np.arctan(np.exp(-5.0)), np.arctan(np.exp(5.0))
    angle = (1 - t) * low + t * high
    return np.sin((1 - t) * (np.pi / 2 - low) + t * (np.pi / 2 - high)), np.sin(angle)


def variance_exploding(t):
    return np.ones_like(t), 0.01 * (50.0 / 0.01) ** t


def edm(t):
    low, high = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    return np.ones_like(t), (low + t * (high - low)) ** 7


def flow_matching(t):
    return 1 - t, t


def from_betas(betas):
    squares = np.cumprod(1 - betas)
    table = np.log(squares / (1 - squares))

    def reference(t):
        log_snr = np.interp(t * (len(table) - 1), np.arange(len(table)), table)
        return np.sqrt(1 / (1 + np.exp(-log_snr))), np.sqrt(1 / (1 + np.exp(log_snr)))

    return reference


LINEAR_BETAS = np.linspace(1e-4, 0.02, 1000)
SCALED_BETAS = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2

# Each schedule and its formula in float64.
CASES = {
    "VPLinear": (noise.VPLinear(), vp_linear),
    "VPCosine": (noise.VPCosine(), vp_cosine),
    "VE": (noise.VE(0.01, 50.0), variance_exploding),
    "EDM": (noise.EDM(), edm),
    "FlowMatching": (noise.FlowMatching(), flow_matching),
    "DiscreteVP": (noise.DiscreteVP.scaled_linear(), from_betas(SCALED_BETAS)),
}
SCHEDULES = [pytest.param(schedule, id=name) for name, (schedule, _) in CASES.items()]
WITH_REFERENCE = [pytest.param(*case, id=name) for name, case in CASES.items()]

# Times that float32 holds exactly, dense near both ends.
POWERS = 2.0 ** -np.arange(1, 21)
INSIDE = np.sort(np.concatenate([POWERS, 1 - POWERS, np.arange(1, 32) / 32])).astype(np.float32)
# Rounding: up to about 20 operations of relative error 6e-8, and exponents up to 10.
ROUNDING = 4e-6


@pytest.mark.parametrize("schedule, reference", WITH_REFERENCE)
def test_alpha_sigma_and_log_snr_keep_float32_accuracy_at_both_ends(schedule, reference):
    exact_alpha, exact_sigma = reference(INSIDE.astype(np.float64))
    alpha, sigma = schedule(INSIDE)
    assert alpha.dtype == sigma.dtype == jnp.float32
    np.testing.assert_allclose(alpha, exact_alpha, rtol=ROUNDING)
    np.testing.assert_allclose(sigma, exact_sigma, rtol=ROUNDING)
    exact = 2 * np.log(exact_alpha / exact_sigma)
    np.testing.assert_allclose(schedule.log_snr(INSIDE), exact, atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("schedule, reference", WITH_REFERENCE)
@pytest.mark.parametrize("t", [0, 1])
def test_the_ends_themselves(schedule, reference, t):
    with np.errstate(divide="ignore"):
        exact_alpha, exact_sigma = reference(np.float64(t))
        exact_log_snr = 2 * (np.log(exact_alpha) - np.log(exact_sigma))
    alpha, sigma = schedule(t)
    np.testing.assert_allclose(alpha, exact_alpha, rtol=ROUNDING)
    np.testing.assert_allclose(sigma, exact_sigma, rtol=ROUNDING)
    np.testing.assert_allclose(schedule.log_snr(t), exact_log_snr, rtol=ROUNDING)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snr_decreases(schedule):
    assert np.all(np.diff(schedule.log_snr(np.linspace(0, 1, 2001, dtype=np.float32))) < 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_inverts_log_snr(schedule):
    # Rounding moves the log-SNR, below 30 here, by up to 8e-6, and t by that over the slope; t
    # itself is rounded to 1.2e-7 at most.
    slope = np.abs(jax.vmap(jax.grad(schedule.log_snr))(INSIDE))
    recovered = np.asarray(schedule.time(schedule.log_snr(INSIDE)))
    assert np.all(np.abs(recovered - INSIDE) <= 8e-6 / slope + 1.2e-7 * INSIDE)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snr_inverts_time(schedule):
    low, high = float(schedule.log_snr(1.0)), float(schedule.log_snr(0.0))
    log_snr = np.linspace(max(low, -12.0) + 0.01, min(high, 12.0) - 0.01, 101)
    # Flow matching at log-SNR -12 has 1 - t = 2e-3: t's spacing of 6e-8 is 5e-5 of log-SNR.
    np.testing.assert_allclose(schedule.log_snr(schedule.time(log_snr)), log_snr, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_is_clipped(schedule):
    np.testing.assert_array_equal(schedule.time(jnp.array([-jnp.inf, -300.0])), [1.0, 1.0])
    np.testing.assert_array_equal(schedule.time(jnp.inf), 0.0)
    assert 0 <= float(schedule.time(80.0)) < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("shape", [(), (2, 1, 3)])
def test_schedules_are_elementwise(schedule, shape):
    t = jnp.linspace(0.2, 0.8, 6)[: int(np.prod(shape))].reshape(shape)
    for batch, one in [
        (schedule(t)[0], lambda t: schedule(t)[0]),
        (schedule(t)[1], lambda t: schedule(t)[1]),
        (schedule.log_snr(t), schedule.log_snr),
        (schedule.time(10 * t - 5), lambda t: schedule.time(10 * t - 5)),
    ]:
        assert batch.shape == shape
        single = jnp.array([one(value) for value in t.ravel()]).reshape(shape)
        np.testing.assert_allclose(batch, single, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_velocity_of_the_schedule_is_the_derivative(schedule):
    # Central differences in float64 of the float32 schedule are hopeless: compare the derivative
    # of log_snr with that of 2 log(alpha / sigma), which takes another way through the code.
    t = jnp.linspace(0.013, 0.987, 37)
    (alpha, sigma), (d_alpha, d_sigma) = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
    slope = jax.vmap(jax.grad(schedule.log_snr))(t)
    np.testing.assert_allclose(2 * (d_alpha / alpha - d_sigma / sigma), slope, rtol=2e-4)
    assert np.all(slope < 0)


def test_schedules_accept_double_precision():
    with jax.enable_x64(True):
        for schedule, reference in (CASES[name] for name in ("VPLinear", "VPCosine", "EDM")):
            alpha, sigma = schedule(0.3)
            assert alpha.dtype == sigma.dtype == jnp.float64
            np.testing.assert_allclose((alpha, sigma), reference(np.float64(0.3)), rtol=1e-13)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_pytrees_of_their_parameters(schedule):
    traces = []

    @jax.jit
    def sigma(schedule, t):
        traces.append(None)
        return schedule(t)[1]

    np.testing.assert_allclose(sigma(schedule, 0.3), schedule(0.3)[1], rtol=1e-6)
    sigma(jax.tree.map(lambda leaf: leaf * 1.001, schedule), 0.3)
    assert len(traces) == 1
    # JAX fills parts with placeholders, gradients and None, which no check may reject.
    jax.tree.map(lambda _: object(), schedule)
    jax.tree.map(lambda _: None, schedule)
    gradient = jax.grad(lambda schedule: -schedule(0.3)[1])(schedule)
    assert type(gradient) is type(schedule)
    leaves = jax.tree.leaves(gradient)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert isinstance(schedule, noise.FlowMatching) or any(np.any(leaf != 0) for leaf in leaves)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_pickle(schedule):
    copy = pickle.loads(pickle.dumps(schedule))
    assert type(copy) is type(schedule)
    np.testing.assert_array_equal(copy(INSIDE), schedule(INSIDE))


def test_schedules_are_vmapped_over_parameters():
    sigma = jax.vmap(lambda low: noise.VE(low, 50.0)(0.0)[1])(jnp.array([0.01, 0.1]))
    np.testing.assert_allclose(sigma, [0.01, 0.1], rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_satisfy_the_protocol(schedule):
    assert isinstance(schedule, noise.Schedule)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: noise.VPLinear(beta_min=0.0), "`beta_min=0.0`.*0 < beta_min <= beta_max"),
        (lambda: noise.VPLinear(beta_min=3.0, beta_max=2.0), "`beta_max=2.0`"),
        (lambda: noise.VPLinear(beta_max=float("nan")), "`beta_max=nan`"),
        (lambda: noise.VPLinear(beta_max=float("inf")), "both finite"),
        (lambda: noise.VPCosine(log_snr_min=10.0, log_snr_max=-10.0), "`log_snr_min=10.0`"),
        (lambda: noise.VE(1.0, 1.0), "sigma_min < sigma_max"),
        (lambda: noise.VE(-1.0, 1.0), "`sigma_min=-1.0`"),
        (lambda: noise.VE(jnp.float32(2.0), jnp.float32(1.0)), "`sigma_max=1.0`"),
        (lambda: noise.EDM(sigma_min=0.0), "`sigma_min=0.0`"),
        (lambda: noise.EDM(rho=0.0), "`rho=0.0` must be positive"),
        (lambda: noise.DiscreteVP([0.5]), r"shape is \(1,\)"),
        (lambda: noise.DiscreteVP([[0.5, 0.4]]), r"shape is \(1, 2\)"),
        (lambda: noise.DiscreteVP([0.4, 0.5]), "`alphas_cumprod` must decrease"),
        (lambda: noise.DiscreteVP([0.5, 0.5]), "`alphas_cumprod` must decrease"),
        (lambda: noise.DiscreteVP([1.0, 0.5]), r"inside \(0, 1\)"),
        (lambda: noise.DiscreteVP([0.5, 0.0]), r"inside \(0, 1\)"),
        (lambda: noise.DiscreteVP([0.9, float("nan"), 0.1]), "`alphas_cumprod` must decrease"),
    ],
)
def test_bad_parameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_equal_rates_and_infinite_log_snr_are_allowed():
    alpha, sigma = noise.VPLinear(2.0, 2.0)(0.5)
    np.testing.assert_allclose((alpha, sigma), (np.exp(-0.5), np.sqrt(1 - np.exp(-1))), rtol=1e-6)
    untruncated = noise.VPCosine(-jnp.inf, jnp.inf)
    t = INSIDE.astype(np.float64)
    np.testing.assert_allclose(untruncated(INSIDE)[0], np.sin((1 - t) * np.pi / 2), rtol=1e-6)
    np.testing.assert_allclose(untruncated(INSIDE)[1], np.sin(t * np.pi / 2), rtol=1e-6)
    np.testing.assert_array_equal(untruncated(0.0), (1, 0))


@pytest.mark.parametrize(
    "schedule, betas",
    [
        (noise.DiscreteVP.linear(), LINEAR_BETAS),
        (noise.DiscreteVP.scaled_linear(), SCALED_BETAS),
        (noise.DiscreteVP.linear(10, 0.01, 0.5), np.linspace(0.01, 0.5, 10)),
    ],
)
def test_discrete_schedule_passes_through_its_table(schedule, betas):
    squares, steps = np.cumprod(1 - betas), len(betas)
    t = np.arange(steps) / (steps - 1)
    np.testing.assert_allclose(schedule.alphas_cumprod, squares, rtol=1e-6)
    # float32 rounds the position by up to 6e-5 of a step, over which log sigma^2 changes by at
    # most 4 %: hence 5e-6 on top of rounding.
    alpha, sigma = schedule(t)
    np.testing.assert_allclose(alpha**2, squares, rtol=1e-5)
    np.testing.assert_allclose(sigma**2, 1 - squares, rtol=1e-5)
    np.testing.assert_allclose(schedule.timestep(t), np.arange(steps), atol=1e-4)
    # The lowest noise, where a table in float32 would have lost three digits.
    np.testing.assert_allclose(schedule(0.0)[1] ** 2, betas[0], rtol=2e-6)


def test_discrete_schedule_can_be_built_inside_a_traced_function():
    squares = np.cumprod(1 - LINEAR_BETAS)
    sigma = jax.jit(lambda table: noise.DiscreteVP(table)(0.5)[1])(jnp.asarray(squares))
    np.testing.assert_allclose(sigma, noise.DiscreteVP(squares)(0.5)[1], rtol=1e-4)


COORDINATES = {
    "logsnr": lambda ratio: np.log(ratio),
    "karras": lambda ratio: ratio ** (1 / 7),
    "cosine": lambda ratio: np.arctan(ratio),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["uniform", *COORDINATES])
@pytest.mark.parametrize("num_steps", [1, 50])
def test_time_grid_decreases_and_is_uniform_in_its_coordinate(schedule, spacing, num_steps):
    times = noise.time_grid(schedule, num_steps, spacing=spacing, t_min=0.01, t_max=0.9)
    assert times.shape == (num_steps + 1,)
    np.testing.assert_array_equal(times[jnp.array([0, -1])], np.float32([0.9, 0.01]))
    assert np.all(np.diff(times) < 0)
    if spacing == "uniform":
        coordinate = np.asarray(times)
    else:
        coordinate = COORDINATES[spacing](np.exp(-np.asarray(schedule.log_snr(times)) / 2))
    # float32 times and log-SNRs: up to 1e-4 of the whole range, as in the inverse of log_snr.
    expected = np.linspace(coordinate[0], coordinate[-1], num_steps + 1)
    np.testing.assert_allclose(coordinate, expected, atol=1e-4 * np.ptp(coordinate))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["uniform", *COORDINATES])
def test_time_grid_reaches_both_ends_even_at_infinite_log_snr(schedule, spacing):
    times = noise.time_grid(schedule, 20, spacing=spacing, t_min=0.0)
    assert times[0] == 1 and times[-1] == 0
    assert np.all(np.diff(times) < 0)


def test_time_grid_starts_at_log_snr_eight_by_default():
    for schedule, _ in CASES.values():
        times = noise.time_grid(schedule, 5)
        expected = min(8.0, float(schedule.log_snr(0.0)))
        np.testing.assert_allclose(schedule.log_snr(times[-1]), expected, atol=1e-5)


def test_time_grid_is_traced_in_schedule_and_ends():
    @jax.jit
    def grid(schedule, t_min):
        return noise.time_grid(schedule, 6, t_min=t_min)

    expected = noise.time_grid(noise.VE(0.1, 9.0), 6, t_min=0.2)
    np.testing.assert_allclose(grid(noise.VE(0.1, 9.0), 0.2), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_steps": 0}, "`num_steps=0` must be at least 1"),
        ({"num_steps": 3, "spacing": "log"}, "`spacing='log'` is not known; use one of 'uniform'"),
        ({"num_steps": 3, "t_min": 0.5, "t_max": 0.5}, "t_min < t_max"),
        ({"num_steps": 3, "t_min": -0.1}, "`t_min=-0.1`"),
        ({"num_steps": 3, "t_max": 1.5}, "`t_max=1.5`"),
        ({"num_steps": 3, "t_min": float("nan")}, "`t_min=nan`"),
    ],
)
def test_time_grid_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        noise.time_grid(noise.VPLinear(), **arguments)
