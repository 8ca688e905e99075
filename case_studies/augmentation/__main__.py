"""Entry point of ``python -m case_studies.augmentation``."""

import argparse
from pathlib import Path

from case_studies.augmentation.run import main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--out", type=Path, default=Path("augmentation_results"))
main(parser.parse_args().out)
