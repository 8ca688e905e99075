"""Entry point of ``python -m case_studies.sobol``."""

import argparse
from pathlib import Path

from case_studies.sobol.run import main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--out", type=Path, default=Path("sobol_results"))
main(parser.parse_args().out)
