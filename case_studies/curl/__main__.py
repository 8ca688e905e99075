"""Entry point of ``python -m case_studies.curl``."""

import argparse
from pathlib import Path

from case_studies.curl.measure import FULL, USUAL
from case_studies.curl.networks import chosen
from case_studies.curl.run import main

parser = argparse.ArgumentParser(prog="python -m case_studies.curl", description=main.__doc__)
parser.add_argument(
    "--network", type=Path, nargs="*", default=[], metavar="FILE",
    help="files of sp.save_score_network with an architecture of this project",
)  # fmt: skip
parser.add_argument(
    "--model", nargs="*", default=[], metavar="package.module:function",
    help="functions of no arguments that return a score model: any network",
)  # fmt: skip
parser.add_argument(
    "--galaxies", action="store_true",
    help="stop if the extra 'galaxies' is missing, in place of leaving its network out",
)  # fmt: skip
parser.add_argument("--full", action="store_true", help="more levels and points")
parser.add_argument("--out", type=Path, default=Path("curl_results"))
arguments = parser.parse_args()
try:
    networks = chosen(arguments.network, arguments.model, arguments.galaxies)
except ValueError as error:
    parser.error(str(error))
main(arguments.out, networks, FULL if arguments.full else USUAL)
