"""Entry point of ``python -m case_studies.rare_event``."""

import argparse
from pathlib import Path

from case_studies.rare_event.run import main

parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--out", type=Path, default=Path("rare_event_results"))
main(parser.parse_args().out)
