"""Random designs: which of many draws a function is evaluated at, for a least-squares fit.

All start from orthonormal columns U = sqrt(v) b, shape ``(N, m)``: m functions that are orthonormal
under N draws of weights v. Row i has leverage |U_i|^2 = v_i k(x_i, x_i), and leverages sum to m.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Design(NamedTuple):
    """Chosen rows, with repetitions.

    Attributes
    ----------
    rows
        Numbers of the rows, shape ``(n,)``.
    block
        Shape ``(n,)``. The points of a block were drawn independently of all others, each with
        probability leverage / m on its own; -1 for points of which this is not so.
    """

    rows: np.ndarray
    block: np.ndarray


def independent(rng: np.random.Generator, columns: np.ndarray, num_points: int) -> Design:
    """Draw rows independently with probabilities leverage / m: the Christoffel law.

    (Cohen and Migliorati, arXiv:1608.00512.)
    """
    leverage = np.sum(columns**2, axis=1)
    rows = rng.choice(len(columns), num_points, p=leverage / leverage.sum())
    return Design(rows, np.arange(num_points))


def volume_rescaled(rng: np.random.Generator, columns: np.ndarray, num_points: int) -> Design:
    """Draw m rows by the projection process and the others independently.

    The law of all, in random order, is that of independent points times the determinant of their
    Gram matrix, which makes the weighted least-squares fit unbiased (Derezinski, Warmuth and Hsu,
    arXiv:1907.03411; generalised by Nouy and Michel, arXiv:2312.14057).
    """
    first = projection_process(rng, columns)
    others = independent(rng, columns, num_points - len(first))
    return Design(
        np.concatenate([first, others.rows]),
        np.concatenate([np.full(len(first), -1), others.block]),
    )


def repeated(rng: np.random.Generator, columns: np.ndarray, num_points: int) -> Design:
    """Draw the projection process several times, independently (Nouy and Michel, section 5)."""
    size = columns.shape[1]
    if num_points % size:
        raise ValueError(
            f"`num_evaluations={num_points}` must be a multiple of the {size} functions of `basis` "
            "with design='repeated'."
        )
    rounds = num_points // size
    rows = [projection_process(rng, columns) for _ in range(rounds)]
    return Design(np.concatenate(rows), np.repeat(np.arange(rounds), size))


DESIGNS: dict[str, Callable[[np.random.Generator, np.ndarray, int], Design]] = {
    "volume": volume_rescaled,
    "repeated": repeated,
    "independent": independent,
}


def projection_process(rng: np.random.Generator, columns: np.ndarray) -> np.ndarray:
    """Draw m different rows of U with probability det(U_S)^2, exactly.

    The projection determinantal process of kernel U U^T, by the chain rule (Hough, Krishnapur,
    Peres and Virag, arXiv:math/0503110, algorithm 18): each row is drawn in proportion to the
    squared distance of its vector from the span of those drawn before. O(N m^2) operations.

    Parameters
    ----------
    rng
        Source of random numbers.
    columns
        Orthonormal columns U, shape ``(N, m)``.

    Returns
    -------
    np.ndarray
        Numbers of the rows in the order drawn, shape ``(m,)``.
    """
    size = columns.shape[1]
    distance = np.sum(columns**2, axis=1)
    directions = np.zeros((size, size))
    rows = np.empty(size, int)
    for i in range(size):
        rows[i] = rng.choice(len(columns), p=distance / distance.sum())
        direction = columns[rows[i]]
        for _ in range(2):  # the second projection removes what rounding left of the first
            direction = direction - directions[:i].T @ (directions[:i] @ direction)
        directions[i] = direction / np.linalg.norm(direction)
        distance = np.maximum(distance - (columns @ directions[i]) ** 2, 0.0)
        distance[rows[: i + 1]] = 0.0
    return rows
