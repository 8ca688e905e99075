"""Entry point of ``python -m case_studies.galaxies``."""

import argparse
from pathlib import Path

from case_studies.galaxies.run import FULL, PARTS, SAMPLERS, USUAL, main


def positive(text: str) -> float:
    """Return a number above zero."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return float(text)


def count(text: str) -> int:
    """Return a whole number above zero."""
    return int(positive(text))


parser = argparse.ArgumentParser(
    prog="python -m case_studies.galaxies",
    description="Sample galaxies alone, blended and real, and write tables and figures.",
)
parser.add_argument("--data", type=Path, help="data/hsc_cosmos_35.npz of pmelchior/scarlet")
parser.add_argument("--full", action="store_true", help="more galaxies")
parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
parser.add_argument("--galaxies", type=count, help="at each noise, for the default kernel")
parser.add_argument("--compared", type=count, help="galaxies for every other sampler")
parser.add_argument("--blends", type=count, help="scenes of two galaxies")
names = {name.replace("`", "").replace(", ", "-").replace(" ", "-"): name for name in SAMPLERS}
parser.add_argument(
    "--samplers", nargs="+", choices=names, default=list(names), help="of galaxies that stand alone"
)
parser.add_argument("--tree-depth", type=count, help="of NUTS at most")
parser.add_argument(
    "--reverse-steps", type=count, help="network calls for one cleaner image of AnnealedScoreMCMC"
)
parser.add_argument("--noises", type=positive, nargs="+", help="of galaxies that stand alone")
parser.add_argument("--seed", type=int, default=1, help="of galaxies that stand alone")
parser.add_argument(
    "--out", type=Path, default=Path("galaxies_results"), help="folder of tables and figures"
)
given = parser.parse_args()
if given.data is not None and not given.data.is_file():
    parser.error(f"--data {given.data} is no file")
asked = {
    name: getattr(given, name)
    for name in ("galaxies", "compared", "blends", "noises")
    if getattr(given, name) is not None
}
sizes = (FULL if given.full else USUAL)._replace(**asked)
if given.tree_depth is not None:
    sizes = sizes._replace(lengths=sizes.lengths._replace(tree_depth=given.tree_depth))
if given.reverse_steps is not None:
    sizes = sizes._replace(lengths=sizes.lengths._replace(num_reverse_steps=given.reverse_steps))
samplers = tuple(names[name] for name in given.samplers)
main(given.out, given.data, tuple(given.parts), sizes, samplers, given.seed)
