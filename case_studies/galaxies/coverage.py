"""How often intervals hold the truth, from its ranks among a few draws."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.stats import binom

from case_studies.galaxies.methods import NUM_DRAWS, Drawn
from case_studies.galaxies.scenes import flux, psnr, size

QUANTITIES = {"flux": flux, "size": size}
LEVELS = (0.5, 0.9)
NUM_BINS = 5


class Coverage(NamedTuple):
    """Of one quantity.

    Attributes
    ----------
    shares
        Of truths inside the central intervals of `LEVELS`.
    bins
        Counts of the ranks, by `NUM_BINS` bins of equal probability.
    bias, bias_error
        Mean of posterior mean less truth, in units of the quantity, and its standard error.
    z
        Root mean square of the same over the posterior's standard deviation.
    """

    shares: tuple[float, ...]
    bins: np.ndarray
    bias: float
    bias_error: float
    z: float


def ranks(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return how many draws lie below the truth, from shapes ``(..., draws)`` and ``(...)``.

    If the truth is one more draw of the same law, each of ``draws + 1`` ranks is as likely.
    """
    return np.sum(draws < truth[..., None], -1)


def inside(rank: np.ndarray, level: float, num_draws: int = NUM_DRAWS) -> np.ndarray:
    """Return whether ranks lie in the central interval of probability `level`.

    Raises
    ------
    ValueError
        If no central interval of `num_draws` draws has that probability.
    """
    outside = (num_draws + 1) * (1 - level) / 2
    if abs(outside - round(outside)) > 1e-6:
        raise ValueError(
            f"`level={level}` is no central share of the {num_draws + 1} ranks that "
            f"`num_draws={num_draws}` give; 19 draws give 0.5 and 0.9."
        )
    return (rank >= round(outside)) & (rank <= num_draws - round(outside))


def judge(draws: np.ndarray, truth: np.ndarray) -> Coverage:
    """Compare draws, shape ``(galaxies, draws)``, with truths, shape ``(galaxies,)``."""
    rank, num_draws = ranks(draws, truth), draws.shape[-1]
    error = draws.mean(-1) - truth
    return Coverage(
        tuple(float(inside(rank, level, num_draws).mean()) for level in LEVELS),
        np.bincount(rank * NUM_BINS // (num_draws + 1), minlength=NUM_BINS),
        float(error.mean()),
        float(error.std(ddof=1) / np.sqrt(len(error))),
        float(np.sqrt(np.mean((error / draws.std(-1, ddof=1)) ** 2))),
    )


def allowed(level: float, count: int, probability: float = 0.9) -> tuple[float, float]:
    """Return shares between which an exact sampler's coverage falls with that probability."""
    tail = (1 - probability) / 2
    low, high = binom.ppf([tail, 1 - tail], count, level) / count
    return float(low), float(high)


HEAD = (
    "| noise | sampler | galaxies | flux, 50 % | flux, 90 % | size, 50 % | size, 90 % "
    "| ranks of the flux | flux bias | rms z | PSNR | R-hat | evaluations | seconds |\n"
    + "|---" * 14
    + "|"
)


def row(noise: float, name: str, drawn: Drawn, truth: np.ndarray) -> str:
    """Return a sampler's line of the table; `truth` are the galaxies."""
    found = {
        quantity: judge(np.asarray(of(jnp.asarray(drawn.x))), np.asarray(of(jnp.asarray(truth))))
        for quantity, of in QUANTITIES.items()
    }
    shares = [f"{100 * share:.0f}" for each in found.values() for share in each.shares]
    seen = found["flux"]
    decibels = np.asarray(psnr(jnp.asarray(drawn.x.mean(1)), jnp.asarray(truth)))
    r_hat = "" if drawn.r_hat is None else f"{np.median(drawn.r_hat):.2f}"
    cells = [
        f"{noise:g}", name, str(len(truth)), *shares, " ".join(map(str, seen.bins)),
        f"{seen.bias:+.2f} ± {seen.bias_error:.2f}", f"{seen.z:.2f}", f"{decibels.mean():.1f}",
        r_hat, f"{drawn.evaluations:,.0f}", f"{drawn.seconds:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def rows_of(text: str) -> dict[tuple[str, str], str]:
    """Return the lines of a table that `row` made, by noise and sampler, in their order."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return {(cells[0], cells[1]): line for line in lines for cells in [cells_of(line)]}


def cells_of(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def bins_of(line: str) -> np.ndarray:
    """Return the counts of the flux's ranks in a line that `row` made."""
    return np.array([int(count) for count in cells_of(line)[7].split()])
