r"""Exponential integrators in log-SNR: one core, of which the named solvers are choices.

With lambda = log(alpha / sigma), the reverse process with a share of noise tau^2 obeys, for the
denoiser D along the path (Lu et al., arXiv:2211.01095; Xue et al., arXiv:2309.05019),

.. math::
    x_s = \frac{\sigma_s}{\sigma_t} e^{-\tau^2 h} x_t
          + (1 + \tau^2) \sigma_s \int_{\lambda_t}^{\lambda_s}
            e^{\lambda - \tau^2 (\lambda_s - \lambda)} D(\lambda) \, d\lambda
          + \sigma_s \sqrt{1 - e^{-2 \tau^2 h}} \, z, \qquad h = \lambda_s - \lambda_t,

and without noise an equation of the same form for the noise prediction (x - alpha D) / sigma. The
linear part is solved exactly; D, or the noise prediction, is replaced by the polynomial through
its last values, in log-SNR or in time. What a solver is, is said by the degree, by what is
interpolated in which variable, by the noise, and by whether the value at the new point corrects
the step that led there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoreppl.noise import Schedule, as_float
from scoreppl.solvers.adams import adams_coefficients

_INTERPOLATED = ("denoised", "noise")
_VARIABLES = ("log_snr", "time")


@dataclass(frozen=True)
class Exponential:
    """An exponential Adams method, with one evaluation of the denoiser a step.

    Parameters
    ----------
    order
        Values that the polynomial runs through: one number, or one for each step. The first
        steps have fewer to use.
    eta
        Noise of a step as a share of the ancestral one, in [0, 1]: 0 is the probability-flow
        ODE, 1 the ancestral process (Song et al., arXiv:2010.02502, equation 16).
    interpolate
        What the polynomial is of: ``"denoised"`` or, for `eta` 0, ``"noise"``.
    variable
        What it is a polynomial in: ``"log_snr"`` or ``"time"``.
    corrector
        Whether the value at the new point, which the next step needs anyway, corrects the step
        that led there (Zhao et al., arXiv:2302.04867). It adds one to the order.
    early_noise
        Share c of the first noise prediction in the later ones, in (-1, 1) and for `eta` 0: at
        time t, eps + c (t_first - t) / (t_first - t_end) (eps_first - eps) stands in for eps. A
        trained network errs least where the noise is largest, which DualFast (Yu et al.,
        arXiv:2506.13058) turns against its errors further down; this is a linear mix in its
        spirit. Negative values extrapolate away from the first prediction. It does not vanish
        with the step: many steps follow another flow, so that it is for few steps alone. Measured
        in docs/solvers.md with 20 steps of order 2: 0.1 is nearer to the flow of a mixture, whose
        denoiser has no error, and farther from that of a network of digits.

    Raises
    ------
    ValueError
        If an argument is not as above.
    """

    order: int | tuple[int, ...] = 2
    eta: float = 0.0
    interpolate: str = "denoised"
    variable: str = "log_snr"
    corrector: bool = False
    early_noise: float = 0.0

    def __post_init__(self) -> None:
        """Check the choices."""
        orders = self.order if isinstance(self.order, tuple) else (self.order,)
        if not orders or any(order < 1 for order in orders):
            raise ValueError(f"`order={self.order}` must be at least 1 in every step.")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"`eta={self.eta}` must lie between 0 (no noise) and 1 (ancestral).")
        if self.interpolate not in _INTERPOLATED:
            known = " or ".join(map(repr, _INTERPOLATED))
            raise ValueError(f"`interpolate={self.interpolate!r}` is not known; use {known}.")
        if self.variable not in _VARIABLES:
            known = " or ".join(map(repr, _VARIABLES))
            raise ValueError(f"`variable={self.variable!r}` is not known; use {known}.")
        if self.interpolate == "noise" and self.eta > 0.0:
            raise ValueError(
                f"`eta={self.eta}` adds noise, for which `interpolate='noise'` has no formula; "
                "use interpolate='denoised'."
            )
        if not -1.0 < self.early_noise < 1.0:
            raise ValueError(f"`early_noise={self.early_noise}` must lie between -1 and 1.")
        if self.early_noise != 0.0 and self.eta > 0.0:
            raise ValueError(
                f"`eta={self.eta}` replaces the noise that `early_noise={self.early_noise}` keeps; "
                "set one of them to 0."
            )

    def __call__(
        self,
        key: Array,
        x: Array,
        times: Array,
        denoise: Callable[[Array, Array], Array],
        noise: Schedule,
        *,
        orders: Array | None = None,
    ) -> Array:
        """Carry `x` from ``times[0]`` to ``times[-1]``, as in `scoreppl.solvers.Solver`.

        `orders`, shape ``(steps,)``, stands in for `order`, whose largest entry bounds it. It may
        be traced, so that one compiled program serves methods of many orders.
        """
        x, times = as_float(x), as_float(times)
        alpha, sigma = noise(times)
        count, depth = len(times) - 1, int(np.max(self.order)) + 1
        choices = {name: getattr(self, name) for name in ("eta", "interpolate", "variable")}
        coefficients = adams_coefficients(
            times, noise, self._orders(count) if orders is None else orders, depth, **choices
        )
        keep, spread, predict, correct = (value.astype(x.dtype) for value in coefficients)
        # Nothing leads to the first point, which therefore corrects to itself.
        correct = jnp.concatenate([jnp.zeros((1, depth), correct.dtype), correct[:-1]])
        way = (times[0] - times[:-1]) / (times[0] - times[-1])
        share = (self.early_noise * way).astype(x.dtype)

        def step(carry: tuple[Array, ...], inputs: tuple) -> tuple[tuple, None]:
            x, known, values, early = carry
            key, t, alpha, sigma, share, keep, spread, predict, correct = inputs
            # The carry keeps its type whatever the precision of the network.
            value = denoise(x, t).astype(x.dtype)
            if self.early_noise != 0.0:
                early = jnp.where(share == 0.0, (x - alpha * value) / sigma, early)
                mixed = (1.0 - share) * value + share * (x - sigma * early) / alpha
                value = jnp.where(share == 0.0, value, mixed).astype(x.dtype)
                early = early.astype(x.dtype)
            if self.interpolate == "noise":
                value = (x - alpha * value) / sigma
            values = jnp.concatenate([value[None], values[:-1]])
            if self.corrector:
                x = known + _combine(correct, values)
            known = keep * x
            if self.eta > 0.0:
                known = known + spread * jax.random.normal(key, x.shape, x.dtype)
            return (known + _combine(predict, values), known, values, early), None

        carry = (x, x, jnp.zeros((depth, *x.shape), x.dtype), jnp.zeros_like(x))
        keys = jax.random.split(key, count)
        points = (keys, times[:-1], alpha[:-1], sigma[:-1], share)
        return jax.lax.scan(step, carry, (*points, keep, spread, predict, correct))[0][0]

    def _orders(self, count: int) -> np.ndarray:
        if isinstance(self.order, tuple) and len(self.order) != count:
            raise ValueError(
                f"`order` has {len(self.order)} entries for {count} steps; give one for each step."
            )
        return np.broadcast_to(np.asarray(self.order), (count,))


def _combine(coefficients: Array, values: Array) -> Array:
    return jnp.tensordot(coefficients, values, 1, precision=jax.lax.Precision.HIGHEST)


def ddim(eta: float = 0.0) -> Exponential:
    """Build DDIM (Song et al., arXiv:2010.02502): deterministic, or with a share `eta` of noise."""
    return Exponential(order=1, eta=eta)


def dpm_solver(order: int = 2, eta: float = 0.0) -> Exponential:
    """Build DPM-Solver++ multistep (Lu et al., arXiv:2211.01095) of any order.

    `eta` 0 is the ODE solver, 1 the SDE solver; of order 2 in the exact form of its appendix B.
    """
    return Exponential(order=order, eta=eta)


def deis(order: int = 3) -> Exponential:
    """Build DEIS tAB (Zhang and Chen, arXiv:2204.13902): the noise prediction, in time."""
    return Exponential(order=order, interpolate="noise", variable="time")


def unipc(order: int = 2) -> Exponential:
    """Build UniPC (Zhao et al., arXiv:2302.04867): a predictor of an order, and its corrector.

    With the coefficients that satisfy all order conditions its B(h) cancels, which leaves the
    exponential Adams methods.
    """
    return Exponential(order=order, corrector=True)
