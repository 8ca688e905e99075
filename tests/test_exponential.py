"""Orders and laws of the exponential integrators and of Heun's method, against exact flows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from scoreppl import noise
from scoreppl.analytic import GaussianMixture
from scoreppl.solvers import Exponential, Heun, ancestral, ddim, deis, dpm_solver, unipc
from tests.networks import EVERY_SCHEDULE, SCHEDULES

SOME_SCHEDULES = pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(SCHEDULES["VPLinear"], id="VPLinear"),
        pytest.param(SCHEDULES["FlowMatching"], id="FlowMatching", marks=pytest.mark.slow),
    ],
)

WEIGHTS, MEANS, SCALES = np.array([0.3, 0.7]), np.array([-1.0, 1.5]), np.array([0.5, 0.8])
DETERMINISTIC = {
    "ddim": (ddim(), 1),
    "dpm_solver2": (dpm_solver(2), 2),
    "dpm_solver3": (dpm_solver(3), 3),
    "deis1": (deis(1), 1),
    "deis2": (deis(2), 2),
    "deis3": (deis(3), 3),
    "unipc1": (unipc(1), 2),
    "unipc2": (unipc(2), 3),
    "heun": (Heun(), 2),
}


def mixture(schedule):
    return GaussianMixture(
        jnp.asarray(MEANS), scales=jnp.asarray(SCALES), weights=jnp.asarray(WEIGHTS), noise=schedule
    )


def transported(schedule, starts, begin, end):
    """Carry points along the exact flow: in one dimension it keeps the distribution function."""

    def distribution(t, x):
        alpha, sigma = (float(value) for value in schedule(t))
        return WEIGHTS @ norm.cdf((x - alpha * MEANS) / np.hypot(alpha * SCALES, sigma))

    def end_of(x):
        level = distribution(begin, x)
        return brentq(lambda y: distribution(end, y) - level, -40, 40, xtol=1e-13)

    return np.array([end_of(x) for x in starts])


def graded_grid(schedule, num_steps, begin, end):
    """Return log-SNR steps that grow from the first, which no multistep method takes at its order.

    The first length falls as the square of the number of steps, so that its local error of second
    order does not hide a global error of third.
    """
    way = np.linspace(0, 1, num_steps + 1) ** 2
    level = schedule.log_snr(begin) + (schedule.log_snr(end) - schedule.log_snr(begin)) * way
    return schedule.time(level).at[0].set(begin).at[-1].set(end)


@pytest.mark.parametrize("name", DETERMINISTIC)
@SOME_SCHEDULES
def test_order_of_convergence_to_the_exact_flow(schedule, name):
    solver, order = DETERMINISTIC[name]
    with jax.enable_x64(True):
        schedule = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), schedule)
        model = mixture(schedule)
        begin, end = schedule.time(jnp.float64(-4.0)), schedule.time(jnp.float64(4.0))
        spread = float(np.hypot(*schedule(begin)))
        starts = spread * np.array([-1.2, -0.1, 0.4, 1.0])
        exact = transported(schedule, starts, begin, end)
        errors = []
        for num_steps in (40, 80):
            times = graded_grid(schedule, num_steps, begin, end)
            solve = jax.vmap(
                lambda x, times=times: solver(jax.random.key(0), x, times, model.denoise, schedule)
            )
            found = np.asarray(solve(jnp.asarray(starts)))
            errors.append(np.sqrt(np.mean((found - exact) ** 2)))
    assert np.log2(errors[0] / errors[1]) > order - 0.25
    assert errors[1] < 0.05


@EVERY_SCHEDULE
def test_first_order_with_all_noise_is_ancestral(schedule):
    times = noise.time_grid(schedule, 6, t_min=0.02, t_max=0.95)
    solve = [
        solver(
            jax.random.key(1), jnp.float32([0.3, -2.0]), times, mixture(schedule).denoise, schedule
        )
        for solver in (lambda *a: one_event(ancestral, *a), lambda *a: one_event(ddim(1.0), *a))
    ]
    np.testing.assert_allclose(solve[1], solve[0], rtol=1e-4, atol=1e-5)


def one_event(solver, key, x, times, denoise, schedule):
    return solver(key, x, times, jax.vmap(denoise, (0, None)), schedule)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@EVERY_SCHEDULE
def test_any_share_of_noise_keeps_the_law_of_a_point_mass(schedule, eta):
    """The denoiser of a point is constant, so that even one coarse step has the exact law."""
    point, times = 0.7, jnp.float32([0.9, 0.2])
    start_alpha, start_sigma = schedule(times[0])
    alpha, sigma = (float(value) for value in schedule(times[1]))
    key_start, key_step = jax.random.split(jax.random.key(2))
    start = start_alpha * point + start_sigma * jax.random.normal(key_start, (20_000,))
    end = ddim(eta)(key_step, start, times, lambda x, t: jnp.full_like(x, point), schedule)
    # Five standard errors of mean and variance: false-alarm rate 1.2e-6 a case.
    assert abs(float(end.mean()) - alpha * point) < 5 * sigma / np.sqrt(20_000) + 1e-6
    assert abs(float(end.var()) / sigma**2 - 1) < 5 * np.sqrt(2 / 20_000)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("order", [2, 3])
def test_higher_orders_are_nearer_to_the_law_at_every_share_of_noise(order, eta):
    """The spread of a normal, which first-order steps of any noise leave too narrow."""
    schedule, scale, num_steps = noise.VPLinear(), 0.6, 24
    times = noise.time_grid(schedule, num_steps, t_min=schedule.time(6.0), t_max=0.9)

    def gain(t):
        alpha, sigma = schedule(t)
        return alpha * scale**2 / (alpha**2 * scale**2 + sigma**2)

    def variance(solver):
        keys = jax.random.split(jax.random.key(3), 20_000)
        key_start, key_steps = jax.random.split(jax.random.key(4))
        alpha, sigma = schedule(times[0])
        start = jnp.hypot(alpha * scale, sigma) * jax.random.normal(key_start, (len(keys),))
        denoise = lambda x, t: gain(t) * x  # noqa: E731
        ends = jax.vmap(lambda key, x: solver(key, x, times, denoise, schedule))(keys, start)
        alpha, sigma = schedule(times[-1])
        return float(ends.var()) / float((alpha * scale) ** 2 + sigma**2) - 1

    first, better = variance(ddim(eta)), variance(dpm_solver(order, eta))
    # The same noise in both; 20,000 draws leave each variance an error of 1 %.
    assert abs(first) > 0.1 and abs(better) < 0.4 * abs(first)


def test_orders_may_differ_by_step():
    schedule, x = noise.VPLinear(), jnp.float32(0.4)
    times = noise.time_grid(schedule, 4, t_min=0.05, t_max=0.9)

    def solve(order):
        return Exponential(order)(jax.random.key(0), x, times, mixture(schedule).denoise, schedule)

    np.testing.assert_allclose(solve((1, 1, 1, 1)), solve(1), rtol=1e-6)
    np.testing.assert_allclose(solve((1, 2, 3, 3)), solve(3), rtol=1e-6)
    assert len({float(solve(order)) for order in (1, 2, 3, (1, 2, 1, 2), (1, 1, 2, 3))}) == 5


@pytest.mark.parametrize("share", [0.4, -0.4])
@pytest.mark.parametrize("interpolate", ["denoised", "noise"])
def test_early_noise_by_hand(interpolate, share):
    """Two steps of DDIM with the first noise prediction mixed into the second."""
    schedule, times = noise.VPLinear(), np.array([0.9, 0.5, 0.2])
    (a0, a1, a2), (s0, s1, s2) = (np.asarray(v, float) for v in schedule(times))

    def denoised(x, t):
        return np.tanh(x) + t

    x0 = np.array([0.7, -1.3])
    first = (x0 - a0 * denoised(x0, 0.9)) / s0
    x1 = a1 * denoised(x0, 0.9) + s1 * first
    second = (x1 - a1 * denoised(x1, 0.5)) / s1
    mixed = second + share * (0.9 - 0.5) / (0.9 - 0.2) * (first - second)
    x2 = a2 * (x1 - s1 * mixed) / a1 + s2 * mixed
    found = Exponential(1, interpolate=interpolate, early_noise=share)(
        jax.random.key(0), jnp.float32(x0), times, lambda x, t: jnp.tanh(x) + t, schedule
    )
    np.testing.assert_allclose(found, x2, rtol=2e-5)


@pytest.mark.parametrize("solver", [Exponential(3, corrector=True), deis(3)])
@EVERY_SCHEDULE
def test_early_noise_keeps_a_flow_without_curvature(schedule, solver):
    """The noise of a point mass stays the same along the flow, and so does any mixture of it."""
    times = noise.time_grid(schedule, 6, t_min=0.02, t_max=0.95)
    ends = [
        dataclasses.replace(solver, early_noise=share)(
            jax.random.key(0), jnp.float32(1.3), times, lambda x, t: jnp.full_like(x, 0.7), schedule
        )
        for share in (0.0, 0.6, -0.6)
    ]
    np.testing.assert_allclose(ends[1:], [ends[0]] * 2, rtol=1e-4)


def test_early_noise_of_zero_changes_nothing_and_of_any_size_something():
    schedule, x = noise.VPLinear(), jnp.float32([0.4, -1.1])
    times = noise.time_grid(schedule, 6, t_min=0.05, t_max=0.9)

    def solve(**choices):
        denoise = jax.vmap(mixture(schedule).denoise, (0, None))
        return Exponential(2, **choices)(jax.random.key(0), x, times, denoise, schedule)

    np.testing.assert_array_equal(solve(early_noise=0.0), solve())
    assert np.abs(solve(early_noise=0.2) - solve()).min() > 1e-3


# Zero noise at the end, repeated times, one step.
ENDS = [
    jnp.float32([0.9, 0.6, 0.3, 0.0]),
    jnp.float32([0.9, 0.9, 0.5, 0.5, 0.5, 0.2]),
    jnp.float32([0.9, 0.1]),
]
SOLVERS = {name: solver for name, (solver, _) in DETERMINISTIC.items()} | {
    "ddim with noise": ddim(0.7),
    "dpm_solver3 with noise": dpm_solver(3, 1.0),
    "unipc3": unipc(3),
    "early noise": Exponential(2, early_noise=0.3),
    "churn": Heun(churn=2.0),
}


@pytest.mark.parametrize("name", SOLVERS)
@SOME_SCHEDULES
def test_grids_at_their_ends_give_numbers(schedule, name):
    denoise = mixture(schedule).denoise

    @jax.jit
    def solve(every_times):
        return [
            SOLVERS[name](jax.random.key(0), jnp.float32(0.3), times, denoise, schedule)
            for times in every_times
        ]

    assert np.isfinite(solve(ENDS)).all()


# Not those that need x_t / alpha_t: DEIS for the noise prediction, Heun for its flow.
@pytest.mark.parametrize(
    "name", [n for n in SOLVERS if not n.startswith(("deis", "heun", "churn"))]
)
def test_a_start_without_signal_is_allowed(name):
    schedule, times = noise.FlowMatching(), jnp.float32([1.0, 0.6, 0.3, 0.1])
    denoise = lambda x, t: jnp.where(t == 1.0, 0.9, 0.5 * x)  # noqa: E731
    assert np.isfinite(SOLVERS[name](jax.random.key(0), jnp.float32(0.3), times, denoise, schedule))


def test_repeated_times_change_nothing():
    schedule, denoise = noise.VPCosine(), mixture(noise.VPCosine()).denoise
    once, twice = jnp.float32([0.9, 0.5, 0.2]), jnp.float32([0.9, 0.5, 0.5, 0.2])

    def solve(solver, times):
        return solver(jax.random.key(0), jnp.float32(0.3), times, denoise, schedule)

    for solver in (ddim(), Heun()):
        np.testing.assert_allclose(solve(solver, twice), solve(solver, once), rtol=1e-6)
    # A second look at the same time knows no more than the first: the order falls to one.
    np.testing.assert_allclose(solve(dpm_solver(2), twice), solve(ddim(), once), rtol=1e-6)


# Each solver with a schedule, each schedule with two or three solvers.
PAIRS = [(solver, list(SCHEDULES)[index % len(SCHEDULES)]) for index, solver in enumerate(SOLVERS)]


@pytest.mark.slow
@pytest.mark.parametrize("name, schedule_name", PAIRS)
def test_solvers_draw_from_the_law_on_every_schedule(name, schedule_name):
    draws = mixture(SCHEDULES[schedule_name]).sample(
        jax.random.key(5), (2_000,), num_steps=60, solver=SOLVERS[name], spacing="logsnr"
    )
    # The distance of distribution functions: 1.95 / sqrt(2000) is passed by chance at 1e-3, and
    # 0.03 is left to the discretisation and to the start.
    points = np.sort(np.asarray(draws))
    exact = (WEIGHTS * norm.cdf((points[:, None] - MEANS) / SCALES)).sum(1)
    found = np.arange(1, len(points) + 1) / len(points)
    assert np.abs(found - exact).max() < 1.95 / np.sqrt(2_000) + 0.03


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Exponential(0), "`order=0`"),
        (lambda: Exponential(()), "`order=()`"),
        (lambda: Exponential((1, 0)), r"`order=(1, 0)`"),
        (lambda: ddim(1.5), "`eta=1.5`"),
        (lambda: ddim(float("nan")), "`eta=nan`"),
        (lambda: Exponential(interpolate="score"), "`interpolate='score'`"),
        (lambda: Exponential(variable="sigma"), "`variable='sigma'`"),
        (lambda: Exponential(eta=0.5, interpolate="noise"), "use interpolate='denoised'"),
        (lambda: Exponential(early_noise=1.0), "`early_noise=1.0` must lie between -1 and 1"),
        (lambda: Exponential(early_noise=float("nan")), "`early_noise=nan`"),
        (lambda: Exponential(eta=0.5, early_noise=0.1), "set one of them to 0"),
        (lambda: Heun(churn=-1.0), "`churn=-1.0`"),
        (lambda: Heun(noise_inflation=float("nan")), "`noise_inflation=nan`"),
        (lambda: Heun(churn_scales=(2.0, 1.0)), "`churn_scales=(2.0, 1.0)`"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError) as error:
        build()
    assert message in str(error.value)


def test_orders_of_another_number_of_steps_are_refused():
    times = jnp.float32([0.9, 0.5, 0.1])
    with pytest.raises(ValueError, match="`order` has 3 entries for 2 steps"):
        Exponential((1, 2, 2))(
            jax.random.key(0), jnp.ones(2), times, lambda x, t: x, SCHEDULES["VE"]
        )
