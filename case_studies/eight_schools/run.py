"""Sample eight schools under the learned prior, and judge every sampler by exact quadrature.

::

    python -m case_studies.eight_schools [--out DIR]

Writes ``posterior.md``, ``cost.md``, ``evidence.md``, ``schools.md``, ``prior.md`` and
``figure.png``. Twenty runs a sampler, independent of each other; their spread gives the errors.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from case_studies.eight_schools.figures import draw_figure
from case_studies.eight_schools.judge import (
    Estimates,
    distance,
    estimates,
    judge,
    log_evidence,
    standard_error,
)
from case_studies.eight_schools.methods import (
    NUM_RUNS,
    ON_NETWORK,
    OWN,
    Drawn,
    nuts,
    proposed,
)
from case_studies.eight_schools.model import draw_effects, to_effects
from case_studies.eight_schools.network import as_network, initial, load
from case_studies.eight_schools.truth import Truth, posterior

HIERARCHY = "NUTS on the hierarchy"
EXACT = "`DiffusionMH` with the density"
UNTRAINED = "the same, its network untrained"
PRIOR_LEVELS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def posterior_table(found: dict[str, Drawn], summaries: dict[str, Estimates], truth: Truth) -> str:
    """Return the errors of all samplers."""
    rows = [
        "| sampler | error of the means | largest, in Monte Carlo errors | sd over the true sd | "
        "error of the 5 % and 95 % quantiles | means from the network's posterior | "
        "largest, in Monte Carlo errors |",
        "|---" * 7 + "|",
    ]
    for name in found:
        judged = judge(summaries[name], truth)
        apart = ["", ""]
        if name in ON_NETWORK and name != OWN:
            value, worst = distance(summaries[name], summaries[OWN])
            apart = [f"{value:.3f}", f"{worst:.1f}"]
        rows.append(
            f"| {name} | {judged.mean_error:.3f} ± {judged.mean_noise:.3f} | {judged.worst:.1f} | "
            f"{judged.sd_ratio:.3f} ± {judged.sd_noise:.3f} | "
            f"{judged.quantile_error:.3f} ± {judged.quantile_noise:.3f} | {apart[0]} | {apart[1]} |"
        )
    return "\n".join(rows)


def cost_table(found: dict[str, Drawn]) -> str:
    """Return what a draw took."""
    rows = [
        "| sampler | draws a run, after warm-up | score evaluations a draw | "
        "of all runs, thousands | density evaluations a draw | acceptance | "
        "processor seconds of all runs |",
        "|---" * 7 + "|",
    ]
    for name, drawn in found.items():
        draws = f"{drawn.effects.shape[1]:,}"
        draws += f" after {drawn.num_warmup}" if drawn.num_warmup else ""
        # As if a draw of the warm-up cost what later ones do.
        whole = drawn.score_evaluations * NUM_RUNS * (drawn.num_warmup + drawn.effects.shape[1])
        accepted = "" if drawn.accept_prob is None else f"{drawn.accept_prob:.2f}"
        rows.append(
            f"| {name} | {draws} | {_count(drawn.score_evaluations)} | {_count(whole / 1000)} | "
            f"{_count(drawn.density_evaluations)} | {accepted} | {drawn.seconds:.0f} |"
        )
    return "\n".join(rows)


def schools_table(summaries: dict[str, Estimates], truth: Truth) -> str:
    """Return mean and standard deviation of each school's effect."""
    rows = [
        "| school | truth | " + " | ".join(summaries) + " |",
        "|---" * (len(summaries) + 2) + "|",
    ]
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
    own = log_evidence(found[OWN].log_evidence)
    for name, drawn in found.items():
        if drawn.log_evidence is None:
            continue
        values, spread = log_evidence(drawn.log_evidence), drawn.log_evidence.std(ddof=1)
        error, noise = values.mean() - truth.log_evidence, standard_error(values)
        apart = ["", ""]
        if name != OWN:
            difference = values.mean() - own.mean()
            apart = [
                f"{difference:+.3f}",
                f"{abs(difference) / np.hypot(noise, standard_error(own)):.1f}",
            ]
        rows.append(
            f"| {name} | {values.mean():.3f} ± {noise:.3f} | {error:+.3f} | "
            f"{abs(error) / noise:.1f} | {apart[0]} | {apart[1]} | {spread:.3f} |"
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
    rows += ["", f"Quantiles of {len(effects):,} draws each, in points."]
    return "\n".join(rows)


def _count(evaluations: float) -> str:
    return f"{evaluations:,.0f}" if evaluations else ""


def main(out: Path) -> None:
    """Sample eight schools by every kernel and write tables and figure."""
    out.mkdir(parents=True, exist_ok=True)
    network, truth = load(), posterior()
    untrained = as_network(initial(jax.random.key(0)))
    plans: dict[str, Callable[[jax.Array], Drawn]] = {
        **{name: partial(method, prior=network) for name, method in ON_NETWORK.items()},
        HIERARCHY: nuts,
        EXACT: partial(proposed, network=network),
        UNTRAINED: partial(proposed, network=untrained),
    }
    found = {}
    for name, key in zip(plans, jax.random.split(jax.random.key(0), len(plans)), strict=True):
        found[name] = plans[name](key)
        print(f"{name}: {found[name].seconds:.0f} s", flush=True)
    summaries = {name: estimates(drawn) for name, drawn in found.items()}
    # Draws of the network before they are weighed are draws of its prior.
    drawn = found[OWN].effects.reshape(-1, len(truth.mean))
    effects = to_effects(draw_effects(jax.random.key(1), len(drawn)))
    draws = {"exact": np.asarray(effects, np.float64), "network": drawn}
    shown = {name: summaries[name] for name in (HIERARCHY, EXACT, OWN, "`ScoreSMC`")}
    tables = {
        "prior": prior_table(draws),
        "posterior": posterior_table(found, summaries, truth),
        "cost": cost_table(found),
        "evidence": evidence_table(found, truth),
        "schools": schools_table(shown, truth),
    }
    for name, text in tables.items():
        print(f"\n{text}", flush=True)
        (out / f"{name}.md").write_text(text + "\n")
    draw_figure(draws, summaries, truth).savefig(out / "figure.png", dpi=120)
