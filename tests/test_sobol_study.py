"""The Sobol' case study: its truths, its expectations, and a small run of everything."""

import numpy as np
import pytest

from case_studies.sobol.methods import METHODS, index_names, indices, pick_freeze, quasi_random
from case_studies.sobol.model import g_function, g_function_truth, ishigami, ishigami_truth
from case_studies.sobol.run import main, ratio

ANALYTIC = pytest.mark.parametrize(
    "model, truth",
    [(ishigami(), ishigami_truth()), (g_function(), g_function_truth())],
    ids=["Ishigami", "g-function"],
)


@ANALYTIC
def test_expectations_have_their_exact_values(model, truth):
    """30,000 plain draws: each within 4.5 standard errors, false-alarm rate 6e-5 a model."""
    exact = indices(model, truth)[0]
    found = pick_freeze(model, 0, 30_000)
    assert len(index_names(model)) == len(exact)
    assert np.all(np.abs(found.value - exact) < 4.5 * found.error)
    # First-order indices sum to one at most, total ones to one at least.
    half = model.num_parts // 2
    assert exact[:half].sum() < 1 < exact[half : model.num_parts].sum()


def test_sobol_points_come_near_the_truth():
    model = ishigami()
    found = quasi_random(model, 0, 4_096)
    np.testing.assert_allclose(
        found.value, indices(model, ishigami_truth())[0], atol=0.03, rtol=0.01
    )


def test_a_gain_is_a_ratio_of_squared_errors():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(400, 8)), 3 * rng.normal(size=(400, 8))
    value, low, high = ratio(first, second)
    assert low < 9 < high and abs(value / 9 - 1) < 0.15


@pytest.mark.slow
def test_a_small_run_writes_everything(tmp_path):
    main(tmp_path, num_points=2_048, num_seeds=2, truth_points=2**13, budgets=(1_024,))
    names = {"errors.md", "summary.md", "law.md", "budgets.md", "errors.png"}
    assert names == {file.name for file in tmp_path.iterdir()}
    summary = (tmp_path / "summary.md").read_text()
    assert all(summary.count(f"| {name} |") == 4 for name in METHODS)
    assert "nan" not in summary and "nan" not in (tmp_path / "errors.md").read_text()
