"""Quadrature of scores: accuracy, order, exactness, and what an integral costs."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from scoreppl.analytic import GaussianMixture
from scoreppl.line_integral import (
    Quadrature,
    as_quadrature,
    gauss_legendre,
    gauss_lobatto,
    line_integral,
    polyline_integral,
    segment_integral,
    simpson,
    trapezoid,
)
from tests.oracle import QUICK

# Rule, degree of the polynomials it integrates exactly; its error on a chord of length h falls
# as h ** (degree + 2).
RULES = {
    "trapezoid": (trapezoid(), 1),
    "simpson": (simpson(), 3),
    "gauss_legendre(2)": (gauss_legendre(2), 3),
    "gauss_legendre(3)": (gauss_legendre(3), 5),
    "gauss_legendre(5)": (gauss_legendre(5), 9),
    "gauss_lobatto(3)": (gauss_lobatto(3), 3),
    "gauss_lobatto(4)": (gauss_lobatto(4), 5),
    "gauss_lobatto(5)": (gauss_lobatto(5), 7),
}
ALL_RULES = pytest.mark.parametrize(("rule", "degree"), RULES.values(), ids=RULES)


MIXTURE = GaussianMixture(
    jnp.array([[1.5, 0.0, -1.0], [-1.0, 1.0, 0.5], [0.0, -1.2, 0.8]]),
    scales=jnp.array([0.6, 0.9, 0.75]),
    weights=jnp.array([0.5, 0.3, 0.2]),
)
LOG_PROB = jax.jit(jax.vmap(lambda x: MIXTURE.log_prob(x, 0.05)))


def SCORE(x: Array) -> Array:
    return MIXTURE.score(x, 0.05)


def random_chords(length: float) -> tuple[Array, Array]:
    """1000 draws of x_t, and their ends after a jump with standard deviation `length`."""
    key_x, key_y = jax.random.split(jax.random.key(1))
    x = MIXTURE.sample_exact(key_x, (1000,), 0.05)
    return x, x + length * jax.random.normal(key_y, x.shape)


def one_chord(length: float) -> tuple[Array, Array]:
    x, y = random_chords(length)
    return x[0], y[0]


@cache
def compiled(rule: Quadrature) -> Callable[..., tuple[Array, Array]]:
    integrals = jax.vmap(lambda a, b: line_integral(SCORE, a, b, quadrature=rule)[:2])
    return jax.jit(integrals, compiler_options=QUICK)


def integrate_chords(rule: Quadrature, x: Array, y: Array) -> tuple[np.ndarray, np.ndarray]:
    value, error = compiled(rule)(x, y)
    return np.asarray(value), np.asarray(error)


def exact_ratios(x: Array, y: Array) -> np.ndarray:
    return np.asarray(LOG_PROB(y) - LOG_PROB(x))


# Bounds on the median and the 99th percentile of the error in nats over 1000 chords whose jump is
# .4 a coordinate (components have standard deviations of .6 to .9): about 2.5 times what was
# measured, over chords that do not change.
ACCURACY = {
    "trapezoid": (3e-3, 1.2),
    "simpson": (3e-5, 8e-2),
    "gauss_legendre(2)": (2e-5, 6e-2),
    "gauss_legendre(3)": (2e-6, 4e-3),
    "gauss_legendre(5)": (2e-6, 4e-5),
    "gauss_lobatto(3)": (3e-5, 8e-2),
    "gauss_lobatto(4)": (2e-6, 5e-3),
    "gauss_lobatto(5)": (2e-6, 5e-4),
}


@pytest.mark.parametrize("name", RULES)
def test_rule_recovers_log_ratio_of_mixture(name):
    x, y = random_chords(0.4)
    value, _ = integrate_chords(RULES[name][0], x, y)
    errors = np.abs(value - exact_ratios(x, y))
    median, tail = ACCURACY[name]
    assert np.median(errors) < median
    assert np.quantile(errors, 0.99) < tail


def test_many_nodes_reach_rounding_error():
    x, y = random_chords(0.4)
    value, _ = integrate_chords(gauss_legendre(16), x, y)
    # Log densities of up to about 30, rounded at 6e-8 of themselves in a handful of operations.
    np.testing.assert_allclose(value, exact_ratios(x, y), atol=2e-5, rtol=0)


@ALL_RULES
def test_exact_for_polynomials_up_to_its_degree_and_no_further(rule, degree):
    """All monomials at once: each needs its own integral, which one score cannot mix."""

    @partial(jax.jit, compiler_options=QUICK)
    def monomials():
        powers = jnp.arange(degree + 2)
        ends = jnp.zeros(()), jnp.ones(())
        return jax.vmap(lambda k: line_integral(lambda x: x**k, *ends, quadrature=rule).value)(
            powers
        )

    with jax.enable_x64(True):
        relative = np.asarray(monomials()) * np.arange(1, degree + 3)
    np.testing.assert_allclose(relative[:-1], 1.0, rtol=1e-13)
    assert abs(relative[-1] - 1.0) > 1e-6


def wavy_log_density(x: Array) -> Array:
    return jnp.sum(jnp.sin(1.3 * x)) + 0.3 * jnp.sin(x[0] * x[1] + 0.4)


@ALL_RULES
def test_error_falls_with_the_chord_at_the_rules_order(rule, degree):
    @partial(jax.jit, compiler_options=QUICK)
    def error(length):
        x, y = (jnp.array([0.3, -0.7]) + end * jnp.array([0.8, 0.6]) for end in (-length, length))
        value = line_integral(jax.grad(wavy_log_density), x, y, quadrature=rule).value
        return jnp.abs(value - (wavy_log_density(y) - wavy_log_density(x)))

    with jax.enable_x64(True):
        # Short enough for the leading term, long enough for it to stand above rounding.
        length = 0.2 if degree < 7 else 0.3
        slope = np.log2(float(error(2 * length)) / float(error(length)))
    assert abs(slope - (degree + 2)) < 0.3


@ALL_RULES
def test_antisymmetric(rule, degree):
    x, y = random_chords(1.0)
    there, error_there = integrate_chords(rule, x, y)
    back, error_back = integrate_chords(rule, y, x)
    # Sums of at most 8 products of a few tens, in float32.
    np.testing.assert_allclose(there, -back, atol=2e-5, rtol=1e-5)
    if rule.name != "trapezoid":  # its embedded rule is one-sided
        np.testing.assert_allclose(error_there, error_back, atol=1e-3, rtol=0.05)


@pytest.mark.parametrize("length", [0.3, 0.7, 1.0])
@ALL_RULES
def test_error_estimate_is_on_the_safe_side_and_not_absurd(rule, degree, length):
    """Covers nine chords in ten whose error rounding does not hide, and is no mere bound."""
    x, y = random_chords(length)
    value, estimate = integrate_chords(rule, x, y)
    errors = np.abs(value - exact_ratios(x, y))
    resolved = errors > 3e-5  # below that the log densities themselves are rounded
    assert np.sum(estimate[resolved] < errors[resolved]) <= 0.1 * resolved.sum() + 2
    # Two nodes leave an embedded rule of one node, whose error says nothing of this rule's.
    if len(rule.nodes) > 2:
        assert np.median(estimate) < 100 * max(np.median(errors), 1e-5)


def test_constant_score_has_no_error_estimate():
    result = line_integral(lambda x: jnp.array([2.0, -1.0]), jnp.zeros(2), jnp.ones(2))
    assert float(result.value) == 1.0
    assert float(result.error) == 0.0


def test_value_of_a_rotation_is_twice_the_enclosed_area():
    """A score that is no gradient: the integral depends on the path, and the loop shows it."""
    triangle = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    result = polyline_integral(lambda x: jnp.array([-x[1], x[0]]), triangle)
    np.testing.assert_allclose(result.value, 2.0, rtol=1e-6)


def test_pytrees_agree_with_flat_arrays():
    x, y = one_chord(1.0)
    flat = line_integral(SCORE, x, y)

    def split(z):
        return {"b": z[:1], "a": (z[1], z[2:])}

    def score(position):
        return split(MIXTURE.score(jnp.r_[position["b"], position["a"][0], position["a"][1]], 0.05))

    tree = line_integral(score, split(x), split(y))
    np.testing.assert_allclose(tree.value, flat.value, rtol=1e-5)
    np.testing.assert_allclose(tree.error, flat.error, rtol=1e-2)
    ends = line_integral(
        score, split(x), split(y), score_x=score(split(x)), score_y=score(split(y))
    )
    np.testing.assert_allclose(ends.value, flat.value, rtol=1e-5)


def test_scalar_events():
    result = line_integral(lambda x: -x, jnp.asarray(1.0), jnp.asarray(2.0))
    np.testing.assert_allclose(result.value, -1.5, rtol=1e-6)


@pytest.mark.parametrize("batch_nodes", [True, False])
@ALL_RULES
def test_reported_evaluations_are_the_calls_made(rule, degree, batch_nodes):
    calls = []

    def score(x):
        jax.debug.callback(lambda _: calls.append(1), x)  # an argument: once an event
        return -x

    def spent(integral, *points, **known):
        calls.clear()
        result = integral(score, *points, quadrature=rule, batch_nodes=batch_nodes, **known)
        jax.effects_barrier()
        assert result.num_score_evaluations == len(calls)
        return len(calls)

    x, y = jnp.array([0.5, 1.0]), jnp.array([2.0, -1.0])
    new = len(rule.interior)
    ends = 2 if rule.has_endpoints else 0
    assert spent(line_integral, x, y) == new + ends
    assert spent(line_integral, x, y, score_x=-x) == new + ends // 2
    assert spent(line_integral, x, y, score_x=-x, score_y=-y) == new
    corners = jnp.stack([x, y, 2 * x])
    assert spent(polyline_integral, corners) == 2 * new + (3 if ends else 0)
    assert spent(polyline_integral, corners, score_first=-x) == 2 * new + (2 if ends else 0)


@ALL_RULES
def test_known_ends_change_nothing_but_the_cost(rule, degree):
    x, y = one_chord(1.0)
    plain = line_integral(SCORE, x, y, quadrature=rule)
    cached = line_integral(SCORE, x, y, quadrature=rule, score_x=SCORE(x), score_y=SCORE(y))
    np.testing.assert_allclose(cached.value, plain.value, rtol=1e-5)


@ALL_RULES
def test_nodes_one_by_one_agree_with_nodes_in_a_batch(rule, degree):
    x, y = one_chord(1.0)
    batched = line_integral(SCORE, x, y, quadrature=rule)
    single = line_integral(SCORE, x, y, quadrature=rule, batch_nodes=False)
    np.testing.assert_allclose(single.value, batched.value, rtol=1e-5)
    np.testing.assert_allclose(single.error, batched.error, rtol=1e-2, atol=1e-6)


def test_composite_simpson_converges_at_order_four_along_a_curved_path():
    @partial(jax.jit, static_argnums=0, compiler_options=QUICK)
    def along_arc(segments):
        angle = jnp.linspace(0.1, 2.0, segments + 1)
        points = 1.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
        result = polyline_integral(jax.grad(wavy_log_density), points)
        return result, wavy_log_density(points[-1]) - wavy_log_density(points[0])

    with jax.enable_x64(True):
        results = [along_arc(segments) for segments in (4, 8, 16)]
    errors = np.array([abs(float(result.value - exact)) for result, exact in results])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 4.0, atol=0.4)
    assert np.all([result.error for result, _ in results] >= errors)


def test_polyline_is_the_sum_of_its_chords():
    points = random_chords(1.0)[0][:4]
    total = polyline_integral(SCORE, points)
    chords = [line_integral(SCORE, a, b) for a, b in zip(points[:-1], points[1:], strict=True)]
    np.testing.assert_allclose(total.value, sum(float(c.value) for c in chords), rtol=1e-4)
    np.testing.assert_allclose(total.error, sum(float(c.error) for c in chords), rtol=1e-2)


def test_half_precision_scores_are_summed_in_float32():
    # In float16 the product 3000 * 30 = 90000 is infinite and a sum near 2000 is rounded to 1.
    x, y = jnp.zeros(2, jnp.float16), jnp.array([30.0, 0.5], jnp.float16)
    result = line_integral(lambda z: jnp.array([3000.0, 1.0], jnp.float16), x, y)
    assert result.value.dtype == jnp.float32
    assert float(result.value) == pytest.approx(90000.5, abs=0.02)


def test_nan_score_gives_nan_and_no_number():
    result = line_integral(lambda x: jnp.where(x > 0.4, jnp.nan, x), jnp.zeros(2), jnp.ones(2))
    assert np.isnan(result.value)
    assert np.isnan(result.error)


def test_jit_of_differentiable_ends():
    x, y = one_chord(0.3)
    gradient = jax.jit(jax.grad(lambda b: line_integral(SCORE, x, b).value))(y)
    # The gradient of the log-ratio in its end is the score there, up to quadrature.
    np.testing.assert_allclose(gradient, SCORE(y), rtol=0.05, atol=0.02)


def test_segment_integral_weights_are_complete():
    for rule, _ in RULES.values():
        assert sum(rule.weights) == pytest.approx(1.0, abs=1e-12)
        assert sum(rule.error_weights) == pytest.approx(0.0, abs=1e-12)
        assert list(rule.nodes) == sorted(rule.nodes)
        value, error = segment_integral(rule, jnp.array([1.0, 2.0]), jnp.ones((len(rule.nodes), 2)))
        assert float(value) == pytest.approx(3.0, rel=1e-6)
        assert float(error) == pytest.approx(0.0, abs=1e-6)


def test_rules_by_name():
    for name in ("simpson", "gauss_legendre", "gauss_lobatto", "trapezoid"):
        assert as_quadrature(name).name.startswith(name)
    assert as_quadrature(gauss_legendre(7)) == gauss_legendre(7)
    assert [name for name in RULES if RULES[name][0].biased] == ["trapezoid"]


def test_bad_input_is_refused_with_the_remedy():
    x, y = jnp.zeros(2), jnp.ones(2)
    with pytest.raises(ValueError, match=r"`quadrature='simpsons'` is not known.*'simpson'"):
        line_integral(lambda z: z, x, y, quadrature="simpsons")
    with pytest.raises(ValueError, match=r"`num_nodes=1` must be at least 2"):
        gauss_legendre(1)
    with pytest.raises(ValueError, match=r"`num_nodes=2` must be at least 3"):
        gauss_lobatto(2)
    with pytest.raises(ValueError, match="at least two points"):
        polyline_integral(lambda z: z, x[None])
    with pytest.raises(ValueError, match="shape|structure"):
        line_integral(lambda z: z, x, jnp.ones(3))
    with pytest.raises(ValueError, match="structure"):
        line_integral(lambda z: z, {"a": x}, {"b": y})


def test_score_of_another_shape_or_structure_is_refused():
    x, y = jnp.zeros(2), jnp.ones(2)
    with pytest.raises(ValueError, match="score_fn"):
        line_integral(lambda z: jnp.sum(z), x, y)
    with pytest.raises(ValueError, match="score_fn"):
        line_integral(lambda z: {"a": z}, x, y)
    with pytest.raises(ValueError, match="score_fn"):
        line_integral(lambda z: z[:, None], x, y)
