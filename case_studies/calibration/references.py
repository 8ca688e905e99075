"""Every suitable kernel on posteriors that others publish draws of."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import scoreppl as sp
from case_studies.calibration.compare import Compared, compare
from case_studies.calibration.kernels import by_block, by_chain, by_particles
from case_studies.calibration.plans import Plan
from case_studies.calibration.tasks import SBIBM, Task, sbibm_task, schools_task

NUM_CHAINS = 20


def plans(task: Task) -> tuple[Plan, ...]:
    """Return the kernels of the comparison, a local one among them."""
    model = task.model

    def annealed(size: int) -> sp.AnnealedScoreMCMC:
        return sp.AnnealedScoreMCMC(model, block_size=size)

    return (
        Plan("`ScoreNUTS`", by_chain(lambda: sp.ScoreNUTS(model), 500, 5), 20),
        Plan("`AnnealedScoreMCMC`, hmc", by_block(annealed), 20),
        Plan("`GuidedDiffusion`",
             by_chain(lambda: sp.GuidedDiffusion(model, block_size=100), 100, 20), 1),
        Plan("`ScoreSMC`", by_particles(model, 1000, 100), 1),
    )  # fmt: skip


HEAD = (
    "| posterior | draws of | by | largest error of a mean, in sd | farthest sd, over the true one "
    "| error of quantile shares | largest z | bound | energy distance | of halves | p "
    "| evaluations a draw | seconds | verdict |\n" + "|---" * 14 + "|"
)


def run(
    write: Callable[[str], None],
    num_draws: int,
    sbibm: Path | None,
    posteriordb: Path | None,
    numbers: tuple[int, ...],
) -> None:
    """Compare all kernels on all tasks; `write` gets the table as it grows.

    Parameters
    ----------
    write
        For the table.
    num_draws
        Of each of `NUM_CHAINS` chains.
    sbibm, posteriordb
        Where their draws are; None for those of this study.
    numbers
        Observations of sbibm; without it there is one.
    """
    tasks = [
        sbibm_task(name, sbibm, number)
        for name in SBIBM
        for number in (numbers if sbibm is not None else (1,))
    ]
    tasks.append(schools_task(posteriordb))
    lines = [HEAD]
    with tqdm(total=sum(len(plans(task)) for task in tasks), desc="references") as bar:
        for task in tasks:
            for name, draws in controls(task, num_draws).items():
                found = compare(draws, task.reference)
                lines.append(row(task, name, found, 0.0, 0.0, name.startswith("exact")))
            for plan in plans(task):
                draws, evaluations, seconds = sample(plan, task, num_draws)
                found = compare(draws, task.reference)
                lines.append(row(task, plan.name, found, evaluations, seconds))
                bar.update()
                bar.write(lines[-1])
                write("\n".join([*lines, "", note(num_draws)]))


def controls(task: Task, num_draws: int) -> dict[str, np.ndarray]:
    """Return exact draws where there are any, and draws a fifth too near to their mean."""
    shape = (NUM_CHAINS, num_draws, task.reference.shape[-1])
    whole = task.reference if task.exact is None else task.exact
    drawn = whole[: NUM_CHAINS * num_draws].reshape(shape)
    mean = drawn.mean((0, 1))
    found = {} if task.exact is None else {"exact": drawn}
    return found | {"narrowed by a fifth": mean + 0.8 * (drawn - mean)}


def sample(plan: Plan, task: Task, num_draws: int) -> tuple[np.ndarray, float, float]:
    """Run the chains; return draws, evaluations a draw and seconds of all without compilation."""

    @jax.jit
    def run(prior: sp.ScoreModel, keys: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            drawn = plan.draw(prior, key, y, num_draws)
            return jax.vmap(task.quantities)(drawn.values), drawn.evaluations

        return jax.lax.map(one, keys, batch_size=plan.batch if plan.batch > 1 else None)

    keys = jax.random.split(jax.random.key(11), NUM_CHAINS)
    arguments = (task.prior, keys, jax.numpy.asarray(task.y, float))
    compiled = run.lower(*arguments).compile()
    start = time.perf_counter()
    draws, evaluations = map(np.asarray, compiled(*arguments))
    seconds = time.perf_counter() - start
    return draws.astype(np.float64), float(evaluations.mean()) / num_draws, seconds


def row(
    task: Task, name: str, found: Compared, evaluations: float, seconds: float,
    expected: bool | None = None,
) -> str:  # fmt: skip
    """Return a line; `expected` is the verdict that a control must get."""
    verdict = "holds" if found.holds else "**fails**"
    if expected is not None:
        name = f"control: {name}"
        verdict += ", as it must" if found.holds == expected else ", **and must not**"
    cells = [
        task.name, task.source, name, f"{found.mean_error:.3f}", f"{found.sd_ratio:.3f}",
        f"{found.quantile_error:.3f}", f"{found.worst:.1f}", f"{found.bound:.1f}",
        f"{found.distance:.4f}", f"{found.split_distance:.4f}", f"{found.distance_p:.3f}",
        f"{evaluations:,.0f}" if evaluations else "", f"{seconds:.0f}" if seconds else "", verdict,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def note(num_draws: int) -> str:
    """Say how much was drawn."""
    return (
        f"{NUM_CHAINS} chains of {num_draws} kept draws; their spread gives the errors of z. A row "
        "fails beyond the bound of z or below p = 0.001, each of which exact draws do with "
        "probability 0.001 at most."
    )
