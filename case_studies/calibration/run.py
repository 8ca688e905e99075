"""Calibration of every kernel: mixtures with exact truth, digits, and published posteriors.

::

    python -m case_studies.calibration [--parts mixture digits references] [--full] [--resume]
                                       [--dear overlapping separated] [--out DIR]
                                       [--sbibm PLACE] [--posteriordb FOLDER]

Writes ``certificate.md``, ``references.md`` and the figures, each as soon as it is known.
"""

import time
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax

from case_studies.calibration import figures, judge, references
from case_studies.calibration.plans import DEAR, Plan, annealed_by_default, on_digits, on_mixture
from case_studies.calibration.problems import Problem, digits, little_seen, overlapping, separated
from case_studies.calibration.study import Ranked, rank_truths, store, stored

PARTS = ("mixture", "digits", "references")
MIXTURES = ("overlapping", "little seen", "separated")
SEED = 20


class Sizes(NamedTuple):
    """How much to do.

    Attributes
    ----------
    mixture, separated, digits8, digits
        Data sets of each problem.
    reference_draws
        Of each chain.
    observations
        Of sbibm's tasks.
    dear_on
        Mixtures that the dearest kernels run on, of `MIXTURES`.
    """

    mixture: int = 200
    separated: int = 100
    digits8: int = 40
    digits: int = 10
    reference_draws: int = 100
    observations: tuple[int, ...] = (1,)
    dear_on: tuple[str, ...] = ()


USUAL = Sizes()
FULL = Sizes(500, 500, 200, 80, 200, tuple(range(1, 11)), MIXTURES)


def main(
    out: Path, parts: tuple[str, ...] = PARTS, sizes: Sizes = USUAL, resume: bool = False,
    sbibm: Path | None = None, posteriordb: Path | None = None,
) -> None:  # fmt: skip
    """Rank truths among the draws of every kernel, and compare with published posteriors."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with warnings.catch_warnings():
        # ScoreHMC and ScoreNUTS warn of networks' curl, and these priors have densities.
        warnings.filterwarnings("ignore", message=".*curl.*")
        if "mixture" in parts:
            certify(out, "mixture", on_mixtures(sizes), resume)
        if "digits" in parts:
            certify(out, "digits", on_networks(sizes), resume)
        if "references" in parts:
            references.run(
                partial(_write, out / "references.md"), sizes.reference_draws,
                sbibm, posteriordb, sizes.observations,
            )  # fmt: skip
    say(f"{time.perf_counter() - start:.0f} seconds in all")


Work = list[tuple[Problem, tuple[Plan, ...], int]]


def on_mixtures(sizes: Sizes) -> Work:
    """Return what is done on the mixtures."""
    counts = (sizes.mixture, sizes.mixture, sizes.separated)
    work: Work = []
    for problem, count in zip((overlapping(), little_seen(), separated()), counts, strict=True):
        plans = on_mixture(problem)
        first_dear = next(i for i, plan in enumerate(plans) if plan.name == DEAR)
        is_dear = problem.name in sizes.dear_on
        work.append((problem, plans if is_dear else plans[:first_dear], count))
    return work


def on_networks(sizes: Sizes) -> Work:
    """Return what is done on the shipped networks; annealing's own law is judged by annealing."""
    drawn = digits("digits8", "reverse diffusion")
    invariant, large = digits("digits8", "annealing"), digits("digits", "annealing")
    return [
        (drawn, on_digits(drawn), sizes.digits8),
        (invariant, (annealed_by_default(invariant),), sizes.digits8),
        (large, (annealed_by_default(large),), sizes.digits),
    ]


def certify(out: Path, name: str, work: Work, resume: bool) -> None:
    """Rank truths for every kernel of every problem; table and figures grow row by row.

    Ranks are kept in files, and with `resume` those of as many data sets are not drawn again.
    """
    lines, found = [judge.HEAD], {}
    for problem, plans, count in work:
        place = problem.name.replace(", ", "_").replace(" ", "_")
        kept = stored(out / f"{place}.npz") if resume else {}
        key_sets, key_draws = jax.random.split(jax.random.key(SEED))
        sets = None
        ranked: dict[str, Ranked] = {}
        found[problem.name] = ranked
        say(f"{problem.name}: {count} data sets, {len(plans)} rows, {len(kept)} of them kept")
        for plan in plans:
            if plan.name in kept and len(kept[plan.name].rank) == count:
                ranked[plan.name] = kept[plan.name]
            else:
                if sets is None:
                    sets = problem.simulate(key_sets, count)
                title = f"{problem.name}, {plan.name}"
                ranked[plan.name] = rank_truths(plan, problem, sets, key_draws, title)
                store(out / f"{place}.npz", kept | ranked)
            lines.append(judge.row(problem, plan, ranked[plan.name]))
            say(lines[-1])
            text = "\n".join([*lines, "", judge.note({count for *_, count in work})])
            _write(out / f"{name}.md", text)
        figures.draw_ranks(ranked, problem).savefig(out / f"ranks_{place}.png", dpi=110)
    figures.draw_tarp(found).savefig(out / f"tarp_{name}.png", dpi=110)


def _write(file: Path, text: str) -> None:
    file.write_text(text + "\n")


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)
