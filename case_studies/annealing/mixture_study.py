"""Powers of two mixtures with exact and with learned scores."""

from collections.abc import Callable

import jax
import numpy as np

import scoreppl as sp
from case_studies.annealing.methods import Method, Outcome, anneal, cell
from case_studies.annealing.mixtures import Mixture, power, wasserstein
from scoreppl.score import ScoreModel

NUM_DRAWS = 2_000
HEAD = (
    "| law | score | method | steps | evaluations a particle | W1 | mode distance | log Z error |\n"
    "|---|---|---|---|---|---|---|---|"
)


def methods(mixture: Mixture) -> tuple[Method, ...]:
    """Return those compared: an evaluation and a Jacobian-vector product of it count as two."""
    laplacian, variance = sp.correctors.LaplacianOnly(), sp.correctors.VarianceControl()
    exact = (
        (Method("`LaplacianOnly`, exact Laplacian", laplacian, 100, None),)
        if len(mixture.means[0]) == 2
        else ()
    )
    return (
        Method("none: reverse diffusion, summed score", None, 100),
        Method("`FeynmanKac`", sp.correctors.FeynmanKac(), 100),
        *exact,
        Method("`LaplacianOnly`, one probe", laplacian, 50 if exact else 100, 1),
        Method("`VarianceControl`, one probe", variance, 50 if exact else 100, 1),
    )


def exact_model(mixture: Mixture) -> ScoreModel:
    """Return the mixture itself as a score model."""
    return sp.analytic.GaussianMixture(
        mixture.means, mixture.covariances, mixture.weights, mixture.noise
    )


def judge(mixture: Mixture, found: Outcome, rng: np.random.Generator) -> np.ndarray:
    """Return W1, mode distance and the error of log Z, one row a run."""
    law = power(mixture.name)
    masses = mixture.mode_masses(law.draw(rng, 400_000), np.full(400_000, 1 / 400_000))
    rows = []
    for x, share, log_evidence in zip(found.x, found.share, found.log_evidence, strict=True):
        chosen = rng.choice(len(share), NUM_DRAWS, p=share)
        rows.append(
            (
                wasserstein(mixture, x[chosen], law.draw(rng, NUM_DRAWS)),
                0.5 * np.abs(mixture.mode_masses(x, share) - masses).sum(),
                log_evidence - law.log_integral,
            )
        )
    return np.array(rows)


def floor(
    mixture: Mixture, num_particles: int, num_runs: int, rng: np.random.Generator
) -> np.ndarray:
    """Return what exact draws of the power are judged by."""
    x = np.stack([power(mixture.name).draw(rng, num_particles) for _ in range(num_runs)])
    share, nothing = np.full(x.shape[:2], 1 / num_particles), np.full(num_runs, np.nan)
    return judge(mixture, Outcome(x, share, nothing, 0, 0, 0.0), rng)


def table(
    mixture: Mixture,
    network: ScoreModel,
    num_particles: int,
    num_runs: int,
    keep: Callable[[str, Outcome], None],
) -> list[str]:
    """Return the rows of one mixture; outcomes with the learned score are told to `keep`."""
    rng = np.random.default_rng(0)
    label = f"{mixture.name} modes" if len(mixture.weights) > 8 else "30 dimensions"
    rows: list[str] = []

    def add(score: str, name: str, steps: str, cost: str, found: np.ndarray) -> None:
        rows.append(
            f"| {label} | {score} | {name} | {steps} | {cost} | {cell(found[:, 0], 2)} "
            f"| {cell(found[:, 1], 3)} | {cell(found[:, 2], 3)} |"
        )
        print(rows[-1], flush=True)

    add("", "exact draws", "", "", floor(mixture, num_particles, num_runs, rng))
    for score, model in (("exact", exact_model(mixture)), ("learned", network)):
        # The default alone: docs/smc.md has the others with an exact score.
        compared = methods(mixture) if score == "learned" else methods(mixture)[-2:-1]
        for index, method in enumerate(compared):
            found = anneal(
                jax.random.key(index), model, mixture.beta, method, num_particles, num_runs
            )
            if score == "learned":
                keep(method.label, found)
            cost = str(found.evaluations // num_particles)
            add(score, method.label, str(method.num_steps), cost, judge(mixture, found, rng))
    return rows
