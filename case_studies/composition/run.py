"""Judge every sampler on every composition, with exact scores and with learned ones.

::

    python -m case_studies.composition [--full] [--out DIR]

Writes a table for each composition, a summary, what longer steps do, and figures.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import scoreppl as sp
from case_studies.composition.figures import Found, draw_acceptance, draw_samples
from case_studies.composition.metrics import Judged, judge
from case_studies.composition.network import load
from case_studies.composition.normalise import normalised
from case_studies.composition.problem import (
    MIXTURE,
    NEGATION,
    NOISE,
    PROBLEMS,
    PRODUCT,
    Problem,
    bar,
    ring,
)
from case_studies.composition.samplers import BY_DENSITY, METHODS, Drawn, Method, particles
from case_studies.composition.truth import Truth, truth_of

ANALYTIC, NOISE_NETWORKS, ENERGY_NETWORKS = "exact scores", "noise networks", "energy networks"
SOURCES = (ANALYTIC, NOISE_NETWORKS, ENERGY_NETWORKS)
HEAD = (
    "| scores | sampler | log-likelihood | covariance error | W2 | in the bulk | mode distance | "
    "acceptance, mean / last | evaluations | seconds |\n|---|---|---|---|---|---|---|---|---|---|"
)
STRETCHES = (0.5, 1.0, 1.5, 2.0)
DIGITS = (2, 3, 3, 3, 3)


def models_of(source: str, problem: Problem) -> tuple[sp.ScoreModel, sp.ScoreModel]:
    """Return models of the ring and the bar."""
    if source == ANALYTIC:
        return ring(), bar()
    if source == NOISE_NETWORKS:
        return load("ring", "epsilon"), load("bar", "epsilon")
    pair = load("ring", "energy"), load("bar", "energy")
    if problem is MIXTURE:
        return normalised(pair[0], jax.random.key(0)), normalised(pair[1], jax.random.key(1))
    return pair


def methods_of(source: str, problem: Problem) -> dict[str, Method]:
    """Return the methods that can run: without densities nothing moves under a mixture.

    Reverse diffusion and `ScoreSMC` take one model at a time.
    """
    if source != NOISE_NETWORKS:
        return METHODS | BY_DENSITY
    alone = ("reverse diffusion", "`ScoreSMC`")
    return {name: METHODS[name] for name in alone} if problem is MIXTURE else METHODS


def judge_runs(truth: Truth, draws: np.ndarray, seed: int) -> np.ndarray:
    """Judge runs that did not fail beside exact draws of their own, shape ``(runs, numbers)``."""
    rng = np.random.default_rng(seed)
    exact = [truth.draw(rng, len(run)) for run in draws]
    whole = [index for index, run in enumerate(draws) if np.all(np.isfinite(run))]
    return np.array([judge(truth, draws[index], exact[index]) for index in whole])


def with_failures(name: str, judged: np.ndarray, drawn: Drawn) -> str:
    """Return a sampler's name, with how many of its runs are judged if some failed."""
    total = len(drawn.draws)
    return name if len(judged) == total else f"{name}, {len(judged)} of {total} runs"


def cells(judged: np.ndarray) -> list[str]:
    """Return mean ± standard deviation of each number over the runs."""
    return [
        f"{mean:.{digits}f} ± {spread:.{digits}f}"
        for mean, spread, digits in zip(judged.mean(0), judged.std(0, ddof=1), DIGITS, strict=True)
    ]


def row(source: str, name: str, judged: np.ndarray, drawn: Drawn | None, seconds: float) -> str:
    """Return a line of a table."""
    rest = ["", "", ""]
    if drawn is not None:
        name = with_failures(name, judged, drawn)
        rates = drawn.acceptance_rate
        accepted = "" if rates is None else f"{rates.mean():.3f} / {rates[-1]:.3f}"
        rest = [accepted, f"{drawn.evaluations:,}", f"{seconds:.0f}"]
    return f"| {' | '.join([source, name, *cells(judged), *rest])} |"


def compare(
    problem: Problem, num_runs: int, num_draws: int, out: Path
) -> tuple[Found, dict[tuple[str, str], np.ndarray]]:
    """Run all samplers on one composition, and write its table and figure."""
    truth, rows = truth_of(problem), [HEAD]
    rng = np.random.default_rng(0)
    exact = np.stack([truth.draw(rng, num_draws) for _ in range(num_runs)])
    found: Found = {}
    judged = {("", "exact draws"): judge_runs(truth, exact, 1)}
    rows.append(row("", "exact draws", judged["", "exact draws"], None, 0.0))
    print(f"{problem.name}\n" + "\n".join(rows), flush=True)
    for source in SOURCES:
        model = problem.compose(*models_of(source, problem))
        for name, method in methods_of(source, problem).items():
            start = time.perf_counter()
            drawn = method(jax.random.split(jax.random.key(0), num_runs), model, num_draws)
            seconds = time.perf_counter() - start
            found[source, name] = drawn
            judged[source, name] = judge_runs(truth, drawn.draws, 1)
            rows.append(row(source, name, judged[source, name], drawn, seconds))
            print(rows[-1], flush=True)
    rows.append(f"\n{problem.law}, {num_runs} runs of {num_draws:,} draws a row.")
    (out / f"{problem.name}.md").write_text("\n".join(rows) + "\n")
    draw_samples(truth, found, exact[0], out / f"{problem.name}.png")
    return found, judged


def summary(judged: dict[tuple[str, str, str], np.ndarray]) -> str:
    """Return share in the bulk and mode distance of every method, by composition and scores."""
    lines = ["| | sampler | " + " | ".join(SOURCES) + " |", "|---|---|---|---|---|"]
    bulk, modes = Judged._fields.index("in_bulk"), Judged._fields.index("mode_distance")
    for problem in PROBLEMS:
        floor = judged[problem.name, "", "exact draws"].mean(0)
        text = f"{floor[bulk]:.2f}, {floor[modes]:.2f}"
        lines.append(f"| {problem.name} | exact draws | {text} | {text} | {text} |")
        for name in METHODS | BY_DENSITY:
            shown = []
            for source in SOURCES:
                numbers = judged.get((problem.name, source, name))
                mean = None if numbers is None else numbers.mean(0)
                shown.append("" if mean is None else f"{mean[bulk]:.2f}, {mean[modes]:.2f}")
            lines.append(f"| {problem.name} | {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def longer_steps(num_runs: int, num_draws: int) -> str:
    """Say what the acceptance is good for as steps grow, on the product with exact scores."""
    names = ("U-LA", "LA", "U-HMC", "HMC")
    lines = ["| steps | " + " | ".join(names) + " |", "|---|---|---|---|---|"]
    truth, model = truth_of(PRODUCT), sp.product(ring(), bar())
    for stretch in STRETCHES:
        shown = []
        for name in names:
            keys = jax.random.split(jax.random.key(1), num_runs)
            drawn = METHODS[name](keys, model, num_draws, stretch=stretch)
            share = np.mean(truth.log_prob(drawn.draws.reshape(-1, 2)) > truth.bulk_level)
            rates = drawn.acceptance_rate
            accepted = "" if rates is None else f", accepts {rates.mean():.2f} / {rates[-1]:.2f}"
            shown.append(f"{share:.2f}{accepted}")
        lines.append(f"| × {stretch:g} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def more_particles(num_runs: int, num_draws: int) -> str:
    """Judge ScoreSMC where a draw costs as much as one of U-HMC: by eight particles a draw."""
    lines = [HEAD.replace("| scores |", "| | scores |").replace("acceptance, mean / last | ", "")]
    lines[0] = lines[0].replace("|---|---|---|---|---|---|---|---|---|---|", "|---" * 10 + "|")
    for problem in (PRODUCT, NEGATION):
        truth = truth_of(problem)
        for source in SOURCES:
            model = problem.compose(*models_of(source, problem))
            start = time.perf_counter()
            keys = jax.random.split(jax.random.key(0), num_runs)
            drawn = particles(keys, model, num_draws, particles_per_draw=8)
            seconds = time.perf_counter() - start
            judged = judge_runs(truth, drawn.draws, 1)
            shown = cells(judged)
            name = with_failures(f"`ScoreSMC`, {8 * num_draws:,} particles", judged, drawn)
            ends = [f"{drawn.evaluations:,}", f"{seconds:.0f}"]
            lines.append(f"| {' | '.join([problem.name, source, name, *shown, *ends])} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def attributions(num_draws: int = 2_000) -> str:
    """Say which share of the noised bar's draws the mixture attributes to the ring, by level."""
    exact, learned = (sp.mixture(models_of(s, MIXTURE)) for s in (ANALYTIC, ENERGY_NETWORKS))

    @jax.jit
    def shares(x: jax.Array, t: jax.Array) -> jax.Array:
        each = [jax.vmap(m.probabilities, (0, None))(x, t)[:, 0] for m in (exact, learned)]
        return jnp.stack(each).mean(1)

    lines = ["| noise | exact densities | energy networks |", "|---|---|---|"]
    for sigma in (0.4, 0.2, 0.1, 0.07, 0.05, 0.03, 0.01):
        t = NOISE.time(2 * np.log(np.sqrt(1 - sigma**2) / sigma))
        x = bar().sample_exact(jax.random.key(0), (num_draws,), t)
        lines.append(f"| {sigma:g} | " + " | ".join(f"{v:.3f}" for v in shares(x, t)) + " |")
    return "\n".join(lines) + "\n"


def main(out: Path, full: bool) -> None:
    """Run everything; ten runs of 250 draws, with `full` of 2,000."""
    num_runs, num_draws = 10, 2_000 if full else 250
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    everything = {}
    for problem in PROBLEMS:
        found, judged = compare(problem, num_runs, num_draws, out)
        everything |= {(problem.name, *key): numbers for key, numbers in judged.items()}
        if problem is PRODUCT:
            draw_acceptance(found, out / "acceptance.png")
    (out / "summary.md").write_text(summary(everything))
    (out / "particles.md").write_text(more_particles(num_runs, num_draws))
    (out / "attributions.md").write_text(attributions())
    (out / "steps.md").write_text(longer_steps(num_runs, num_draws))
    print(f"wrote {out} after {(time.perf_counter() - start) / 60:.0f} minutes")
