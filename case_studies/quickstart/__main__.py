"""Run the quickstart: ``python -m case_studies.quickstart``."""

from case_studies.quickstart.run import main

main()
