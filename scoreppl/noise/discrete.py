"""The schedule of a network trained by discrete-time diffusion, as a table."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise.schedule import as_float, is_concrete, register_part


@register_part
@dataclass(frozen=True, init=False, eq=False)
class DiscreteVP:
    """Variance-preserving schedule given by a table, as of a network trained by DDPM.

    Entry i of the table belongs to t = i / (N - 1); between entries the log-SNR is linear.

    Parameters
    ----------
    alphas_cumprod
        Table of alpha^2, shape ``(N,)``, decreasing, inside (0, 1). Give it in float64 where
        possible: 1 - alpha^2 at low noise keeps only a few digits of a float32 table.

    Attributes
    ----------
    log_snr_table
        The table as log(alpha^2 / sigma^2), the form in which float32 loses nothing.

    Raises
    ------
    ValueError
        If the table is not a decreasing vector of at least two numbers inside (0, 1).
    """

    log_snr_table: Array

    def __init__(self, alphas_cumprod: ArrayLike) -> None:
        """Turn the table into log-SNRs, in float64 unless it is being traced."""
        if is_concrete(alphas_cumprod):
            squares = np.asarray(alphas_cumprod, np.float64)
            if squares.ndim != 1 or squares.size < 2:
                raise ValueError(
                    f"`alphas_cumprod` must be a vector of at least two numbers; its shape is "
                    f"{squares.shape}."
                )
            if not (np.all(np.diff(squares) < 0) and np.all((squares > 0) & (squares < 1))):
                raise ValueError(
                    "`alphas_cumprod` must decrease strictly inside (0, 1): give the cumulative "
                    "products of 1 - beta, lowest noise first."
                )
            table = jnp.asarray(np.log(squares) - np.log1p(-squares), jnp.result_type(float))
        else:
            squares = jnp.asarray(alphas_cumprod)
            table = jnp.log(squares) - jnp.log1p(-squares)
        object.__setattr__(self, "log_snr_table", table)

    def __repr__(self) -> str:
        """Say how many steps the table has, and not the table."""
        return f"DiscreteVP({jnp.shape(self.log_snr_table)[0]} steps)"

    @classmethod
    def linear(
        cls, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> "DiscreteVP":
        """Build the table of Ho et al. (arXiv:2006.11239): beta linear in the step."""
        return cls(np.cumprod(1 - np.linspace(beta_start, beta_end, num_steps)))

    @classmethod
    def scaled_linear(
        cls, num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> "DiscreteVP":
        """Build the table of Stable Diffusion and SDXL: sqrt(beta) linear in the step."""
        return cls(np.cumprod(1 - np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2))

    @property
    def alphas_cumprod(self) -> Array:
        """The table of alpha^2, shape ``(N,)``."""
        return jax.nn.sigmoid(self.log_snr_table)

    def timestep(self, t: ArrayLike) -> Array:
        """Return t (N - 1), the position in the table, as networks trained by DDPM take it."""
        return as_float(t) * (self.log_snr_table.shape[-1] - 1)

    def __call__(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return ``(alpha, sigma)`` at time `t`."""
        log_snr = self.log_snr(t)
        return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))

    def log_snr(self, t: ArrayLike) -> Array:
        """Return 2 log(alpha / sigma) at time `t`, linear between the table's entries."""
        position = self.timestep(t)
        below = jnp.clip(jnp.floor(position), 0, self.log_snr_table.shape[-1] - 2)
        weight = position - below
        index = below.astype(int)
        return (1 - weight) * self.log_snr_table[index] + weight * self.log_snr_table[index + 1]

    def time(self, log_snr: ArrayLike) -> Array:
        """Return the time of a log signal-to-noise ratio, clipped to [0, 1]."""
        table = self.log_snr_table
        times = jnp.arange(len(table), dtype=table.dtype) / (len(table) - 1)
        return jnp.interp(-as_float(log_snr), -table, times)
