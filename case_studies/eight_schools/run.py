"""Sample eight schools under the learned prior, and judge every sampler by exact quadrature.

::

    python -m case_studies.eight_schools [--out DIR]

Writes ``posterior.md``, ``schools.md``, ``evidence.md``, ``proposals.md``, ``prior.md`` and
``figure.png``.
"""

from functools import partial
from pathlib import Path

import jax
import numpy as np

import scoreppl as sp
from case_studies.eight_schools.figures import draw_figure
from case_studies.eight_schools.judge import (
    Estimates,
    distance,
    estimates,
    judge,
    standard_error,
)
from case_studies.eight_schools.methods import NUM_RUNS, ON_NETWORK, Drawn, nuts, proposed
from case_studies.eight_schools.model import draw_effects, to_effects
from case_studies.eight_schools.network import as_network, initial, load
from case_studies.eight_schools.truth import Truth, posterior

BRUTE = "prior draws, weighed"
PRIOR_DRAWS = 200_000
PRIOR_LEVELS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def posterior_table(found: dict[str, Drawn], summaries: dict[str, Estimates], truth: Truth) -> str:
    """Return the errors of all samplers."""
    rows = [
        "| sampler | error of the means | largest, in Monte Carlo errors | sd over the true sd | "
        "error of the 5 % and 95 % quantiles | means from the network's posterior | "
        "largest, in Monte Carlo errors | score evaluations a run | density evaluations a run | "
        "seconds |",
        "|---" * 10 + "|",
    ]
    for name, drawn in found.items():
        judged = judge(summaries[name], truth)
        apart = ["", ""]
        if drawn.score_evaluations and drawn.density_evaluations == 0 and name != BRUTE:
            value, worst = distance(summaries[name], summaries[BRUTE])
            apart = [f"{value:.3f}", f"{worst:.1f}"]
        rows.append(
            f"| {name} | {judged.mean_error:.3f} ± {judged.mean_noise:.3f} | {judged.worst:.1f} | "
            f"{judged.sd_ratio:.3f} ± {judged.sd_noise:.3f} | "
            f"{judged.quantile_error:.3f} ± {judged.quantile_noise:.3f} | {apart[0]} | {apart[1]} "
            f"| {_count(drawn.score_evaluations)} | {_count(drawn.density_evaluations)} | "
            f"{drawn.seconds:.0f} |"
        )
    rows += ["", f"Points of the test; {NUM_RUNS} runs a sampler, errors from their spread."]
    return "\n".join(rows)


def schools_table(summaries: dict[str, Estimates], truth: Truth) -> str:
    """Return mean and standard deviation of each school's effect."""
    rows = ["| school | truth | " + " | ".join(summaries) + " |", "|---" * (len(summaries) + 2) + "|"]
    for j in range(len(truth.mean)):
        cells = [
            f"{s.mean[:, j].mean():.2f} ± {standard_error(s.mean)[j]:.2f} ({s.sd[:, j].mean():.2f})"
            for s in summaries.values()
        ]
        rows.append(
            f"| {'ABCDEFGH'[j]} | {truth.mean[j]:.2f} ({truth.sd[j]:.2f}) | "
            + " | ".join(cells)
            + " |"
        )
    rows += ["", "Mean ± Monte Carlo error (standard deviation of the effect)."]
    return "\n".join(rows)


def evidence_table(found: dict[str, Drawn], truth: Truth) -> str:
    """Return the log evidence by each sampler that gives one."""
    rows = [
        "| | log evidence | error | in Monte Carlo errors | from the network's | "
        "in Monte Carlo errors | standard deviation of a run |",
        "|---" * 7 + "|",
        f"| quadrature over the hierarchy | {truth.log_evidence:.3f} | | | | | |",
    ]
    own = found[BRUTE].log_evidence
    for name, drawn in found.items():
        values = drawn.log_evidence
        if values is None:
            continue
        error, noise = values.mean() - truth.log_evidence, standard_error(values)
        apart = ["", ""]
        if name != BRUTE:
            difference = values.mean() - own.mean()
            apart = [
                f"{difference:+.3f}",
                f"{abs(difference) / np.hypot(noise, standard_error(own)):.1f}",
            ]
        rows.append(
            f"| {name} | {values.mean():.3f} ± {noise:.3f} | {error:+.3f} | "
            f"{abs(error) / noise:.1f} | {apart[0]} | {apart[1]} | {values.std(ddof=1):.3f} |"
        )
    return "\n".join(rows)


def proposals_table(found: dict[str, Drawn], truth: Truth) -> str:
    """Return what networks of different quality cost as proposals, and that none of them errs."""
    rows = [
        "| network, local moves | acceptance of the network's moves | error of the means | "
        "largest, in Monte Carlo errors | sd over the true sd | seconds |",
        "|---" * 6 + "|",
    ]
    for name, drawn in found.items():
        judged = judge(estimates(drawn), truth)
        rows.append(
            f"| {name} | {drawn.accept_prob:.3f} | {judged.mean_error:.3f} ± "
            f"{judged.mean_noise:.3f} | {judged.worst:.1f} | {judged.sd_ratio:.3f} ± "
            f"{judged.sd_noise:.3f} | {drawn.seconds:.0f} |"
        )
    return "\n".join(rows)


def prior_table(draws: dict[str, np.ndarray]) -> str:
    """Return quantiles of the first effect's size and of the spread over schools."""
    rows = [
        "| | draws | " + " | ".join(f"{100 * level:g} %" for level in PRIOR_LEVELS) + " |",
        "|---" * (2 + len(PRIOR_LEVELS)) + "|",
    ]
    quantities = {
        "size of one effect": lambda effects: np.abs(effects[:, 0]),
        "spread over schools": lambda effects: effects.std(1),
    }
    for quantity, values in quantities.items():
        for name, effects in draws.items():
            found = np.quantile(values(effects), PRIOR_LEVELS)
            cells = [f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in found]
            rows.append(f"| {quantity} | {name} | " + " | ".join(cells) + " |")
    rows += ["", f"Quantiles of {PRIOR_DRAWS:,} draws, in points."]
    return "\n".join(rows)


def _count(evaluations: float) -> str:
    return f"{evaluations:,.0f}" if evaluations else ""


def _prior_draws(key: jax.Array, network: sp.ScoreNetwork) -> dict[str, np.ndarray]:
    key_exact, key_network = jax.random.split(key)
    sample = jax.jit(lambda model, key: model.sample(key, (PRIOR_DRAWS // 10,), num_steps=100))
    parts = [sample(network, key) for key in jax.random.split(key_network, 10)]
    drawn = {"exact": draw_effects(key_exact, PRIOR_DRAWS), "network": np.concatenate(parts)}
    return {name: np.asarray(to_effects(z), np.float64) for name, z in drawn.items()}


def main(out: Path) -> None:
    """Run every sampler and write tables and figure."""
    out.mkdir(parents=True, exist_ok=True)
    network, truth, keys = load(), posterior(), iter(jax.random.split(jax.random.key(0), 20))

    def write(name: str, text: str) -> None:
        print(text, "\n", flush=True)
        (out / f"{name}.md").write_text(text + "\n")

    draws = _prior_draws(next(keys), network)
    write("prior", prior_table(draws))

    untrained = as_network(initial(jax.random.key(0)))
    proposals = {
        "trained, NUTS": partial(proposed, network=network),
        "trained, none": partial(proposed, network=network, local=None),
        "untrained, NUTS": partial(proposed, network=untrained),
        "untrained, none": partial(proposed, network=untrained, local=None),
    }
    exact = {}
    for name, method in proposals.items():
        exact[name] = method(next(keys))
        print(name, f"{exact[name].seconds:.0f} s", flush=True)
    write("proposals", proposals_table(exact, truth))

    found = {"NUTS on the hierarchy": nuts(next(keys), network)}
    found["`DiffusionMH` with the density"] = exact["trained, NUTS"]
    for name, method in ON_NETWORK.items():
        found[name] = method(next(keys), network)
        print(name, f"{found[name].seconds:.0f} s", flush=True)
    summaries = {name: estimates(drawn) for name, drawn in found.items()}
    write("posterior", posterior_table(found, summaries, truth))
    write("evidence", evidence_table(found, truth))
    shown = ("NUTS on the hierarchy", "`DiffusionMH` with the density", BRUTE, "`ScoreSMC`")
    write("schools", schools_table({name: summaries[name] for name in shown}, truth))
    draw_figure(draws, summaries, truth).savefig(out / "figure.png", dpi=120)
