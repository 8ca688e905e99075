"""A run on one screen: convergence, acceptance, cost, the network's curl, and what it all means."""

import textwrap
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from scoreppl.diagnostics.convergence import Convergence, convergence
from scoreppl.diagnostics.curl import LoopDefect
from scoreppl.diagnostics.exactness import exactness
from scoreppl.diagnostics.path_chord import PathAgainstChord
from scoreppl.diagnostics.run import Run, read_run
from scoreppl.diagnostics.run_defects import loop_defects, path_disagreement
from scoreppl.diagnostics.verdict import EXPLANATIONS

_WIDTH = 96
_LABEL = 13
_MAX_LEVELS = 20
_IDLE = 0.01  # Acceptance below which a level does not move.


class Report(NamedTuple):
    """Result of `report`; printed, it is the screen.

    Attributes
    ----------
    kernel, num_chains, num_draws
        What ran.
    seconds
        As given to `report`.
    convergence
        Worst R-hat and effective sample sizes.
    acceptance_rate
        Mean acceptance, or None where the kernel reports none.
    noise_levels, acceptance_rate_level
        Of annealed kernels: noise standard deviations in data units, and mean acceptance there.
    num_nan, num_divergent
        Draws with a value that was not a number (such proposals are rejected), and divergent
        ones; None where not reported.
    log_ratio_error
        Mean estimated quadrature error of a log-ratio in nats; None where not reported.
    score_evaluations, score_evaluations_per_draw
        After warm-up: of all chains together, and a draw. None where unknown.
    loop_defects
        By network site, at the last states; empty where no conservative score is needed.
    path_against_chord
        For trajectories on networks (HMC, NUTS), or None.
    exactness
        What the draws are exact for, in words.
    """

    kernel: str
    num_chains: int
    num_draws: int
    seconds: float | None
    convergence: Convergence
    acceptance_rate: float | None
    noise_levels: np.ndarray | None
    acceptance_rate_level: np.ndarray | None
    num_nan: int | None
    num_divergent: int | None
    log_ratio_error: float | None
    score_evaluations: int | None
    score_evaluations_per_draw: float | None
    loop_defects: dict[str, LoopDefect]
    path_against_chord: PathAgainstChord | None
    exactness: tuple[str, ...]

    def __repr__(self) -> str:
        """Return the screen, which is so what a notebook and ``print`` show."""
        chains = "chain" if self.num_chains == 1 else "chains"
        time = "" if self.seconds is None else f", {self.seconds:.3g} s"
        rows = [
            *_convergence_rows(self),
            *_acceptance_rows(self),
            ("failures", _failures(self)),
            *_cost_rows(self),
            *_curl_rows(self),
            *zip(("exactness", *[""] * len(self.exactness)), self.exactness, strict=False),
        ]
        head = f"{self.kernel}: {self.num_chains} {chains} x {self.num_draws} draws{time}"
        return "\n".join([head, *(_wrap(label, text) for label, text in rows)])


def report(mcmc: Any, *, seconds: float | None = None, key: Array | None = None) -> Report:
    """Summarise a finished run on one screen: print the result, or end a notebook's cell with it.

    Parameters
    ----------
    mcmc
        A ``numpyro.infer.MCMC`` object after its run. With one of this package's kernels the
        report also measures the curl of every network on which the acceptance relies, at the
        last states of the chains and for moves of the chains' own size, which takes some
        hundred score evaluations and a compilation.
    seconds
        Wall time of the run, to be shown.
    key
        PRNG key of these measurements; a fixed one by default.

    Returns
    -------
    Report
        The numbers; printed, the screen.

    Raises
    ------
    ValueError
        If `mcmc` is no MCMC object or has not been run.

    Notes
    -----
    The mean quadrature error is over the run if ``"log_ratio_error"`` was among its
    ``extra_fields``, and over the chains' last draws otherwise. NUTS knows its cost if
    ``"num_score_evaluations"`` was.
    """
    run = read_run(mcmc)
    key_loops, key_paths = jax.random.split(jax.random.key(0) if key is None else key)
    acceptance, levels = run.fields.get("accept_prob"), run.fields.get("acceptance_rate_level")
    error = run.field("log_ratio_error")
    return Report(
        kernel=run.kernel,
        num_chains=run.num_chains,
        num_draws=run.num_draws,
        seconds=seconds,
        convergence=convergence(run.samples),
        acceptance_rate=None if acceptance is None else float(np.nanmean(acceptance)),
        noise_levels=run.noise_levels,
        acceptance_rate_level=None if levels is None else np.nanmean(levels, axis=(0, 1)),
        num_nan=_count(run, "is_nan"),
        num_divergent=_count(run, "diverging"),
        log_ratio_error=None if error is None else float(np.nanmean(error)),
        score_evaluations=run.score_evaluations(),
        score_evaluations_per_draw=run.evaluations_per_draw(),
        loop_defects=loop_defects(run, key_loops),
        path_against_chord=path_disagreement(run, key_paths),
        exactness=exactness(run),
    )


def _count(run: Run, field: str) -> int | None:
    return int(np.sum(run.fields[field])) if field in run.fields else None


def _convergence_rows(found: Report) -> list[tuple[str, str]]:
    worst = found.convergence
    if worst.min_ess_bulk is None or worst.min_ess_tail is None:
        rows = [("ESS", "not available: fewer than 4 draws, or nothing that varies")]
    else:
        worst_two = (worst.min_ess_bulk, worst.min_ess_tail)
        bulk, tail = (f"{ess:.0f} ({name})" for name, ess in worst_two)
        looked_at = f"numbers examined: {worst.num_quantities}"
        rows = [("least ESS", f"bulk {bulk}, tail {tail}; {looked_at}")]
    if worst.summarised:
        sites = ", ".join(worst.summarised)
        rows.append(("", f"{sites}: represented by the mean entry and a random subset"))
    if worst.num_not_finite:
        rows.append(("", f"{worst.num_not_finite} draws hold values that are not finite"))
    if worst.max_r_hat is not None:
        name, r_hat = worst.max_r_hat
        return [("largest R-hat", f"{r_hat:.3f} ({name})"), *rows]
    if found.num_chains == 1:
        return [("R-hat", "needs at least 2 chains"), *rows]
    return rows


def _acceptance_rows(found: Report) -> list[tuple[str, str]]:
    rows = []
    if found.acceptance_rate is not None:
        rows.append(("acceptance", f"{found.acceptance_rate:.2f}"))
    if found.acceptance_rate_level is not None and found.noise_levels is not None:
        count = len(found.noise_levels)
        shown = np.unique(np.linspace(0, count - 1, min(count, _MAX_LEVELS)).round().astype(int))
        rates = " ".join(f"{rate:.2f}" for rate in found.acceptance_rate_level[shown])
        first, last = (f"{sd:.2g}" for sd in found.noise_levels[[0, -1]])
        rows.append(("", f"by level, noise sd {first} to {last} (score model's units): {rates}"))
        idle = int(np.sum(found.acceptance_rate_level < _IDLE))
        if idle:
            rows.append(
                (
                    "",
                    f"{idle} of {count} levels accept less than {_IDLE:.0%}, so that nothing is "
                    "sampled there: use a longer warm-up, or look for weights that are no number",
                )
            )
    return rows


def _failures(found: Report) -> str:
    counts = {
        "draws with a NaN among their proposals": found.num_nan,
        "divergences": found.num_divergent,
    }
    known = [f"{count} {name}" for name, count in counts.items() if count is not None]
    return "; ".join(known) or "not reported by this kernel"


def _cost_rows(found: Report) -> list[tuple[str, str]]:
    rows = []
    if found.log_ratio_error is not None:
        rows.append(("quadrature", f"{found.log_ratio_error:.2g} nats, mean estimated error"))
    if found.score_evaluations is not None:
        rows.append(
            (
                "cost",
                f"{found.score_evaluations:,} score evaluations after warm-up, "
                f"{found.score_evaluations_per_draw:,.4g} a draw",
            )
        )
    return rows


def _curl_rows(found: Report) -> list[tuple[str, str]]:
    rows = [("loop defect", f"{name}: {defect}") for name, defect in found.loop_defects.items()]
    verdicts = {defect.verdict for defect in found.loop_defects.values()}
    if found.path_against_chord is not None:
        rows.append(("path vs chord", str(found.path_against_chord)))
        verdicts.add(found.path_against_chord.verdict)
    worst = [name for name in EXPLANATIONS if name in verdicts][-1:]
    return rows + [("", f"{name}: {EXPLANATIONS[name]}") for name in worst]


def _wrap(label: str, text: str) -> str:
    indent = " " * (_LABEL + 4)
    return textwrap.fill(
        text, _WIDTH, initial_indent=f"  {label:<{_LABEL}}  ", subsequent_indent=indent
    )
