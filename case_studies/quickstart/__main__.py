"""Entry point of ``python -m case_studies.quickstart``."""

import numpyro

# One device a chain, which must be said before anything starts JAX (importing scoreppl does):
# four chains keep two cores busy, where a single batch of all draws hardly uses the second.
numpyro.set_host_device_count(4)

from case_studies.quickstart.run import main  # noqa: E402

main()
