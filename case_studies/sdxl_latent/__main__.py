"""Entry point of ``python -m case_studies.sdxl_latent``."""

import argparse
from pathlib import Path

from case_studies.sdxl_latent.run import Options, main
from case_studies.sdxl_latent.study import Sizes

usual = Options()
parser = argparse.ArgumentParser(description=main.__doc__)
parser.add_argument("--model", type=Path, default=usual.model, help="folder of the network")
parser.add_argument("--prompt", default=usual.prompt)
parser.add_argument("--guidance-scale", type=float, default=usual.guidance_scale)
parser.add_argument("--size", type=int, default=usual.size, help="height and width in pixels")
parser.add_argument("--steps", type=int, default=usual.num_steps, help="reverse steps")
parser.add_argument("--pilots", type=int, default=usual.num_pilots)
parser.add_argument("--draws", type=int, default=usual.sizes.count, help="of each method")
parser.add_argument("--plain", type=int, default=usual.sizes.pool, help="draws of the prior")
parser.add_argument("--ahead", type=int, default=usual.sizes.ahead, help="draws made ahead")
parser.add_argument("--block", type=int, default=usual.sizes.block, help="draws at a time")
parser.add_argument("--parts", choices=("both", "surrogate", "network"), default="both")
parser.add_argument("--out", type=Path, default=Path("sdxl_latent_results"))
given = parser.parse_args()
options = Options(
    given.model, given.prompt, given.guidance_scale, given.size, given.steps, given.pilots,
    Sizes(given.draws, given.plain, given.ahead, given.block),
)  # fmt: skip
main(given.out, options, given.parts)
