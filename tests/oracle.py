r"""The one-step oracle: does a kernel leave its target invariant?

Take exact, independent draws x of the target, apply the kernel once to each, x -> x', and compare
the expectations of a family of functions before and after. If the kernel leaves the target
invariant then every E[f(x') - f(x)] is zero, so that

.. math:: z_f = \sqrt{n}\, \mathrm{mean}(f(x') - f(x)) / \mathrm{sd}(f(x') - f(x))

is standard normal. The pairing makes the test sharp: a move that changes little has a small
standard error. No burn-in, no autocorrelation, no tolerance to choose; the only number is the
false-alarm rate.

What it cannot see: a kernel that does not mix (the identity passes), and a bias that is small
beside the step's own noise. Run it at working step sizes, and see that the mutants fail.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import Array
from scipy.stats import norm

PyTree = Any

# Tests compile much and compute little: without LLVM's optimisations compiling takes half as long.
QUICK = {"xla_backend_optimization_level": 0}


class Kernel(Protocol):
    """What the oracle asks of a kernel; ``blackjax.SamplingAlgorithm`` has this form."""

    @property
    def init(self) -> Callable[..., PyTree]:
        """``init(position, key) -> state``, a draw of the state given the position."""
        ...

    @property
    def step(self) -> Callable[..., tuple[PyTree, Any]]:
        """``step(key, state) -> (state, info)``."""
        ...


class OracleResult(NamedTuple):
    """Outcome of one run of the oracle.

    Attributes
    ----------
    z_scores
        One a test function, shape ``(m,)``.
    threshold
        Bound on ``max_abs_z`` that a correct kernel passes with the false-alarm rate.
    acceptance_rate
        Mean acceptance rate of the step, NaN if the kernel's info has none.
    """

    z_scores: np.ndarray
    threshold: float
    acceptance_rate: float

    @property
    def max_abs_z(self) -> float:
        """The statistic of the test."""
        return float(np.max(np.abs(self.z_scores)))

    @property
    def alarm(self) -> bool:
        """Whether the kernel is rejected."""
        return not self.max_abs_z <= self.threshold


def family_threshold(num_functions: int, false_alarm_rate: float = 0.01) -> float:
    """Bound that max|z| of `num_functions` standard normals passes with `false_alarm_rate`.

    Two-sided Šidák bound. It is exact for independent z-scores and on the safe side for jointly
    normal ones with any correlation (Šidák, 1967).
    """
    each = -np.expm1(np.log1p(-false_alarm_rate) / num_functions)
    return float(norm.isf(each / 2))


def paired_z_scores(differences: np.ndarray) -> np.ndarray:
    """Mean over standard error of each column of `differences`, shape ``(n, m)``.

    A column without any change has the score 0; a column with a NaN has an infinite one.
    """
    values = np.asarray(differences, np.float64)
    mean = values.mean(0)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    scores = np.where(mean == 0.0, 0.0, mean / np.where(error == 0.0, 1e-300, error))
    return np.where(np.isfinite(mean), scores, np.inf)


def one_step_oracle(
    kernel: Kernel,
    functions: Callable[[PyTree], Array],
    *,
    num_steps: int = 1,
    block_size: int = 10_000,
    false_alarm_rate: float = 0.01,
) -> Callable[[Array, PyTree], OracleResult]:
    """Compile the oracle for one kernel; the result is called once a seed.

    Parameters
    ----------
    kernel
        Key-first ``init`` and ``step``. Where the state holds more than the position (a
        momentum), ``init(position, key)`` must draw the rest from its exact conditional law.
    functions
        State to the values of the test functions, shape ``(m,)``.
    num_steps
        Steps between the two sides of the comparison. More steps see smaller biases.
    block_size
        Draws that move at once; bounds the memory, and a NUTS block is as slow as its longest
        tree.
    false_alarm_rate
        Probability that a correct kernel raises an alarm, all functions together.

    Returns
    -------
    Callable
        ``check(key, positions) -> OracleResult`` with `positions` exact, independent draws: a
        pytree whose leaves have a leading axis.
    """

    def move(key_and_position: tuple[Array, PyTree]) -> tuple[Array, Array]:
        key, position = key_and_position
        key_init, *keys = jax.random.split(key, 1 + num_steps)
        state = kernel.init(position, key_init)
        before, rates = functions(state), []
        for key_step in keys:
            state, info = kernel.step(key_step, state)
            rates.append(getattr(info, "acceptance_rate", np.nan))
        return functions(state) - before, sum(rates) / num_steps

    @partial(jax.jit, compiler_options=QUICK)
    def move_all(key: Array, positions: PyTree) -> tuple[Array, Array]:
        keys = jax.random.split(key, len(jax.tree.leaves(positions)[0]))
        return jax.lax.map(move, (keys, positions), batch_size=block_size)

    def check(key: Array, positions: PyTree) -> OracleResult:
        differences, acceptance_rate = map(np.asarray, move_all(key, positions))
        threshold = family_threshold(differences.shape[1], false_alarm_rate)
        return OracleResult(
            paired_z_scores(differences), threshold, float(acceptance_rate.mean(dtype=np.float64))
        )

    return check
