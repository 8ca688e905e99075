"""Events with known probabilities: exact, or by quadrature in one dimension.

A limit state g is positive where the event happens; the literature of structural reliability has
the opposite sign.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.integrate import quad
from scipy.stats import norm

from scoreppl.analytic import GaussianMixture
from tests import problems as mixtures
from tests import rare_problems

SKEWED_LEVEL = 4.5
# Reference probabilities of the PyPI package otbenchmark 0.2.1, of its classes
# FourBranchSerialSystemReliability (Waarts, thesis, Delft 2000) and ReliabilityProblem25 (RP25 of
# the repository rprepo.readthedocs.io).
FOUR_BRANCH_PUBLISHED, CORNER_PUBLISHED = 0.2222795066194439887e-2, 4.148566293759747e-05


class Problem(NamedTuple):
    """An event under a law.

    Attributes
    ----------
    name, source
        What it is called, and where its probability comes from.
    model
        The law.
    limit_state
        Of one event, in JAX.
    truth
        The probability.
    check
        ``check(rng, count)`` draws the law and tells which draws meet the event, by numpy alone.
    published
        A probability that others have published.
    is_normal
        Whether the law is N(0, I), so that the space of design points is that of events.
    branches
        Limit states of the events whose union this one is, if that is known.
    """

    name: str
    source: str
    model: GaussianMixture
    limit_state: Callable[[Array], Array]
    truth: float
    check: Callable[[np.random.Generator, int], np.ndarray]
    published: float | None = None
    is_normal: bool = True
    branches: tuple[Callable[[Array], Array], ...] = ()

    @property
    def size(self) -> int:
        """Number of coordinates of an event."""
        return int(np.prod(self.model.event_shape))


def _normal(size: int) -> GaussianMixture:
    return GaussianMixture(jnp.zeros((1, size)), scales=1.0)


def half_space(size: int) -> Problem:
    """Return the mean of so many normal coordinates, five standard deviations away."""

    def beyond(x: Array) -> Array:
        return jnp.sum(x) / jnp.sqrt(size) - 5.0

    def check(rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.standard_normal(count) > 5.0  # the standardised sum is one normal number

    return Problem(f"Φ(-5), d = {size}", "exact", _normal(size), beyond, float(norm.sf(5.0)), check)


def skewed() -> Problem:
    """Return the far right of a mixture in the plane, which is the small component's."""
    weights, means, scales = np.array([0.9, 0.1]), np.array([[0.0, 0.0], [1.5, -1.0]]), [0.5, 0.8]
    model = GaussianMixture(jnp.asarray(means), scales=jnp.array(scales), weights=weights)
    masses = norm.sf((SKEWED_LEVEL - means[:, 0]) / scales)

    def check(rng: np.random.Generator, count: int) -> np.ndarray:
        chosen = (rng.random(count) < weights[1]).astype(int)
        centres, spreads = means[chosen, 0], np.array(scales)[chosen]
        return centres + spreads * rng.standard_normal(count) > SKEWED_LEVEL

    return Problem(
        "skewed, d = 2", "exact", model, lambda x: x[0] - SKEWED_LEVEL,
        float(weights @ masses), check, is_normal=False,
    )  # fmt: skip


def four_branch() -> Problem:
    """Return the series system of four branches, two of them curved."""

    def state(numpy, x):
        across, along = (x[..., 0] - x[..., 1]) / 2**0.5, (x[..., 0] + x[..., 1]) / 2**0.5
        curved = numpy.abs(along) - 3.0 - 0.2 * across**2
        return numpy.maximum(curved, numpy.abs(across) - 3.5)

    def inner(across: float) -> float:
        return float(norm.pdf(across) * 2 * norm.sf(3.0 + 0.2 * across**2))

    def branch(number: int) -> Callable[[Array], Array]:
        sign = 1.0 - 2.0 * (number % 2)

        def state_of(x: Array) -> Array:
            across, along = (x[0] - x[1]) / 2**0.5, (x[0] + x[1]) / 2**0.5
            curved = sign * along - 3.0 - 0.2 * across**2
            return curved if number < 2 else sign * across - 3.5

        return state_of

    truth = 2 * norm.sf(3.5) + quad(inner, -3.5, 3.5, epsabs=1e-14)[0]
    return Problem(
        "four branches, d = 2", "quadrature", _normal(2), lambda x: state(jnp, x), truth,
        lambda rng, count: state(np, rng.standard_normal((count, 2))) > 0, FOUR_BRANCH_PUBLISHED,
        branches=tuple(branch(number) for number in range(4)),
    )  # fmt: skip


def corner() -> Problem:
    """Return RP25: between a parabola and a steep line, a parallel system of two parts."""

    def state(numpy, x):
        first, second = x[..., 0], x[..., 1]
        return -numpy.maximum(first**2 - 8 * second + 16, -16 * first + second + 32)

    def inner(first: float) -> float:
        between = norm.sf((first**2 + 16) / 8) - norm.sf(16 * first - 32)
        return float(norm.pdf(first) * max(between, 0.0))

    truth = quad(inner, 2.0, 12.0, epsabs=1e-15, limit=500, points=[2.16])[0]
    return Problem(
        "RP25, d = 2", "quadrature", _normal(2), lambda x: state(jnp, x), truth,
        lambda rng, count: state(np, rng.standard_normal((count, 2))) > 0, CORNER_PUBLISHED,
    )  # fmt: skip


def outside_of_ball(law: mixtures.Components, radius: float) -> float:
    """Return the probability that a mixture's draw is further than `radius` from the origin.

    The squared length of a normal draw is a weighted sum of squares, whose distribution Imhof
    (Biometrika 48, 1961) inverts by one integral.
    """

    def of_component(mean: np.ndarray, covariance: np.ndarray) -> float:
        variances, axes = np.linalg.eigh(covariance)
        offsets = (axes.T @ mean) ** 2 / variances

        def integrand(u: float) -> float:
            scaled = variances * u
            turn = np.sum(np.arctan(scaled) + offsets * scaled / (1 + scaled**2)) - radius**2 * u
            damping = np.sum(0.25 * np.log1p(scaled**2)) + 0.5 * np.sum(
                offsets * scaled**2 / (1 + scaled**2)
            )
            return float(np.sin(0.5 * turn) / u * np.exp(-damping))

        edges = np.linspace(1e-12, 200.0, 1_001)
        parts = [quad(integrand, *pair, epsabs=1e-13)[0] for pair in pairwise(edges)]
        return 0.5 + sum(parts) / np.pi

    found = [of_component(*each) for each in zip(law.means, law.covariances, strict=True)]
    return float(law.weights @ np.array(found))


def of_mixture(name: str) -> Problem:
    """Return half8 or shell8 of `tests.rare_problems`, under a mixture of six components."""
    given, law = rare_problems.problem(name), mixtures.components(8)
    if name == "half8":
        source, truth = "exact", float(np.exp(rare_problems.truth(name).log_evidence))
    else:
        source, truth = "quadrature", outside_of_ball(law, rare_problems.SHELL_RADIUS)

    def check(rng: np.random.Generator, count: int) -> np.ndarray:
        x = mixtures.draw(law, count, int(rng.integers(2**31)))
        if name == "shell8":
            return (x**2).sum(-1) > rare_problems.SHELL_RADIUS**2
        normal, threshold = rare_problems.half_space()
        return x @ normal > threshold

    assert given.limit_state is not None
    return Problem(
        f"{name}, d = 8", source, given.prior, given.limit_state, truth, check, is_normal=False,
    )  # fmt: skip


def all_problems() -> list[Problem]:
    """Return every event whose probability is known."""
    return [
        half_space(2), half_space(50), four_branch(), corner(), skewed(), of_mixture("half8"),
        of_mixture("shell8"),
    ]  # fmt: skip


def plain_check(problem: Problem, num_draws: int, block: int = 1_000_000) -> tuple[int, int]:
    """Count the draws that meet an event, and all of them."""
    rng, blocks = np.random.default_rng(0), -(-num_draws // block)
    return sum(int(problem.check(rng, block).sum()) for _ in range(blocks)), blocks * block
