"""Entry point of ``python -m case_studies.galaxies``."""

import argparse
from pathlib import Path

from case_studies.galaxies.run import FULL, PARTS, SAMPLERS, USUAL, main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--data", type=Path, help="hsc_cosmos_35.npz of pmelchior/scarlet")
parser.add_argument("--full", action="store_true", help="more galaxies")
parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
parser.add_argument("--galaxies", type=int, help="at each noise, for the default kernel")
parser.add_argument("--compared", type=int, help="galaxies for every other sampler")
parser.add_argument("--blends", type=int, help="scenes of two galaxies")
names = {name.replace("`", ""): name for name in SAMPLERS}
parser.add_argument(
    "--samplers", nargs="*", choices=names, default=list(names), help="of galaxies that stand alone"
)
parser.add_argument("--noises", type=float, nargs="*", help="of galaxies that stand alone")
parser.add_argument("--seed", type=int, default=1, help="of galaxies that stand alone")
parser.add_argument("--out", type=Path, default=Path("galaxies_results"))
given = parser.parse_args()
asked = {
    name: getattr(given, name)
    for name in ("galaxies", "compared", "blends", "noises")
    if getattr(given, name) is not None
}
sizes = (FULL if given.full else USUAL)._replace(**asked)
samplers = tuple(names[name] for name in given.samplers)
main(given.out, given.data, tuple(given.parts), sizes, samplers, given.seed)
