"""Entry point of ``python -m case_studies.eight_schools``."""

import argparse
from pathlib import Path

from case_studies.eight_schools.run import main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--out", type=Path, default=Path("eight_schools_results"))
main(parser.parse_args().out)
