"""Entry point of ``python -m case_studies.portfolio_tail``."""

import argparse
from pathlib import Path

from case_studies.portfolio_tail.run import main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--out", type=Path, default=Path("portfolio_tail_results"))
main(parser.parse_args().out)
