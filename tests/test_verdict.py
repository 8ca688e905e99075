"""What a disagreement in nats means: thresholds, decisions that change, and enough nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp
from scoreppl import diagnostics
from scoreppl.analytic import GaussianMixture
from scoreppl.diagnostics.verdict import verdict
from scoreppl.line_integral import gauss_legendre
from tests.test_diagnostics import ROTATION, Rotational

KEY = jax.random.key(0)


def test_decisions_that_a_rotation_changes():
    """The same triangles in NumPy, where a log-ratio is (y - x) . S (x + y) / 2 exactly.

    Of 8192 triangles here and 10^5 there the share has a standard error below 1.5 %.
    """
    omega, h = 0.6, 0.3
    found = diagnostics.loop_defect(
        Rotational(omega), jnp.zeros((1024, 2)), 0.5, key=KEY, step_size=h, num_loops=8
    )
    slope = -np.eye(2) + omega * np.asarray(ROTATION)
    rng = np.random.default_rng(0)

    def ratio(x, y):
        return np.sum((y - x) * ((x + y) / 2 @ slope.T), 1)

    def log_proposal(x, y):
        return -np.sum((y - x - h * x @ slope.T) ** 2, 1) / (4 * h)

    corners = [np.zeros((100_000, 2))]
    for _ in range(2):
        x = corners[-1]
        corners.append(x + h * x @ slope.T + np.sqrt(2 * h) * rng.standard_normal(x.shape))
    x, y, z = corners
    loop = ratio(x, y) + ratio(y, z) + ratio(z, x)
    moves = [ratio(a, b) + log_proposal(b, a) - log_proposal(a, b) for a, b in ((x, y), (y, z))]
    flips = [np.abs(np.exp(np.minimum(a, 0)) - np.exp(np.minimum(a - loop, 0))) for a in moves]
    assert found.flips == pytest.approx(np.mean(flips), rel=0.06)
    assert f"{found.flips:.0%} of decisions" in str(found)


def test_more_nodes_make_a_gradients_loops_smaller():
    """Moves that are long against narrow modes: 4 nodes leave an error, 16 leave rounding."""
    narrow = GaussianMixture(jnp.array([[0.5, 0.0], [-0.5, 0.0]]), scales=0.1)
    x = narrow.sample_exact(KEY, (64,), t=0.1)
    for measure, settings in (
        ("loop_defect", {"step_size": 0.03, "num_probes": 0}),
        ("path_against_chord", {"step_size": 0.25}),
    ):
        few, many = (
            getattr(diagnostics, measure)(
                narrow, x, 0.1, key=KEY, quadrature=gauss_legendre(nodes), **settings
            )
            for nodes in (4, 16)
        )
        assert few.quantile_90 > 20 * many.quantile_90
        assert few.quadrature_error > 1e3 * many.quadrature_error


def test_a_curl_in_one_of_two_modes_is_seen():
    """A field that turns in 45 of 100 places: the median loop is rounding, and decisions change."""
    place, size = 8.0, 16
    turn = jnp.zeros((size, size)).at[jnp.arange(0, size, 2), jnp.arange(1, size, 2)].set(1.0)
    mode = jnp.zeros(size).at[0].set(place)

    def score(_, x):
        share = jax.nn.sigmoid(2 * place * x[0])
        gradient = -(x - mode) * share - (x + mode) * (1 - share)
        return gradient + share * (turn - turn.T) @ (x - mode)

    sides = jnp.where(jnp.arange(256) < 115, 1.0, -1.0)
    points = jax.random.normal(KEY, (256, size)) + sides[:, None] * mode
    model = sp.LocalScore(score, event_shape=(size,))
    found = diagnostics.loop_defect(model, points, 0.0, key=KEY, step_size=0.2, num_probes=0)
    assert found.median < 1e-4 and found.flips > 0.1
    assert found.verdict == "not corrected"


def test_thresholds():
    assert verdict(0.019, 1.0) == "ok"
    assert verdict(0.021, 1.0) == "approximate"
    assert verdict(0.019, 0.15) == "approximate"
    assert verdict(0.19, 1.0) == "approximate"
    assert verdict(0.21, 1.0) == "not corrected"
    assert verdict(0.19, 0.3) == "not corrected"
    # Nats and shares have thresholds of their own.
    assert verdict(0.019, 0.5) == "ok"
    assert verdict(0.05, 5.0) == "approximate"
    assert verdict(0.19, 0.5) == "approximate"
    assert verdict(0.3, 3.0) == "not corrected"
    # So have decisions, of which a median may see nothing.
    assert verdict(0.0, 1.0, flips=0.019) == "ok"
    assert verdict(0.0, 1.0, flips=0.021) == "approximate"
    assert verdict(0.0, 1.0, flips=0.099) == "approximate"
    assert verdict(0.0, 1.0, flips=0.101) == "not corrected"
    # Two roundings: 1e-6 nats of loop in moves whose log acceptances do not vary.
    assert verdict(1e-6, 1e-7, rounding=1e-5) == "ok"
    assert verdict(0.0, 0.0) == "ok"
