r"""Whether a network denoises data by the prediction type that it is declared to have.

A wrong prediction type, a schedule of another network or data on another scale give no error
anywhere: shapes agree, and samplers return noise. Denoising noised data tells, because

.. math::
    e(t) = \frac{E |D(x_t, t) - x_0|^2}{E |m + c_t (x_t - \alpha_t m) - x_0|^2}, \qquad
    c_t = \frac{\alpha_t v}{\alpha_t^2 v + \sigma_t^2},

with m the mean of the other data and v their mean variance, is below one for a network that knows
more of them than these two.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.noise import as_float
from scoreppl.score import ScoreNetwork
from scoreppl.score.prediction import PREDICTIONS

_LOG_SNRS = (-2.0, -1.0, 0.0, 1.0, 2.0)
# More noised images than this are not needed to tell prediction types apart.
_MAX_CHECKED = 64
# An energy is no event, so that its network has no other type to be mistaken for.
_TYPES = [name for name in PREDICTIONS if name != "energy"]
# A declared type whose squared error at some level is this many times that of one that fits better
# on the whole is the wrong one: between epsilon and v it is ten times at log-SNR -2 for
# images, and nothing at 4.
_CLEARLY = 2.0
# A type that is advised must beat the best linear guess by this much.
_FITTING = 0.8
# Worse than the best linear guess by so much is no denoising at all, and no better is a doubt:
# a network that is given other times than it knows, or is not trained, is about as good.
_USELESS, _DOUBTFUL = 1.5, 0.9


class DenoisingErrors(NamedTuple):
    """Errors of a network on noised data, level by level.

    Attributes
    ----------
    log_snr
        The levels, shape ``(levels,)``.
    mean_squared_error
        E |D - x_0|^2 over the size of an event.
    epsilon_error
        The same error of the noise that the network sees, E |eps_hat - eps|^2 over the size.
    relative_error
        `mean_squared_error` over that of the best linear guess; below one where the network knows
        more than mean and variance.
    """

    log_snr: np.ndarray
    mean_squared_error: np.ndarray
    epsilon_error: np.ndarray
    relative_error: np.ndarray


def denoising_errors(
    network: ScoreNetwork,
    data: ArrayLike,
    *,
    log_snr: ArrayLike | tuple[float, ...] = _LOG_SNRS,
    key: Array | None = None,
) -> DenoisingErrors:
    """Measure how well a network denoises noised data.

    Parameters
    ----------
    network
        The network.
    data
        Clean events on the scale that the network knows, shape ``(n, *event_shape)``; held out
        from its training for figures to be quoted.
    log_snr
        Levels, within what the network's schedule has.
    key
        PRNG key of the noise; None: a fixed one.

    Returns
    -------
    DenoisingErrors
        Errors at each level.

    Raises
    ------
    ValueError
        If `data` are not at least two finite events of the network's shape.
    """
    clean = check_data(data, network.event_shape)
    levels = np.atleast_1d(np.asarray(log_snr, np.float64))
    return _errors((network,), clean, levels, jax.random.key(0) if key is None else key)[0]


def _errors(
    networks: Sequence[ScoreNetwork], clean: Array, levels: np.ndarray, key: Array
) -> list[DenoisingErrors]:
    """Measure networks of one schedule on the same noised data, in one program."""
    # The mean of the others, so that the guess does not know what it is asked for.
    count = len(clean)
    mean = (jnp.sum(clean, 0) - clean) / (count - 1)
    variance = jnp.mean(jnp.var(clean, 0, ddof=1))

    @jax.jit
    def at(networks: Sequence[ScoreNetwork], level: Array, key: Array) -> Array:
        t = networks[0].noise.time(level)
        alpha, sigma = networks[0].noise(t)
        noisy = alpha * clean + sigma * jax.random.normal(key, clean.shape, clean.dtype)
        slope = alpha * variance / (alpha**2 * variance + sigma**2)
        linear = jnp.mean((mean + slope * (noisy - alpha * mean) - clean) ** 2)
        squared = jnp.stack(
            [
                jnp.mean((jax.vmap(lambda x, n=n: n.denoise(x, t))(noisy) - clean) ** 2)
                for n in networks
            ]
        )
        return jnp.stack([squared, squared * (alpha / sigma) ** 2, squared / linear])

    keys = jax.random.split(key, len(levels))
    rows = [at(networks, jnp.asarray(each), k) for each, k in zip(levels, keys, strict=True)]
    found = np.asarray(rows, np.float64)
    return [DenoisingErrors(levels, *found[:, :, i].T) for i in range(len(networks))]


def check_data(data: ArrayLike, event_shape: tuple[int, ...]) -> Array:
    """Return clean events as an array, or say what is wrong with them."""
    clean = as_float(data)
    if clean.ndim == 0 or clean.shape[1:] != event_shape or len(clean) < 2:
        raise ValueError(
            f"`check_data` has shape {clean.shape}; it must be (n, *event_shape) with at least two "
            f"events of shape {event_shape}."
        )
    if not bool(jnp.all(jnp.isfinite(clean))):
        raise ValueError("`check_data` holds NaN or infinite values; all must be finite.")
    return clean


def check_prediction(network: ScoreNetwork, data: ArrayLike) -> None:
    """Refuse a network that denoises data by another prediction type than its own, or by none.

    One that is hardly better than the best linear guess is warned of.

    Raises
    ------
    ValueError
        If it does, or `data` are not as in `denoising_errors`.
    """
    clean = check_data(data, network.event_shape)[:_MAX_CHECKED]
    floor = float(network.noise.log_snr(network.min_time))
    levels = np.asarray([level for level in _LOG_SNRS if level < floor] or [floor])
    names = [network.prediction] if network.has_log_density else _TYPES
    networks = [replace(network, prediction=name) for name in names]
    errors = {
        name: np.nan_to_num(found.relative_error, nan=np.inf) + 1e-12
        for name, found in zip(
            names, _errors(networks, clean, levels, jax.random.key(0)), strict=True
        )
    }
    mean = {name: float(np.exp(np.mean(np.log(error)))) for name, error in errors.items()}
    best = min(mean, key=lambda name: mean[name])
    if mean[best] > _USELESS:
        raise ValueError(
            f"The network does not denoise `check_data` by any prediction type: its squared error "
            f"is {mean[network.prediction]:.3g} times that of the best linear guess with "
            f"prediction={network.prediction!r}, and {mean[best]:.3g} at best. The schedule, the "
            "times that it expects (`input_transform`) or the scale of the data are others."
        )
    ratio = errors[network.prediction] / errors[best]
    if np.max(ratio) > _CLEARLY:
        worst = int(np.argmax(ratio))
        raise ValueError(
            f"prediction={network.prediction!r} does not fit: at log-SNR {levels[worst]:g} the "
            f"squared error on `check_data` is {errors[network.prediction][worst]:.3g} times that "
            f"of the best linear guess, and {errors[best][worst]:.3g} with prediction={best!r}. "
            + (
                "Pass that, or check `noise`, the times (`input_transform`) and the data's scale."
                if mean[best] < _FITTING
                else "No type fits: check `noise`, the times that it expects (`input_transform`) "
                "and the scale of the data."
            )
        )
    if mean[network.prediction] > _DOUBTFUL:
        warnings.warn(
            f"The network denoises `check_data` hardly better than a linear guess (squared error "
            f"{mean[network.prediction]:.2f} times as large, over levels). If it is trained, then "
            "the schedule, the times that it expects (`input_transform`) or the data's scale are "
            "others.",
            stacklevel=4,
        )
