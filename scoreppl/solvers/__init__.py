"""Reverse-time solvers: from noise to data along a grid of times, given a denoiser.

A solver is a pure function of a denoiser and a schedule; a new one is a new file whose function
has the signature of `Solver`.
"""

from collections.abc import Callable
from typing import Protocol

from jax import Array

from scoreppl.noise import Schedule
from scoreppl.solvers.ancestral import ancestral
from scoreppl.solvers.exponential import Exponential, ddim, deis, dpm_solver, unipc
from scoreppl.solvers.heun import Heun
from scoreppl.solvers.multistep import multistep
from scoreppl.solvers.search import Found, search

__all__ = [
    "Exponential",
    "Found",
    "Heun",
    "Solver",
    "ancestral",
    "ddim",
    "deis",
    "dpm_solver",
    "multistep",
    "search",
    "unipc",
]


class Solver(Protocol):
    """A reverse-time solver for one event."""

    def __call__(
        self,
        key: Array,
        x: Array,
        times: Array,
        denoise: Callable[[Array, Array], Array],
        noise: Schedule,
    ) -> Array:
        """Carry `x` from ``times[0]`` to ``times[-1]`` and return it there.

        Parameters
        ----------
        key
            PRNG key; a deterministic solver ignores it.
        x
            The event at ``times[0]``.
        times
            Decreasing times, shape ``(steps + 1,)``.
        denoise
            The denoiser ``denoise(x, t)`` on one event.
        noise
            The schedule of the denoiser.

        Returns
        -------
        Array
            The event at ``times[-1]``, of the shape of `x`.
        """
        ...
