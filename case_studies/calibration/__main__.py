"""Entry point of ``python -m case_studies.calibration``."""

import argparse
from pathlib import Path

from case_studies.calibration.published import installed_sbibm
from case_studies.calibration.run import FULL, MIXTURES, PARTS, USUAL, main

parser = argparse.ArgumentParser(
    prog="python -m case_studies.calibration", description=main.__doc__
)
parser.add_argument("--out", type=Path, default=Path("calibration_results"))
parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
parser.add_argument("--full", action="store_true", help="500 data sets, ten observations")
parser.add_argument(
    "--dear", nargs="+", choices=MIXTURES, help="mixtures that the five dearest kernels run on"
)
parser.add_argument("--resume", action="store_true", help="keep the ranks that are in --out")
parser.add_argument(
    "--sbibm", type=Path, default=installed_sbibm(), help="wheel or folder of sbibm 1.1.0"
)
parser.add_argument("--posteriordb", type=Path, help="checkout of posteriordb")
arguments = parser.parse_args()
sizes = FULL if arguments.full else USUAL
if arguments.dear is not None:
    sizes = sizes._replace(dear_on=tuple(arguments.dear))
main(
    arguments.out, tuple(arguments.parts), sizes,
    arguments.resume, arguments.sbibm, arguments.posteriordb,
)  # fmt: skip
