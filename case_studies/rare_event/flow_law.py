"""How far the law of a deterministic flow is from the model's own in its far tail.

Under N(0, I) the flow is linear, so that FORM is exact for it; under the skewed mixture and half8
importance sampling at the design point stands for the flow's law.
"""

import jax
import numpy as np
from jax import Array

from case_studies.rare_event.methods import by_design_point, by_rare_event
from case_studies.rare_event.problems import half_space, of_mixture, skewed
from scoreppl.estimators import Splitting

STEPS = (8, 20, 50, 100)


def flow_law(key: Array) -> list[str]:
    """Return a table of log ratios of the flow's probability and the model's."""
    rows = [
        "| event | method | "
        + " | ".join(f"{steps} steps" for steps in STEPS)
        + " |\n|---|---|"
        + "---|" * len(STEPS)
    ]
    for problem in (half_space(2), skewed(), of_mixture("half8")):
        cells = []
        for steps in STEPS:
            form, sampled = by_design_point(
                problem.model, problem.limit_state, steps, key, 10, num_draws=2_000
            )
            chosen = form if problem.is_normal else sampled
            value = np.exp(chosen.log_probability) / problem.truth
            error = value.std(ddof=1) / value.mean() / len(value) ** 0.5
            cells.append(
                f"{np.log(value.mean()):+.2f}" + (f" ± {error:.2f}" if error > 1e-3 else "")
            )
        name = "FORM" if problem.is_normal else "sampling at the design point"
        rows.append(f"| {problem.name} | {name} | {' | '.join(cells)} |")
    problem = half_space(2)
    moved = Splitting(num_particles=200, num_moves=5, flow_steps=STEPS[0])
    found = by_rare_event(problem.model, problem.limit_state, moved, jax.random.fold_in(key, 1), 5)
    value = np.exp(found.log_probability) / problem.truth
    error = value.std(ddof=1) / value.mean() / len(value) ** 0.5
    first = f"{np.log(value.mean()):+.2f} ± {error:.2f}"
    rows.append(
        f"| {problem.name} | subset simulation in the flow's noise | {first} |"
        + " |" * (len(STEPS) - 1)
    )
    return rows
