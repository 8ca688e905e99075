"""Loop defect, step halving and path against chord, where the answers are known.

The score s = -x + omega J x, with J the rotation by a right angle, is the simplest that is no
gradient: around a triangle with sides a and b its integral is exactly omega b.J a.
"""

from dataclasses import dataclass, field
from math import log, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from scoreppl import diagnostics
from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VPLinear, register_part
from scoreppl.score import ScoreNetwork

KEY = jax.random.key(0)
MIXTURE = GaussianMixture(
    means=jnp.array([[1.0, 0.0, 0.5], [-1.0, 0.8, 0.0]]),
    scales=jnp.array([0.7, 0.9]),
    weights=jnp.array([0.4, 0.6]),
)
ROTATION = jnp.array([[0.0, -1.0], [1.0, 0.0]])


@register_part
@dataclass(frozen=True)
class Rotational:
    """Blocks of two coordinates with the score -x + omega J x, at every time."""

    omega: float = 0.5
    num_blocks: int = field(default=1, metadata={"static": True})

    noise = VPLinear()
    min_time = 0.0
    has_log_density = False

    @property
    def event_shape(self):
        return (2 * self.num_blocks,)

    def score(self, x, t):
        return -x + self.omega * (x.reshape(-1, 2) @ ROTATION.T).ravel()

    def denoise(self, x, t):
        return x


def energy(params, x, t, condition):
    return -jnp.sum(x**2) / 2 - params * jnp.sum(jnp.cos(x)) * jnp.sum(x) / 5


ENERGY = ScoreNetwork(
    energy, jnp.array(0.7), noise=VPLinear(), prediction="energy", event_shape=(4,)
)


def rotational_points(count, num_blocks=1):
    return jax.random.normal(jax.random.key(1), (count, 2 * num_blocks))


# Conservative scores.


@pytest.mark.parametrize("t", [0.0, 0.2, 0.9])
def test_a_mixture_has_no_loop_defect(t):
    x = MIXTURE.sample_exact(KEY, (16,), t=t)
    found = diagnostics.loop_defect(MIXTURE, x, t, key=KEY)
    # Loops are sums of some nats in float32, and of four-point quadratures.
    assert found.median < 1e-5 and found.rms < 1e-2
    assert found.kappa < 1e-5 and found.asymmetry < 1e-5
    assert found.verdict == "ok" and found.num_nan == 0
    assert 0.2 < found.sd_log_acceptance and 0.5 < found.acceptance_rate < 0.95


def test_an_energy_network_has_no_loop_defect():
    x = jax.random.normal(KEY, (16, 4))
    found = diagnostics.loop_defect(ENERGY, x, 0.5, key=KEY)
    assert found.median < 1e-5 and found.rms < 1e-3
    assert found.kappa < 1e-5 and found.asymmetry < 1e-5
    assert found.verdict == "ok"
    disagreement = diagnostics.path_against_chord(ENERGY, x, 0.5, key=KEY)
    assert disagreement.median < 1e-4 and disagreement.verdict == "ok"
    assert disagreement.flips < 1e-3


def test_path_and_chord_agree_on_a_mixture():
    x = MIXTURE.sample_exact(KEY, (16,), t=0.5)
    found = diagnostics.path_against_chord(MIXTURE, x, 0.5, 0.4, 4, key=KEY)
    assert found.median < 1e-5 and found.quantile_90 < 1e-3
    assert found.verdict == "ok" and found.step_size == pytest.approx(0.4) and found.num_steps == 4
    assert found.acceptance_path == pytest.approx(found.acceptance_chord, abs=1e-3)


# The rotational score, in closed form.


@pytest.mark.parametrize("omega", [0.05, 0.5])
def test_loops_of_a_rotation(omega):
    """From the origin the sides are a = sqrt(2h) z and b = h S (x + a) + sqrt(2h) z'.

    With S = -1 + omega J this gives E[(omega b.J a)^2] = omega^2 (8 h^2 + 32 h^4 omega^2). The
    fourth moment of a product of Gaussians makes the relative standard error of the rms
    sqrt(5 / N) / 2 = 1.8 % for 4096 loops; five of them fail once in 10^6.
    """
    h = 0.3
    found = diagnostics.loop_defect(
        Rotational(omega), jnp.zeros((1024, 2)), 0.5, key=KEY, step_size=h, num_loops=4
    )
    expected = omega * sqrt(8 * h**2 + 32 * h**4 * omega**2)
    assert found.rms == pytest.approx(expected, rel=0.09)
    # J - J^T is 2 omega times the rotation, J + J^T is -2: every probe gives the exact norm.
    assert found.kappa == pytest.approx(h * 2 * omega * sqrt(2), rel=1e-4)
    assert found.asymmetry == pytest.approx(omega, rel=1e-4)
    assert found.step_size == pytest.approx(h, rel=1e-4)
    assert found.quadrature_error < 1e-5


def test_path_and_chord_of_a_rotation():
    """Two leapfrog steps from the origin enclose an area of omega eps^4 |p|^2 / 2.

    The disagreement is then omega^2 eps^4 |p|^2, with |p|^2 chi-squared of 2 degrees: its median
    is 2 log 2 and its 90 % quantile 2 log 10. Of 4000 draws the median has a relative standard
    error of 1 / (log(2) sqrt(4000)) = 2.3 %, the quantile one of 2.1 %; five fail once in 10^6.
    """
    omega, step = 0.8, 0.5
    found = diagnostics.path_against_chord(
        Rotational(omega), jnp.zeros((2000, 2)), 0.5, step, 2, key=KEY, num_trajectories=2
    )
    scale = omega**2 * step**4
    assert found.median == pytest.approx(scale * 2 * log(2), rel=0.12)
    assert found.quantile_90 == pytest.approx(scale * 2 * log(10), rel=0.11)
    assert found.quadrature_error < 1e-5
    assert found.ratio == pytest.approx(found.median / found.sd_log_acceptance)


@pytest.mark.parametrize(
    "omega, expected", [(1e-3, "ok"), (0.05, "approximate"), (0.2, "not corrected")]
)
def test_verdicts_follow_the_curl(omega, expected):
    """In 20 dimensions at h = 0.3 the median loop is about 2.4 omega nats, sd(log alpha) 0.55."""
    x = rotational_points(32, 10)
    model = Rotational(omega, 10)
    found = diagnostics.loop_defect(model, x, 0.5, key=KEY, step_size=0.3, num_loops=4)
    assert found.verdict == expected
    assert found.kappa / 2 < found.rms < 2 * found.kappa
    assert expected in str(found)


# Quadrature or model.


def test_a_quadrature_error_shrinks_with_the_nodes():
    x = MIXTURE.sample_exact(KEY, (32,), t=0.1)
    found = diagnostics.step_halving(MIXTURE, x, 0.1, key=KEY)
    assert found.cause == "quadrature" and found.num_segments == (1, 2, 4)
    # Simpson's rule gains a factor 16 a halving once it has reached its order.
    assert found.quadrature_error[0] > 4 * found.quadrature_error[1] > 0
    assert found.loop[0] > 8 * found.loop[2]
    assert "quadrature" in str(found)


def test_a_curl_does_not_shrink():
    found = diagnostics.step_halving(Rotational(0.5), rotational_points(32), 0.5, key=KEY)
    assert found.cause == "model" and "curl" in str(found)
    # Simpson's rule is exact on a linear score.
    assert max(found.quadrature_error) < 1e-5
    assert found.loop[0] > 0.1 and found.loop[2] == pytest.approx(found.loop[0], rel=1e-4)


def test_a_curl_is_found_behind_a_poor_rule():
    model = Rotational(0.5)
    x = rotational_points(32)
    poor = diagnostics.step_halving(model, x, 0.5, key=KEY, quadrature="gauss_legendre")
    assert poor.cause == "model"


def test_no_residual():
    """A Gaussian's score is linear and a gradient: rounding is all that is left."""
    gaussian = GaussianMixture(jnp.zeros((1, 3)), scales=1.0)
    x = gaussian.sample_exact(KEY, (16,), t=0.5)
    assert diagnostics.step_halving(gaussian, x, 0.5, key=KEY).cause == "none"


# Steps, costs, and ways to call.


@pytest.mark.parametrize("size", [4, 100])
def test_the_search_finds_the_step(size):
    """About 75 % acceptance; three quarters of 64 moves or more have a standard error of 4 %."""
    gaussian = GaussianMixture(jnp.zeros((1, size)), scales=jnp.full((1, size), 0.5))
    x = gaussian.sample_exact(KEY, (32,), t=0.3)
    found = diagnostics.loop_defect(gaussian, x, 0.3, key=KEY, num_probes=0)
    assert 0.6 < found.acceptance_rate < 0.9
    assert np.isnan(found.kappa) and np.isnan(found.asymmetry) and "kappa" not in str(found)


class Counting:
    """A score that counts its evaluations on the host."""

    noise = VPLinear()
    event_shape = (2,)
    min_time = 0.0
    has_log_density = False

    def __init__(self):
        self.count = 0

    def score(self, x, t):
        def add(x):
            self.count += 1
            return np.zeros((), np.float32)

        # The argument makes the callback run once an event under vmap.
        return -x + io_callback(add, jax.ShapeDtypeStruct((), jnp.float32), x) * x

    def denoise(self, x, t):
        return x


@pytest.mark.parametrize(
    "name, settings",
    [
        ("loop_defect", {"num_probes": 0, "num_loops": 2}),
        ("loop_defect", {"num_probes": 0, "num_loops": 1, "step_size": 0.1}),
        ("loop_defect", {"num_probes": 0, "step_size": 0.1, "quadrature": "simpson"}),
        ("step_halving", {"num_loops": 2, "step_size": 0.1}),
        ("step_halving", {"num_loops": 1, "quadrature": "gauss_legendre", "step_size": 0.1}),
        ("path_against_chord", {"num_steps": 3, "num_trajectories": 2, "step_size": 0.1}),
        ("path_against_chord", {"num_steps": 2, "step_size": 0.1, "quadrature": "simpson"}),
    ],
)
def test_the_cost_is_what_was_spent(name, settings):
    model = Counting()
    found = getattr(diagnostics, name)(model, jnp.ones((3, 2)), 0.5, key=KEY, **settings)
    jax.effects_barrier()
    assert model.count == found.num_score_evaluations


def test_the_result_depends_on_the_key_alone():
    x, model = rotational_points(4), Rotational(0.3)
    first, again = (diagnostics.loop_defect(model, x, 0.5, key=KEY) for _ in range(2))
    other = diagnostics.loop_defect(model, x, 0.5, key=jax.random.key(7))
    one_by_one = diagnostics.loop_defect(model, x, 0.5, key=KEY, batch_nodes=False)
    assert first == again and first.median != other.median
    assert one_by_one.median == pytest.approx(first.median, rel=1e-4)


def test_a_scalar_event():
    model = GaussianMixture(jnp.array([0.0, 1.0]), scales=1.0)
    found = diagnostics.loop_defect(model, jnp.array([0.2, -0.3]), 0.5, key=KEY)
    # In one dimension every loop runs back over itself.
    assert found.median < 1e-5 and found.verdict == "ok"


# What goes wrong.


class Holed(Rotational):
    """A rotation whose score is not a number to the right of 1."""

    def score(self, x, t):
        return jnp.where(x[0] > 1.0, jnp.nan, super().score(x, t))


register_part(Holed)


def test_failed_loops_are_counted_and_left_out():
    x = jnp.zeros((64, 2))
    found = diagnostics.loop_defect(Holed(0.5), x, 0.5, key=KEY, step_size=0.2)
    # The first move alone crosses the line with probability 5.7 %.
    assert 0 < found.num_nan < 4 * 64 and np.isfinite(found.rms) and np.isfinite(found.ratio)
    halving = diagnostics.step_halving(Holed(0.5), x, 0.5, key=KEY, step_size=0.2)
    paths = diagnostics.path_against_chord(Holed(0.5), x, 0.5, 0.6, 2, key=KEY)
    assert halving.num_nan > 0 and halving.cause == "model"
    assert paths.num_nan > 0 and np.isfinite(paths.median)


def test_a_score_that_fails_everywhere():
    x = jnp.array([[2.0, 0.0], [3.0, 0.0]])
    for name in ("loop_defect", "step_halving", "path_against_chord"):
        with pytest.raises(ValueError, match="not finite at some of the points"):
            getattr(diagnostics, name)(Holed(0.5), x, 0.5, key=KEY)


def test_moves_that_all_fail():
    # Every move of such a step ends right of 1 or far to the left, whence the next one ends there.
    x = jnp.full((2, 2), -1e20)
    with pytest.raises(ValueError, match="smaller `step_size`"):
        diagnostics.loop_defect(Holed(0.5), x, 0.5, key=KEY, step_size=1e20, num_loops=1)


@pytest.mark.parametrize("name", ["loop_defect", "step_halving", "path_against_chord"])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": jnp.zeros(3)}, "stacked along a leading axis"),
        ({"x": jnp.zeros((2, 4))}, "event's shape"),
        ({"x": jnp.zeros((0, 3))}, "n >= 1"),
        ({"x": jnp.full((2, 3), jnp.nan)}, "`x` holds values"),
        ({"t": -0.1}, "`t=-0.1`"),
        ({"t": 1.5}, "`t=1.5`"),
        ({"t": jnp.array([0.1, 0.2])}, "must be one time"),
        ({"step_size": 0.0}, "`step_size=0.0` must be positive"),
        ({"step_size": float("nan")}, "must be positive"),
    ],
)
def test_bad_input(name, change, message):
    settings = {"x": jnp.zeros((2, 3)), "t": 0.5, "key": KEY, **change}
    with pytest.raises(ValueError, match=message):
        getattr(diagnostics, name)(MIXTURE, **settings)


@pytest.mark.parametrize(
    "name, counts",
    [
        ("loop_defect", {"num_loops": 0}),
        ("loop_defect", {"num_probes": -1}),
        ("step_halving", {"num_loops": 0}),
        ("path_against_chord", {"num_steps": 0}),
        ("path_against_chord", {"num_trajectories": 0}),
    ],
)
def test_bad_counts(name, counts):
    with pytest.raises(ValueError, match=f"`{next(iter(counts))}="):
        getattr(diagnostics, name)(MIXTURE, jnp.zeros((2, 3)), 0.5, key=KEY, **counts)


def test_a_time_below_the_networks_range():
    model = ScoreNetwork(
        energy, 0.5, noise=VPLinear(), prediction="energy", event_shape=(4,), min_time=0.01
    )
    with pytest.raises(ValueError, match="min_time"):
        diagnostics.loop_defect(model, jnp.zeros((1, 4)), 0.001, key=KEY)


@pytest.mark.parametrize("name", ["loop_defect", "step_halving", "path_against_chord"])
def test_an_unknown_rule(name):
    with pytest.raises(ValueError, match="`quadrature='midpoint'`"):
        getattr(diagnostics, name)(MIXTURE, jnp.zeros((1, 3)), 0.5, key=KEY, quadrature="midpoint")
