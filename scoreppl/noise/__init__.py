"""Noise schedules: how much of the data and how much noise is in x_t, and grids of times.

Everywhere in the package x_t = alpha_t x_0 + sigma_t eps with eps standard normal, t in [0, 1],
t = 1 the noise end, and log_snr = 2 log(alpha / sigma). A schedule is elementwise on arrays of
times of any shape and accurate in float32 at both ends: no formula subtracts nearly equal
numbers. Its parameters are pytree leaves, so schedules pass through `jax.jit` and friends.
"""

from scoreppl.noise.continuous import EDM, VE, FlowMatching, VPCosine, VPLinear
from scoreppl.noise.discrete import DiscreteVP
from scoreppl.noise.grid import first_time, time_grid
from scoreppl.noise.schedule import Schedule, as_float, is_concrete, register_part

__all__ = [
    "EDM",
    "VE",
    "DiscreteVP",
    "FlowMatching",
    "Schedule",
    "VPCosine",
    "VPLinear",
    "as_float",
    "first_time",
    "is_concrete",
    "register_part",
    "time_grid",
]
