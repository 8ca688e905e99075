"""Entry point of ``python -m case_studies.annealing``."""

import argparse
from pathlib import Path

from case_studies.annealing.run import main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("parts", nargs="*", help="of forty, thirty, DW4, LJ13 and LJ13_400_steps")
parser.add_argument("--out", type=Path, default=Path("annealing_results"))
parser.add_argument("--data", type=Path, help="folder of published draws to compare chains with")
parser.add_argument("--full", action="store_true", help="more runs and particles")
arguments = parser.parse_args()
main(arguments.parts, arguments.out, arguments.data, arguments.full)
