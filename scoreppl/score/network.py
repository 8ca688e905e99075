"""Networks of any framework as score models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise import Schedule, as_float, is_concrete, register_part
from scoreppl.score.model import check_shape, reverse_diffusion
from scoreppl.score.prediction import PREDICTIONS, to_denoised, to_epsilon
from scoreppl.solvers import Solver, multistep


@register_part
@dataclass(frozen=True, eq=False)
class ScoreNetwork:
    """A network as a score model.

    Parameters
    ----------
    apply_fn
        ``apply_fn(params, x, t, condition)``: the network on one event `x`, shape `event_shape`,
        at the scalar time `t` in [0, 1]; it returns one event, or a scalar if `prediction` is
        ``"energy"``. With ``batched=True`` it takes x of shape ``(batch, *event_shape)`` and t of
        shape ``(batch,)`` and returns a batch. Only its identity is part of a compiled program:
        a function defined once compiles once.
    params
        Pytree of parameters, passed to `apply_fn`.
    noise
        The schedule the network was trained on.
    prediction
        What the network returns, with x_t = alpha x_0 + sigma eps:
        ``"epsilon"``: eps; ``"v"``: alpha eps - sigma x_0 (arXiv:2202.00512); ``"x0"``: x_0;
        ``"score"``: the gradient of log p_t; ``"velocity"``: alpha' x_0 + sigma' eps, the time
        derivative of x_t (arXiv:2210.02747); ``"edm"``: F in D = c_skip u + c_out F(c_in u, t),
        u = x_t / alpha, with the preconditioning of Karras et al. (arXiv:2206.00364);
        ``"energy"``: log p_t(x) up to a constant, whose gradient is the score.
    event_shape
        Shape of one event; ``()`` for a scalar.
    condition
        Pytree passed on to `apply_fn` unchanged, also with ``batched=True``.
    batched
        Whether `apply_fn` is written for a batch. It is then called with batches of one, which
        `jax.vmap` turns into whole batches.
    sigma_data
        Standard deviation of the data, positive, used by ``"edm"`` alone.
    min_time
        The smallest time at which the network is to be used, in [0, 1); by default that of
        log-SNR 8.

    Raises
    ------
    ValueError
        If `prediction`, `event_shape`, `sigma_data` or `min_time` is not as above; and from every
        method, if the shapes of `x`, `t` or of what `apply_fn` returns are not.
    """

    apply_fn: Callable[[Any, Array, Array, Any], Array] = field(metadata={"static": True})
    params: Any
    noise: Schedule = field(kw_only=True)
    prediction: str = field(kw_only=True, metadata={"static": True})
    event_shape: tuple[int, ...] = field(kw_only=True, metadata={"static": True})
    condition: Any = field(default=None, kw_only=True)
    batched: bool = field(default=False, kw_only=True, metadata={"static": True})
    sigma_data: ArrayLike = field(default=0.5, kw_only=True)
    min_time: ArrayLike = field(default=None, kw_only=True)  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Say what it is, without its parameters."""
        return (
            f"ScoreNetwork({count_parameters(self.params):,} parameters, noise={self.noise}, "
            f"prediction={self.prediction!r}, event_shape={self.event_shape})"
        )

    def __post_init__(self) -> None:
        """Check the static fields and fill in `min_time`."""
        if self.prediction not in PREDICTIONS:
            known = ", ".join(repr(name) for name in PREDICTIONS)
            raise ValueError(f"`prediction={self.prediction!r}` is not known; use one of {known}.")
        if not isinstance(self.noise, Schedule):
            raise ValueError(
                f"`noise` of type {type(self.noise).__name__} is no schedule; pass that of the "
                "network's training, such as sp.noise.DiscreteVP.linear()."
            )
        object.__setattr__(self, "event_shape", check_shape("event_shape", self.event_shape))
        if self.min_time is None:
            object.__setattr__(self, "min_time", self.noise.time(8.0))
        first = self.min_time
        if is_concrete(first) and not 0 <= np.min(first) <= np.max(first) < 1:
            raise ValueError(f"`min_time={self.min_time}` must obey 0 <= min_time < 1.")
        if is_concrete(self.sigma_data) and not np.min(self.sigma_data) > 0:
            raise ValueError(f"`sigma_data={self.sigma_data}` must be positive.")

    @property
    def has_log_density(self) -> bool:
        """Whether the network gives log p_t: true for ``"energy"`` alone."""
        return self.prediction == "energy"

    def score(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the gradient of log p_t at `x`, of the shape of one event.

        Every prediction but ``"energy"`` is turned into eps first, and the score is -eps / sigma:
        the detour over the denoiser would lose digits at low noise.
        """
        x, t = self._inputs(x, t)
        if self.has_log_density:
            return jax.grad(self._apply)(x, t)
        epsilon = to_epsilon(self.prediction, self._apply(x, t), x, t, self.noise, self.sigma_data)
        return -epsilon / self.noise(t)[1]

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return E[x_0 | x_t = x], of the shape of one event."""
        x, t = self._inputs(x, t)
        if self.has_log_density:
            return to_denoised("score", jax.grad(self._apply)(x, t), x, t, self.noise)
        return to_denoised(self.prediction, self._apply(x, t), x, t, self.noise, self.sigma_data)

    def log_prob(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Return log p_t(x) up to a constant, a scalar; without `t` at `min_time`.

        Raises
        ------
        ValueError
            If the network does not predict an energy.
        """
        if not self.has_log_density:
            raise ValueError(
                f"`log_prob` needs a network with prediction='energy'; this one predicts "
                f"{self.prediction!r} and has no density. Use a line integral of its score."
            )
        return self._apply(*self._inputs(x, self.min_time if t is None else t))

    def sample(
        self,
        key: Array,
        sample_shape: tuple[int, ...] = (),
        *,
        num_steps: int = 100,
        solver: Solver = multistep,
        spacing: str | ArrayLike | Sequence[float] = "logsnr",
    ) -> Array:
        """Draw x_0 by reverse diffusion; see `reverse_diffusion`."""
        return reverse_diffusion(
            self, key, sample_shape, num_steps=num_steps, solver=solver, spacing=spacing
        )

    def _inputs(self, x: ArrayLike, t: ArrayLike) -> tuple[Array, Array]:
        x, t = as_float(x), as_float(t)
        if x.shape != self.event_shape:
            raise ValueError(
                f"`x` has shape {x.shape}, but `event_shape` is {self.event_shape}: a score model "
                "takes one event; use jax.vmap for a batch."
            )
        if t.shape != ():
            raise ValueError(f"`t` has shape {t.shape} and must be a scalar; use jax.vmap.")
        return x, t

    def _apply(self, x: Array, t: Array) -> Array:
        if self.batched:
            output = self.apply_fn(self.params, x[None], t[None], self.condition)
        else:
            output = self.apply_fn(self.params, x, t, self.condition)
        shape = getattr(output, "shape", type(output).__name__)
        wanted = () if self.has_log_density else self.event_shape
        wanted = (1, *wanted) if self.batched else wanted
        if shape != wanted:
            raise ValueError(
                f"`apply_fn` returned shape {shape} where prediction={self.prediction!r} with "
                f"event_shape={self.event_shape} and batched={self.batched} needs {wanted}."
            )
        return output[0] if self.batched else output


def count_parameters(params: Any) -> int:
    """Return how many numbers a pytree of parameters holds."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
