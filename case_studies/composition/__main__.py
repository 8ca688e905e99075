"""Entry point of ``python -m case_studies.composition``."""

import argparse
from pathlib import Path

from case_studies.composition.run import main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--out", type=Path, default=Path("composition_results"))
parser.add_argument("--full", action="store_true", help="2,000 draws a run")
arguments = parser.parse_args()
main(arguments.out, arguments.full)
