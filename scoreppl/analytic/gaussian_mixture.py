"""The Gaussian mixture: exact at every noise level, under every noise schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from scoreppl.analytic.linear_gaussian import condition, whiten
from scoreppl.analytic.parameters import (
    component_log_weights,
    component_means,
    component_scales,
    component_spectrum,
)
from scoreppl.noise import Schedule, VPLinear, register_part
from scoreppl.noise.schedule import as_float
from scoreppl.score import reverse_diffusion
from scoreppl.solvers import Solver, multistep


@register_part
@dataclass(frozen=True, init=False, eq=False)
class GaussianMixture:
    r"""Mixture of Gaussians with closed-form score, density and draws at every noise level.

    With :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` the law of :math:`x_t` is the mixture

    .. math:: p_t = \sum_k w_k N(\alpha_t m_k, \alpha_t^2 C_k + \sigma_t^2 I).

    The covariances are kept as orthonormal axes and standard deviations along them, so that a
    noise level costs no matrix factorisation; diagonal components have no axes and never form a
    d x d matrix unless one is asked for.

    Parameters
    ----------
    means
        Component means, shape ``(K, *event)``; ``(K,)`` makes a mixture of scalars.
    covariances
        Full covariances of the flattened events, shape ``(K, d, d)`` with d the event size.
    weights
        Shape (K,), positive, of sum 1. Equal when not given.
    noise
        The noise schedule.
    scales
        Standard deviations of diagonal components, in place of `covariances`: one number, shape
        (K,), or shape ``(K, *event)``.

    Attributes
    ----------
    means
        Shape ``(K, *event)``.
    log_weights
        Shape (K,), normalised.
    scales
        Standard deviations along the axes, shape ``(K, *event)``.
    axes
        Orthonormal columns, shape ``(K, d, d)``; None for diagonal components.
    noise
        The noise schedule.

    Raises
    ------
    ValueError
        If shapes do not agree, a value is not finite, the weights are not a probability vector,
        a covariance is not symmetric positive definite, or not exactly one of `covariances` and
        `scales` is given. Traced values that break these rules give NaN results.

    Notes
    -----
    All methods take ONE event; use `jax.vmap` for batches. ``t=None`` stands for the clean law
    of :math:`x_0`, which schedules such as VE and EDM do not reach even at t = 0.
    """

    means: Array
    log_weights: Array
    scales: Array
    axes: Array | None
    noise: Schedule

    def __init__(
        self,
        means: ArrayLike,
        covariances: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        noise: Schedule = VPLinear(),
        *,
        scales: ArrayLike | None = None,
    ) -> None:
        checked_means = component_means(means)
        if covariances is not None and scales is None:
            checked_scales, axes = component_spectrum(covariances, checked_means)
        elif scales is not None and covariances is None:
            checked_scales, axes = component_scales(scales, checked_means), None
        else:
            raise ValueError(
                "Give exactly one of `covariances` (full) and `scales` (standard deviations of "
                "diagonal components)."
            )
        self._set(
            means=checked_means,
            log_weights=component_log_weights(weights, checked_means),
            scales=checked_scales,
            axes=axes,
            noise=noise,
        )

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.means.shape[1:]

    @property
    def min_time(self) -> float:
        """The smallest time at which the score is valid: 0."""
        return 0.0

    @property
    def has_log_density(self) -> bool:
        """Whether `log_prob` can be called: True."""
        return True

    @property
    def weights(self) -> Array:
        """Component weights, shape (K,)."""
        return jnp.exp(self.log_weights)

    @property
    def covariances(self) -> Array:
        """Component covariances of the flattened events, shape ``(K, d, d)``."""
        variances = self._flat(self.scales) ** 2
        if self.axes is None:
            return jax.vmap(jnp.diag)(variances)
        return _einsum("kis,ks,kjs->kij", self.axes, variances, self.axes)

    def moments(self) -> tuple[Array, Array]:
        """Return the mean, shape ``event``, and the covariance of x_0, ``(*event, *event)``."""
        mean, variances = self._mean(), self._flat(self.scales) ** 2
        deviations = self._flat(self.means - mean)
        between = _einsum("k,ki,kj->ij", self.weights, deviations, deviations)
        if self.axes is None:
            within = jnp.diag(_einsum("k,ki->i", self.weights, variances))
        else:
            within = _einsum("k,kis,ks,kjs->ij", self.weights, self.axes, variances, self.axes)
        return mean, (within + between).reshape(self.event_shape * 2)

    def log_prob(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Return the normalised log density of x_t (of x_0 for ``t=None``) at `x`."""
        return logsumexp(self._component_log_probs(*self._along_axes(x, t)))

    def mode_probabilities(self, x: ArrayLike, t: ArrayLike | None = None) -> Array:
        """Return the probability of each component given x_t, shape (K,)."""
        return jax.nn.softmax(self._component_log_probs(*self._along_axes(x, t)))

    def score(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the gradient of ``log_prob(x, t)`` in `x`, finite at every t."""
        displacements, variances = self._along_axes(x, t)
        probabilities = jax.nn.softmax(self._component_log_probs(displacements, variances))
        scores = self._from_axes(-displacements / variances)
        return _einsum("k,ki->i", probabilities, scores).reshape(self.event_shape)

    def denoise(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the mean of x_0 given x_t = `x`, finite at every t."""
        return self.posterior_given(x, t)._mean()

    def covariance(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Return the covariance of x_0 given x_t = `x`, shape ``(*event, *event)``."""
        return self.posterior_given(x, t).moments()[1]

    def posterior_given(self, x: ArrayLike, t: ArrayLike) -> "GaussianMixture":
        """Return the law of x_0 given x_t = `x`, a mixture on the same axes.

        Where sigma_t = 0 it is the point mass at `x`: its draws and moments are right, its
        density is NaN.
        """
        alpha, sigma = self._level(t)
        displacements, variances = self._along_axes(x, t)
        logits = self._component_log_probs(displacements, variances)
        scales = self._flat(self.scales)
        means = self._flat(self.means) + self._from_axes(
            alpha * scales**2 / variances * displacements
        )
        return self._with_components(
            means, jax.nn.log_softmax(logits), scales * sigma / jnp.sqrt(variances), self.axes
        )

    def posterior(
        self, A: ArrayLike, y: ArrayLike, noise_covariance: ArrayLike
    ) -> tuple["GaussianMixture", Array]:
        """Condition x_0 on the linear observation ``y = A x_0 + N(0, noise_covariance)``.

        Parameters
        ----------
        A
            Shape ``(*y.shape, *event)``, or ``(y.size, d)`` acting on flattened events.
        y
            The observation, any shape.
        noise_covariance
            One variance, a variance per entry (the shape of `y`), or a matrix of shape
            ``(y.size, y.size)``.

        Returns
        -------
        GaussianMixture
            The law of x_0 given y, with full covariances and this mixture's noise schedule.
        Array
            Log evidence: log of the normalised density of y.

        Raises
        ------
        ValueError
            If the shapes do not agree, a value is not finite, or `noise_covariance` is not
            positive definite.
        """
        scales = self._flat(self.scales)
        observation = whiten(A, y, noise_covariance, self.event_shape, scales.dtype)
        factors = jax.vmap(jnp.diag)(scales) if self.axes is None else self.axes * scales[:, None]
        # One component after another: jaxlib 0.10 hangs on a thousand at once, as said in
        # `scoreppl.linear_algebra`, whose functions have no reverse derivatives.
        parts = jax.lax.map(
            lambda part: condition(part[0], part[1], observation),
            (self._flat(self.means), factors),
        )
        logits = self.log_weights + parts.log_evidence
        log_weights = jax.nn.log_softmax(logits)
        posterior = self._with_components(parts.mean, log_weights, parts.scales, parts.axes)
        return posterior, logsumexp(logits)

    def sample_exact(
        self, key: Array, shape: tuple[int, ...] = (), t: ArrayLike | None = None
    ) -> Array:
        """Return exact independent draws of x_t (of x_0 for ``t=None``), ``(*shape, *event)``."""
        alpha, sigma = self._level(t)
        component_key, normal_key = jax.random.split(key)
        chosen = jax.random.categorical(component_key, self.log_weights, shape=(math.prod(shape),))
        means = self._flat(self.means)
        normal = jax.random.normal(normal_key, (chosen.shape[0], means.shape[1]), means.dtype)
        deviations = jnp.sqrt((alpha * self._flat(self.scales)) ** 2 + sigma**2)
        draws = alpha * means[chosen] + deviations[chosen] * normal
        if self.axes is not None:
            # One component at a time: gathering a d x d matrix for every draw would not fit.
            def add(total: Array, component: tuple[Array, ...]) -> tuple[Array, None]:
                index, mean, deviation, axes = component
                drawn = alpha * mean + _einsum("ij,nj->ni", axes, deviation * normal)
                return jnp.where((chosen == index)[:, None], drawn, total), None

            components = (jnp.arange(means.shape[0]), means, deviations, self.axes)
            draws, _ = jax.lax.scan(add, jnp.zeros_like(normal), components)
        return draws.reshape(shape + self.event_shape)

    def sample(
        self,
        key: Array,
        sample_shape: tuple[int, ...] = (),
        *,
        num_steps: int = 100,
        solver: Solver = multistep,
        spacing: str | ArrayLike | Sequence[float] = "logsnr",
    ) -> Array:
        """Draw x_0 by reverse diffusion, with its errors; `sample_exact` has none."""
        return reverse_diffusion(
            self, key, sample_shape, num_steps=num_steps, solver=solver, spacing=spacing
        )

    def _with_components(
        self, means: Array, log_weights: Array, scales: Array, axes: Array | None
    ) -> "GaussianMixture":
        # Past the checks: these may be traced, and the components of a posterior are valid.
        mixture, shape = object.__new__(type(self)), self.means.shape
        mixture._set(
            means=means.reshape(shape),
            log_weights=log_weights,
            scales=scales.reshape(shape),
            axes=axes,
            noise=self.noise,
        )
        return mixture

    def _flat(self, components: Array) -> Array:
        return components.reshape(components.shape[0], -1)

    def _mean(self) -> Array:
        return _einsum("k,ki->i", self.weights, self._flat(self.means)).reshape(self.event_shape)

    def _level(self, t: ArrayLike | None) -> tuple[Array, Array]:
        if t is None:
            return jnp.asarray(1.0), jnp.asarray(0.0)
        if np.shape(t) != ():
            raise ValueError(f"`t` has shape {np.shape(t)} and must be a scalar; use `jax.vmap`.")
        return self.noise(t)

    def _along_axes(self, x: ArrayLike, t: ArrayLike | None) -> tuple[Array, Array]:
        """Displacements of x_t from each component along its axes and their variances, (K, d)."""
        if np.shape(x) != self.event_shape:
            raise ValueError(
                f"`x` has shape {np.shape(x)}, one event has shape {self.event_shape}; use "
                "`jax.vmap` for batches."
            )
        alpha, sigma = self._level(t)
        displacements = as_float(x).ravel() - alpha * self._flat(self.means)
        if self.axes is not None:
            displacements = _einsum("kij,ki->kj", self.axes, displacements)
        return displacements, (alpha * self._flat(self.scales)) ** 2 + sigma**2

    def _from_axes(self, coordinates: Array) -> Array:
        return coordinates if self.axes is None else _einsum("kij,kj->ki", self.axes, coordinates)

    def _component_log_probs(self, displacements: Array, variances: Array) -> Array:
        """Log of weight times density of x_t for each component, shape (K,)."""
        exponents = jnp.sum(displacements**2 / variances + jnp.log(variances), axis=1)
        return self.log_weights - 0.5 * (exponents + variances.shape[1] * math.log(2 * math.pi))


def _einsum(subscripts: str, *operands: Array) -> Array:
    # Accelerators round the inputs of float32 products unless told not to.
    return jnp.einsum(subscripts, *operands, precision="highest")
