"""Entry point of ``python -m case_studies.multimodal``."""

import argparse
from pathlib import Path

from case_studies.multimodal.run import main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--out", type=Path, default=Path("multimodal_results"))
main(parser.parse_args().out)
