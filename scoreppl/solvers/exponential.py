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

_INTERPOLATED = ("denoised", "noise")
_VARIABLES = ("log_snr", "time")
# Of the integrand, an exponential times a polynomial: exact to single precision for h up to 10.
_NODES, _WEIGHTS = (half / 2 for half in np.polynomial.legendre.leggauss(12))
_NODES = _NODES + 0.5


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

    def __call__(
        self,
        key: Array,
        x: Array,
        times: Array,
        denoise: Callable[[Array, Array], Array],
        noise: Schedule,
    ) -> Array:
        """Carry `x` from ``times[0]`` to ``times[-1]``, as in `scoreppl.solvers.Solver`."""
        x, times = as_float(x), as_float(times)
        keep, spread, predict, correct = self.coefficients(times, noise)
        alpha, sigma = noise(times)
        count, depth = len(times) - 1, correct.shape[1]
        steps = (jax.random.split(key, count), times[:-1], alpha[:-1], sigma[:-1])

        def step(carry: tuple[Array, Array, Array], inputs: tuple) -> tuple[tuple, None]:
            x, known, values = carry
            (key, t, alpha, sigma), keep, spread, predict, correct = inputs
            # The carry keeps its type whatever the precision of the network.
            value = denoise(x, t).astype(x.dtype)
            if self.interpolate == "noise":
                value = (x - alpha * value) / sigma
            values = jnp.concatenate([value[None], values[:-1]])
            if self.corrector:
                x = known + _combine(correct, values)
            known = keep * x
            if self.eta > 0.0:
                known = known + spread * jax.random.normal(key, x.shape, x.dtype)
            return (known + _combine(predict, values), known, values), None

        # Nothing leads to the first point, which therefore corrects to itself.
        correct = jnp.concatenate([jnp.zeros((1, depth), correct.dtype), correct[:-1]])
        carry = (x, x, jnp.zeros((depth, *x.shape), x.dtype))
        inputs = (steps, *(v.astype(x.dtype) for v in (keep, spread, predict, correct)))
        return jax.lax.scan(step, carry, inputs)[0][0]

    def coefficients(self, times: Array, noise: Schedule) -> tuple[Array, Array, Array, Array]:
        """Return what multiplies x, z and the known values in each step.

        Parameters
        ----------
        times
            Decreasing times, shape ``(steps + 1,)``.
        noise
            The schedule.

        Returns
        -------
        tuple of Array
            Of x and of z, shape ``(steps,)`` each; of the values at this point and those before
            it, shape ``(steps, depth)``; and of the value at the new point and those before it,
            for the corrector.
        """
        count = len(times) - 1
        if isinstance(self.order, tuple) and len(self.order) != count:
            raise ValueError(
                f"`order` has {len(self.order)} entries for {count} steps; give one for each step."
            )
        order = np.broadcast_to(np.asarray(self.order), (count,))
        depth = int(order.max()) + 1
        alpha, sigma = noise(times)
        # Rounding of repeated times is no step.
        level = 0.5 * jax.lax.cummax(noise.log_snr(times))
        length = level[1:] - level[:-1]
        is_finite = jnp.isfinite(length)
        fresh = -jnp.expm1(-2.0 * length)
        log_kept = 0.5 * jnp.log1p(-(self.eta**2) * fresh)
        spread = self.eta * sigma[1:] * jnp.sqrt(fresh)
        if self.interpolate == "denoised":
            keep = sigma[1:] / sigma[:-1] * jnp.exp(log_kept)
            total = -alpha[1:] * jnp.expm1(log_kept - length)
            decay = jnp.where(is_finite, length - log_kept, 0.0)
        else:
            keep = alpha[1:] / alpha[:-1]
            total = sigma[1:] - keep * sigma[:-1]
            decay = jnp.where(is_finite, -length, 0.0)

        # The exponential's weight at nodes back from the new point, summing to one.
        back = jnp.asarray(_NODES, level.dtype)
        mass = jnp.asarray(_WEIGHTS, level.dtype) * jnp.exp(-decay[:, None] * back)
        mass = mass / jnp.sum(mass, 1, keepdims=True)
        at = level[1:, None] - jnp.where(is_finite, length, 0.0)[:, None] * back
        points = level
        if self.variable == "time":
            at, points = noise.time(2.0 * at), times

        # Row i: the new point, this one, and those before it. A value counts if the step that
        # starts from it has a length, and a finite one.
        place = np.arange(count)[:, None] + 1 - np.arange(depth + 1)
        nodes = points[np.maximum(place, 0)]
        ahead = length[np.clip(place, 0, count - 1)]
        usable = (ahead > 0) & jnp.isfinite(ahead) & is_finite[:, None] & (place >= 0)
        usable &= np.arange(depth + 1) <= order[:, None]
        usable = usable.at[:, 0].set(length > 0)
        # From or to an infinite log-SNR there is no polynomial but the constant.
        before = usable.at[:, 0].set(False).at[:, 1].set(True)
        predict = _polynomial(nodes, before, at, mass)[:, 1:]
        correct = _polynomial(nodes, usable, at, mass)[:, :-1]
        return keep, spread, total[:, None] * predict, total[:, None] * correct


def _combine(coefficients: Array, values: Array) -> Array:
    return jnp.tensordot(coefficients, values, 1, precision=jax.lax.Precision.HIGHEST)


def _polynomial(nodes: Array, used: Array, at: Array, mass: Array) -> Array:
    """Weights of the nodes in the mean, over `at` with weights `mass`, of their polynomial."""
    nodes = jnp.where(used, nodes, 0.0)
    pairs = used[:, :, None] & used[:, None, :] & ~jnp.eye(used.shape[1], dtype=bool)
    gaps = jnp.where(pairs, nodes[:, :, None] - nodes[:, None, :], 1.0)
    distances = (at[:, :, None] - nodes[:, None])[:, :, None]
    factors = jnp.where(pairs[:, None], distances / gaps[:, None], 1.0)
    lagrange = jnp.prod(factors, -1) * used[:, None]
    return jnp.sum(mass[:, :, None] * lagrange, 1)


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
