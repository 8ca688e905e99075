"""Entry point of ``python -m case_studies.portfolio_tail``."""

import argparse
from pathlib import Path

from case_studies.portfolio_tail.run import PARTS, main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--out", type=Path, default=Path("portfolio_tail_results"))
parser.add_argument("--part", choices=PARTS, help="one of the two; without it, both")
arguments = parser.parse_args()
main(arguments.out, PARTS if arguments.part is None else (arguments.part,))
