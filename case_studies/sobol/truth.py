"""Truths of the model with a score prior: of its discretised flow, and of the prior's own law."""

import jax
import numpy as np

from case_studies.sobol.methods import evaluate, quasi_random
from case_studies.sobol.model import Model, law_model, prior


def flow_truth(model: Model, num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and moments by four scramblings of Sobol' points, and standard errors."""
    found = np.array([quasi_random(model, 1_000 + run, num_points // 4).value for run in range(4)])
    return found.mean(0), found.std(0, ddof=1) / 2


def law_truth(num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for exact draws of the prior: plain pick-freeze, in eight parts."""
    model, parts = law_model(), []
    for run in range(8):
        rng, count = np.random.default_rng(run), num_points // 8
        halves = []
        for key in jax.random.split(jax.random.key(run)):
            x = np.asarray(prior().sample_exact(key, (count,)))
            halves += [x, rng.standard_normal((count, 2))]
        parts.append(np.asarray(evaluate(model.expectations, np.concatenate(halves, 1))).mean(0))
    values = np.array(parts)
    groups = model.num_parts

    def ratios(mean: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [mean[:groups] / (mean[groups + 1] - mean[groups] ** 2), mean[groups:]]
        )

    # Jackknife over the parts.
    total = values.sum(0)
    left_out = np.array([ratios((total - part) / 7) for part in values])
    return ratios(total / 8), np.sqrt(7 / 8 * np.sum((left_out - left_out.mean(0)) ** 2, 0))
