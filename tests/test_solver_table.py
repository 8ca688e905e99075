"""Twenty evaluations of a good solver are at least as near to the law as 100 ancestral ones."""

import numpy as np
import pytest

from docs.scripts.solver_table import NAMED, Row, benches, distance, measure, sliced_distance
from scoreppl.solvers import Heun, ancestral, unipc

BEST = Row("unipc(2)", unipc(2))
ROWS = (NAMED[0], Row("Heun()", Heun(), 10), BEST)


def test_distances_by_hand():
    x = np.zeros((4, 3))
    # A shift by a vector of length 3 has, along a random direction in three dimensions, squared
    # length 9 / 3 on average; 256 directions leave it an error of 5 %.
    shift = np.array([1.0, 2.0, 2.0])
    assert abs(sliced_distance(x, x + shift) / np.sqrt(3.0) - 1) < 0.15
    assert sliced_distance(x + shift, x + shift) == 0.0
    y = np.arange(12.0).reshape(4, 3)
    assert sliced_distance(y, y[::-1]) == 0.0 and distance(y, y) == 0.0
    np.testing.assert_allclose(distance(x, x + shift), np.sqrt(3.0))


@pytest.mark.slow
@pytest.mark.parametrize("name, num_runs, num_draws", [("mixture", 8, 2_000), ("digits", 2, 64)])
def test_twenty_evaluations_are_as_near_as_a_hundred_ancestral_ones(name, num_runs, num_draws):
    assert (NAMED[0].solver, NAMED[0].num_steps) == (ancestral, 100)
    bench = benches()[name]._replace(num_runs=num_runs, num_draws=num_draws)
    (floor, _, hundred, coarse, best), _ = measure(bench, ROWS)
    gap = best - hundred
    # Three standard errors of the difference: false-alarm rate 1e-3 if both are as near.
    error = np.std(gap, ddof=1) / np.sqrt(num_runs)
    assert np.mean(gap) <= 3 * error
    assert np.mean(best) < 1.5 * np.mean(floor)
    if name == "mixture":
        # Nine of Heun's steps are not, so the comparison can fail.
        gap = coarse - hundred
        assert np.mean(gap) > 3 * np.std(gap, ddof=1) / np.sqrt(num_runs)
