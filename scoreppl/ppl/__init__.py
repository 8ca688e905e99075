"""Score priors inside NumPyro models."""

import sys

# ArviZ 1.x leaves a lazy stand-in for numpyro. If its first use is `import numpyro.distributions`,
# that package is loaded twice, and the second copy lacks its submodules: `numpyro.factor` then
# fails. Importing numpyro first avoids it here, and what a user's earlier import lost is restored.
import numpyro  # noqa: F401
import numpyro.distributions  # noqa: F401

for _name in [name for name in sys.modules if name.startswith("numpyro.distributions.")]:
    _place, _, _child = _name.rpartition(".")
    if _place in sys.modules and not hasattr(sys.modules[_place], _child):
        setattr(sys.modules[_place], _child, sys.modules[_name])
