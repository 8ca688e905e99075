"""Command line of the study."""

import argparse
from pathlib import Path

from case_studies.tomography.run import FULL, PARTS, USUAL, main

parser = argparse.ArgumentParser(prog="python -m case_studies.tomography")
parser.add_argument("--out", type=Path, default=Path("tomography_results"))
parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
parser.add_argument("--full", action="store_true", help="more digits for all methods")
arguments = parser.parse_args()
main(arguments.out, tuple(arguments.parts), FULL if arguments.full else USUAL)
