"""What the quickstart's calibration counts."""

import numpy as np
import pytest

from case_studies.quickstart.calibration import NUM_DRAWS, coverage


@pytest.mark.parametrize("shift, noticed", [(0.0, False), (1.0, True), (-1.0, True)])
def test_coverage_counts_ranks(shift, noticed):
    # A posterior that is off by one of its standard deviations covers 73 %, not 90 %. 4,000
    # truths: five standard errors are 0.024 (false alarm 6e-7).
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((4000, 1, 2))
    truth = centre[:, 0] + rng.standard_normal((4000, 2))
    draws = centre + shift + rng.standard_normal((4000, NUM_DRAWS, 2))
    places = (draws < truth[:, None]).sum(1)
    assert ((np.abs(coverage(places) - 0.9) > 0.024) == noticed).all()
