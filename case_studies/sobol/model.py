"""Three models, the expectations that their Sobol' indices are made of, and their truths.

The variance of an output f of independent groups of inputs is divided among the groups. With A
and B two independent points and A_i the first of them with group i from the second,

    V_i = E[f(B) (f(A_i) - f(A))]      (Saltelli et al., 2010),
    T_i = E[(f(A) - f(A_i))^2] / 2     (Jansen, 1999)

are the parts of the variance that group i explains alone and that vanish without it. Over the
variance of f they are the first-order and total indices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr

import scoreppl as sp
from scoreppl.score import flow_map

ISHIGAMI_A, ISHIGAMI_B = 7.0, 0.1
G_COEFFICIENTS = (0.0, 0.5, 3.0, 9.0)
FLOW_STEPS, THRESHOLD = 30, 10.0


@dataclass(frozen=True, eq=False)
class Model:
    """An output of normal inputs in groups, with thresholds of its tail.

    Parameters
    ----------
    name
        What tables call it.
    inputs
        Maps normal numbers, shape ``(size,)``, to inputs, shape ``(size,)``.
    output
        Maps inputs to a number.
    groups
        Names of the groups of inputs, and how many each has.
    threshold
        Of the tail: P(f > threshold) and E[max(f - threshold, 0)] are estimated, too; None for
        neither.
    network_evaluations
        Evaluations of the denoiser in `inputs`.
    with_indices
        Whether the parts of the variance are estimated, too; without them one point is one set
        of inputs.
    """

    name: str
    inputs: Callable[[Array], Array]
    output: Callable[[Array], Array]
    groups: dict[str, int]
    threshold: float | None = None
    network_evaluations: int = 0
    with_indices: bool = True

    @property
    def size(self) -> int:
        """How many inputs there are."""
        return sum(self.groups.values())

    @property
    def point_size(self) -> int:
        """How many coordinates a point of the expectations has."""
        return (1 + self.with_indices) * self.size

    @property
    def num_parts(self) -> int:
        """How many of the expectations are parts of the variance."""
        return 2 * len(self.groups) if self.with_indices else 0

    @property
    def names(self) -> list[str]:
        """Names of the expectations."""
        parts = [f"{letter}({group})" for letter in "VT" for group in self.groups]
        tail = ["P(tail)", "E(excess)"] if self.threshold is not None else []
        return [*parts[: self.num_parts], "E(f)", "E(f²)", *tail]

    @property
    def costs(self) -> list[int]:
        """Return evaluations of the output that each expectation needs by itself."""
        half = self.num_parts // 2
        return [3] * half + [2] * half + [1] * (len(self.names) - 2 * half)

    @property
    def cost(self) -> int:
        """Evaluations of the output for all expectations together."""
        return len(self.groups) + 2 if self.with_indices else 1

    def outputs(self, point: Array) -> tuple[Array, Array, Array]:
        """Return f(A), f(B) and all f(A_i) at a point of normal numbers, shape ``(2 * size,)``."""
        first, second = (self.inputs(half) for half in point.reshape(2, self.size))
        owner = np.repeat(np.arange(len(self.groups)), list(self.groups.values()))
        mixed = [jnp.where(owner == group, second, first) for group in range(len(self.groups))]
        return self.output(first), self.output(second), jnp.stack([self.output(x) for x in mixed])

    def expectations(self, point: Array) -> Array:
        """Return what the expectations are of, shape ``(J,)``."""
        if not self.with_indices:
            return self.moments(self.output(self.inputs(point)))
        first, second, mixed = self.outputs(point)
        moments = jnp.mean(jax.vmap(self.moments)(jnp.stack([first, second])), 0)
        return jnp.concatenate([second * (mixed - first), 0.5 * (first - mixed) ** 2, moments])

    def moments(self, output: Array) -> Array:
        """Return what moments and tail expectations are of, for one value of the output."""
        found = [output, output**2]
        if self.threshold is not None:
            excess = output - self.threshold
            found += [1.0 * (excess > 0), jnp.maximum(excess, 0.0)]
        return jnp.stack(found)

    def single(self, index: int) -> tuple[Callable[[Array], Array], int]:
        """Return what one expectation is of, by itself, and how many coordinates it needs."""
        moment = index - self.num_parts
        if moment >= 0:
            return lambda z: self.moments(self.output(self.inputs(z)))[moment][None], self.size
        return lambda point: self.expectations(point)[index][None], self.point_size


def ishigami() -> Model:
    """Return the Ishigami function of three uniform inputs on (-pi, pi)."""

    def output(x: Array) -> Array:
        tide = 1 + ISHIGAMI_B * x[2] ** 4
        return tide * jnp.sin(x[0]) + ISHIGAMI_A * jnp.sin(x[1]) ** 2

    def inputs(z: Array) -> Array:
        return jnp.pi * (2 * ndtr(z) - 1)

    return Model("Ishigami", inputs, output, {"x1": 1, "x2": 1, "x3": 1})


def ishigami_truth() -> np.ndarray:
    """Return the exact values of the expectations."""
    a, b = ISHIGAMI_A, ISHIGAMI_B
    first = [(1 + b * np.pi**4 / 5) ** 2 / 2, a**2 / 8, 0.0]
    pair = 8 * b**2 * np.pi**8 / 225
    total = [first[0] + pair, first[1], pair]
    mean = a / 2
    return np.array([*first, *total, mean, mean**2 + sum(first) + pair])


def g_function(coefficients: tuple[float, ...] = G_COEFFICIENTS) -> Model:
    """Return the g-function of Sobol' of uniform inputs on (0, 1)."""
    a = jnp.asarray(coefficients)

    def output(x: Array) -> Array:
        return jnp.prod((jnp.abs(4 * x - 2) + a) / (1 + a))

    return Model("g-function", ndtr, output, {f"x{i + 1}": 1 for i in range(len(a))})


def g_function_truth(coefficients: tuple[float, ...] = G_COEFFICIENTS) -> np.ndarray:
    """Return the exact values of the expectations."""
    first = 1 / (3 * (1 + np.array(coefficients)) ** 2)
    product = np.prod(1 + first)
    return np.array([*first, *(first * product / (1 + first)), 1.0, product])


def prior() -> sp.analytic.GaussianMixture:
    """Return the score prior of the third model: three unequal modes in two dimensions."""
    means = jnp.array([[-1.5, -0.5], [1.5, -0.8], [0.3, 1.6]])
    scales = jnp.array([[0.5, 0.3], [0.3, 0.6], [0.4, 0.4]])
    weights = jnp.array([0.5, 0.3, 0.2])
    return sp.analytic.GaussianMixture(
        means, scales=scales, weights=weights, noise=sp.noise.VPLinear()
    )


def score_model(with_indices: bool = True) -> Model:
    """Return a skewed output of a point x under the score prior and two normal inputs u, v.

    The coordinates of x depend on each other and form one group: the indices of a group that is
    independent of the others are defined as those of a single input. They are the same in terms
    of z and of x = T(z). What a single coordinate of z explains would say nothing of x.
    """
    flow = flow_map(prior(), num_steps=FLOW_STEPS)

    def inputs(z: Array) -> Array:
        return jnp.concatenate([flow(z[:2]), z[2:]])

    name = "score prior" if with_indices else "score prior, moments only"
    groups = {"x": 2, "u": 1, "v": 1}
    return Model(name, inputs, skewed, groups, THRESHOLD, FLOW_STEPS, with_indices)


def law_model() -> Model:
    """Return the third model as a function of the inputs themselves, for exact draws of x."""
    groups = {"x": 2, "u": 1, "v": 1}
    return Model("score prior", lambda inputs: inputs, skewed, groups, THRESHOLD)


def skewed(inputs: Array) -> Array:
    """Return half the squared length of x times exp(u / 2), plus x_1 v."""
    x, u, v = inputs[:2], inputs[2], inputs[3]
    return 0.5 * jnp.exp(0.5 * u) * jnp.sum(x**2) + x[0] * v
