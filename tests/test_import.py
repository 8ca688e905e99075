"""Importing the package costs about what its dependencies cost."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 1.2
ROUNDS = 5


def import_seconds(modules: str) -> float:
    """Processor time of one import in a fresh interpreter, so that a busy machine counts less."""
    script = f"import time\nimport {modules}\nprint(time.process_time())"
    # numpy's threads spin while they wait, which would be counted.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


def test_import_is_not_slower_than_the_dependencies():
    """At most 1.2 times the import of numpyro, blackjax and arviz together.

    The runs alternate and the fastest of each kind are compared, since disturbances only add
    time. Up to five rounds are run and the first one inside the budget ends the test: the spread of
    the minimum of two is a few per cent, far inside the tolerance of 20 %.
    """
    reference = subject = float("inf")
    for _ in range(ROUNDS):
        reference = min(reference, import_seconds("numpyro, blackjax, arviz"))
        subject = min(subject, import_seconds("scoreppl"))
        if subject <= BUDGET * reference:
            return
    raise AssertionError(f"{subject:.2f} s, the dependencies {reference:.2f} s")


def test_numpyro_is_whole_however_arviz_was_imported():
    """ArviZ 1.x leaves a lazy numpyro, which loses submodules if they are what is used first."""
    orders = ("arviz, scoreppl", "arviz, numpyro.distributions, scoreppl", "scoreppl, arviz")
    for order in orders:
        script = f"import {order}, numpyro\nprint(numpyro.distributions.distribution)"
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{order}: {run.stderr}"
