"""How exactly log densities are followed along paths: the second table of docs/smc.md.

::

    python -m docs.scripts.log_density_table

Under a minute on two cores.
"""

from pathlib import Path

import numpy as np

from tests.samplers.test_log_densities import errors

OUT = Path(__file__).parents[1] / "tables" / "log_densities.md"
LEVELS = (50, 100, 200)


def cell(dimension: int, num_levels: int, num_probes: int | None) -> str:
    """Root mean square error over paths."""
    found = errors(dimension, num_levels, num_probes)
    return f"{np.sqrt((found**2).mean()):.2f}"


def main() -> None:
    """Measure and write the table."""
    lines = ["| dimensions | levels | exact Laplacians | one probe |", "|" + "---|" * 4]
    for dimension in (1, 8, 30):
        for num_levels in LEVELS:
            cells = [cell(dimension, num_levels, probes) for probes in (None, 1)]
            lines.append(f"| {dimension} | {num_levels} | {cells[0]} | {cells[1]} |")
    lines += ["", "Root mean square error of a log ratio of two mixtures at data over 400 paths."]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
