"""DW4 and LJ13: a network of one temperature taken to colder ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.annealing import truth
from case_studies.annealing.distances import wasserstein
from case_studies.annealing.methods import Method, Outcome, anneal, cell, counted, effective
from case_studies.annealing.particles import System
from scoreppl.score import ScoreModel

HEAD = (
    "| particles | T | method | evaluations | seconds | energy W1 | energy W2 | distance W1 "
    "| distance W2 | effective |\n|---|---|---|---|---|---|---|---|---|---|"
)
CHECK_HEAD = (
    "| particles | T | source | mean E | sd | 1 % | median | 99 % | energy W1 | distance W1 |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
FILES = {"DW4": "test_split_DW4.npy", "LJ13": "val_split_LJ13-1000.npy"}
# An energy of two particles that all but meet: without a limit one draw of thousands would be all
# that a distance shows.
ENERGY_LIMIT = 200.0


class Observed(NamedTuple):
    """Energies, shape (draws,), and distances of pairs, shape (draws, pairs)."""

    energy: np.ndarray
    distance: np.ndarray


def observe(system: System, x: np.ndarray | Array) -> Observed:
    """Return energies, cut off at `ENERGY_LIMIT`, and distances of events."""
    z = jnp.asarray(x).reshape(-1, system.size)
    energy = jnp.nan_to_num(jax.vmap(system.energy)(z), nan=jnp.inf, posinf=jnp.inf)
    distance = np.asarray(jax.vmap(system.distances)(z), np.float64)
    return Observed(np.asarray(jnp.minimum(energy, ENERGY_LIMIT), np.float64), distance)


def judge(found: Observed, exact: Observed, share: np.ndarray | None = None) -> np.ndarray:
    """Return W1 and W2 of energies, then of all distances."""
    count, pairs = found.distance.shape
    each = None if share is None else np.repeat(share / pairs, pairs)
    values = [
        wasserstein(found.energy, exact.energy, share, order) for order in (1, 2)
    ]  # fmt: skip
    values += [
        wasserstein(found.distance.ravel(), exact.distance.ravel(), each, order)
        for order in (1, 2)
    ]  # fmt: skip
    return np.array(values)


def exact_draws(key: Array, system: System, num_ladders: int, num_draws: int) -> dict[float, Array]:
    """Return draws by temperature, shape (ladders, draws, size)."""
    found = truth.sample(key, system, system.ladder, num_ladders, num_draws, 20)
    return dict(zip(system.ladder, found.events, strict=True))


def methods(num_steps: int = 100) -> tuple[Method, ...]:
    """Return those compared."""
    return (
        Method("none: reverse diffusion, summed score", None, num_steps),
        Method("`FeynmanKac`, target score", sp.correctors.FeynmanKac(), num_steps),
        Method("`FeynmanKac`, tempered noise", sp.correctors.FeynmanKac(None), num_steps),
        Method("`LaplacianOnly`", sp.correctors.LaplacianOnly(), num_steps),
        Method("`VarianceControl`", sp.correctors.VarianceControl(), num_steps),
    )


def _row(name: str, temperature: float, label: str, values: np.ndarray, found: Outcome) -> str:
    cells = " | ".join(
        cell(values[:, column], digits) for column, digits in enumerate((2, 2, 3, 3))
    )
    cost = f"{counted(found.evaluations)} | {found.seconds:.0f}" if found.evaluations else " | "
    share = f"{effective(found.share).mean():.0f}" if found.evaluations else ""
    return f"| {name} | {temperature:g} | {label} | {cost} | {cells} | {share} |"


class Kept(NamedTuple):
    """Energies and weights of a row, for the picture."""

    label: str
    energy: np.ndarray
    share: np.ndarray


def table(
    system: System,
    network: ScoreModel,
    exact: dict[float, Array],
    compared: tuple[Method, ...],
    num_particles: int,
    num_runs: int,
) -> tuple[list[str], dict[float, list[Kept]]]:
    """Return the rows of one system, and energies by temperature.

    Half of the ladders are the truth, and floors are draws of the other half.
    """
    rows: list[str] = []
    kept: dict[float, list[Kept]] = {}
    rng = np.random.default_rng(0)
    for temperature in (system.hot, *system.cold):
        ladders = exact[temperature]
        half = len(ladders) // 2
        reference, other = observe(system, ladders[:half]), ladders[half:]
        pool = np.asarray(other).reshape(-1, system.size)
        count = len(reference.energy)
        kept[temperature] = [Kept("exact", reference.energy, np.full(count, 1 / count))]

        def add(
            label: str, found: Outcome, at: float = temperature, to: Observed = reference
        ) -> None:
            pairs = [
                (observe(system, x), share) for x, share in zip(found.x, found.share, strict=True)
            ]
            values = np.array([judge(seen, to, share) for seen, share in pairs])
            rows.append(_row(system.name, at, label, values, found))
            kept[at].append(Kept(label, pairs[0][0].energy, pairs[0][1]))
            print(rows[-1], flush=True)

        x = pool[rng.integers(len(pool), size=(num_runs, num_particles))]
        share, nothing = np.full(x.shape[:2], 1 / num_particles), np.full(num_runs, np.nan)
        add("exact draws", Outcome(x, share, nothing, 0, 0, 0.0))
        if temperature == system.hot:
            plain = compared[0]._replace(label="the network itself, reverse diffusion")
            add(
                plain.label, anneal(jax.random.key(9), network, 1.0, plain, num_particles, num_runs)
            )
            continue
        for index, method in enumerate(compared):
            key, beta = jax.random.key(index), system.hot / temperature
            add(method.label, anneal(key, network, beta, method, num_particles, num_runs))
    return rows, kept


def check(system: System, exact: dict[float, Array], published: np.ndarray | None) -> list[str]:
    """Return what chains find at every temperature, and published draws if there are any."""
    rows = []
    for temperature, ladders in exact.items():
        half = len(ladders) // 2
        first, second = observe(system, ladders[:half]), observe(system, ladders[half:])
        sources = [("half of the chains", first), ("the other half", second)]
        if published is not None and temperature == system.published:
            events = jax.vmap(system.to_event)(jnp.asarray(published))
            sources.append(("published draws", observe(system, events)))
        for label, seen in sources:
            e, w = seen.energy, judge(seen, first)
            quantiles = " | ".join(f"{v:.2f}" for v in np.quantile(e, (0.01, 0.5, 0.99)))
            apart = f"{w[0]:.2f} | {w[2]:.3f}" if seen is not first else " | "
            rows.append(
                f"| {system.name} | {temperature:g} | {label} | {e.mean():.2f} | {e.std():.2f} "
                f"| {quantiles} | {apart} |"
            )
            print(rows[-1], flush=True)
    return rows
