"""Tables and figures of the study, by parts."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import scoreppl as sp
from case_studies.tomography import figures, radon, tables
from case_studies.tomography.model import ink
from case_studies.tomography.scenes import (
    NUM_REAL,
    TUNING_DIGITS,
    WARMUP_DIGIT,
    drawn_digits,
    look,
    real_digits,
)
from case_studies.tomography.study import at_pixel_noise, compare, has_peers, tune

if TYPE_CHECKING:
    from case_studies.tomography.peers import Peer

PARTS = ("tuning", "drawn", "real")
TITLES = {"drawn": "drawn from the network", "real": "real"}
NUM_TUNING_DRAWS = 8
# Noise of the line integrals that the warm-up sees.
PILOT_NOISE = 0.5


class Sizes(NamedTuple):
    """How much to do.

    Attributes
    ----------
    digits
        Of each set, for our kernel.
    compared
        The first ones, for the peers.
    long_steps
        Of one more run of DPS on the pilot digits, or None.
    """

    digits: int = 40
    compared: int = 40
    long_steps: int | None = None


USUAL = Sizes()
FULL = Sizes(NUM_REAL, NUM_REAL, 1000)


def chosen() -> "dict[str, Peer]":
    """Return the peers as they did best on the pilot digits, by the part `tuning`."""
    from case_studies.tomography.peers import DPS, DiffPIR

    return {"DPS": DPS(weight=300.0), "DiffPIR": DiffPIR(lambda_=1.0, zeta=1.0)}


def candidates(sizes: Sizes) -> "list[Peer]":
    """Return the settings that are tried on the pilot digits."""
    from case_studies.tomography.peers import DPS, DiffPIR

    steps = (200,) if sizes.long_steps is None else (200, sizes.long_steps)
    return [
        *(DPS(weight) for weight in (100.0, 300.0, 600.0)),
        *(DPS(300.0, num_steps) for num_steps in steps),
        DiffPIR(7.0, 0.1),  # deepinv's own
        *(DiffPIR(lambda_, 1.0) for lambda_ in (7.0, 2.0, 1.0, 0.5)),
    ]


def tuning(out: Path, sizes: Sizes, prior: sp.ScoreNetwork, transform: np.ndarray) -> None:
    """Write how the peers' main knobs do on four real digits apart."""
    images = real_digits(prior, jax.random.key(0))[jnp.asarray(TUNING_DIGITS)]
    pilots = look(images, transform, jax.random.key(1))
    peers = candidates(sizes)
    values = tune(prior, transform, pilots, peers, NUM_TUNING_DRAWS)
    write(out, "tuning", tables.tuning(list(zip(peers, values, strict=True)), NUM_TUNING_DRAWS))


def judge(
    out: Path, part: str, sizes: Sizes, prior: sp.ScoreNetwork, transform: np.ndarray
) -> None:
    """Draw posteriors of one set of digits by all methods, and write tables and figures."""
    images = real_digits(prior, jax.random.key(0))
    alone = images[WARMUP_DIGIT : WARMUP_DIGIT + 1]
    pilot = look(alone, transform, jax.random.key(2), jnp.full(1, PILOT_NOISE)).y[0]
    if part == "drawn":
        images = drawn_digits(prior, jax.random.key(3), sizes.digits)
    scene = look(images[: sizes.digits], transform, jax.random.key(4 + PARTS.index(part)))
    found = compare(
        prior, transform, scene, pilot, chosen() if has_peers() else {}, jax.random.key(7),
        TITLES[part], sizes.compared,
    )  # fmt: skip
    judged = tables.Judged(
        TITLES[part], scene, found, at_pixel_noise(prior, found, jax.random.key(8)),
        np.asarray(ink(sp.pretrained.test_digits().images)) if part == "real" else None,
    )  # fmt: skip
    write(out, f"errors_{part}", tables.errors(judged))
    write(out, f"intervals_{part}", tables.intervals(judged))
    save(out, f"digits_{part}", figures.draw_digits(judged, transform))
    save(out, f"intervals_{part}", figures.draw_coverage(judged))


def write(out: Path, name: str, text: str) -> None:
    """Write a table and print it."""
    (out / f"{name}.md").write_text(text + "\n")
    print(f"\n{text}\n", flush=True)


def save(out: Path, name: str, figure: Figure) -> None:
    """Write a figure."""
    figure.savefig(out / f"{name}.png", dpi=120)


def main(out: Path, parts: tuple[str, ...] = PARTS, sizes: Sizes = USUAL) -> None:
    """Tune the peers, and judge all methods by digits drawn from the network and by real ones."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    prior, transform = sp.pretrained.load("digits"), radon.matrix()
    if not has_peers():
        print('DPS and DiffPIR are left out: pip install -e ".[tomography]" brings deepinv.')
    elif "tuning" in parts:
        tuning(out, sizes, prior, transform)
    for part in parts:
        if part in TITLES:
            judge(out, part, sizes, prior, transform)
    print(f"{time.perf_counter() - start:.0f} seconds in all")
