"""What diagnostics read off a finished run of NumPyro's ``MCMC``.

The object is taken as it comes, by its attributes: this layer knows no NumPyro. Kernels of this
package are told from others by their ``target(*args, **kwargs)``, annealed ones by their
``noise_levels(*args, **kwargs)``, local ones by the ``adapt_state`` of their chain's state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.diagnostics.level import Start
from scoreppl.mcmc.trajectory import ScoreState, target_builder, unpack
from scoreppl.target import Target


class Run(NamedTuple):
    """A finished run.

    Attributes
    ----------
    kernel
        Name of the kernel's class.
    num_chains, num_draws
        Chains, and draws kept of each.
    samples
        Constrained values by site, leading axes chain and draw.
    fields
        Extra fields, with the same axes.
    state
        Last state, always with a leading axis over chains.
    target
        Score models and weight for the run's arguments; None for kernels of other packages.
    noise_levels
        Noise standard deviations in data units of an annealed kernel, noisiest first, or None.
    inner
        What an annealed kernel does at a level: ``"split"``, ``"mala"``, ``"hmc"`` or
        ``"custom"``; how guided paths are accepted: ``"independence"`` or ``"always"``;
        ``"proposal"`` where a network only proposes; None for other kernels.
    thinning
        Draws made for each one kept.
    builds_trees
        Whether transitions differ in length, as those of NUTS.
    """

    kernel: str
    num_chains: int
    num_draws: int
    samples: dict[str, np.ndarray]
    fields: dict[str, np.ndarray]
    state: Any
    target: Target | None
    noise_levels: np.ndarray | None
    inner: str | None
    thinning: int
    builds_trees: bool

    @property
    def is_local(self) -> bool:
        """Whether the kernel is one of local moves at one noise level."""
        return self.target is not None and hasattr(self.state, "adapt_state")

    @property
    def networks(self) -> tuple[str, ...]:
        """Score sites whose model has no log density."""
        if self.target is None:
            return ()
        models = self.target.score_models
        return tuple(name for name, model in models.items() if not model.has_log_density)

    def field(self, name: str) -> np.ndarray | None:
        """Return an extra field, or failing that its value in the last state, or None."""
        if name in self.fields:
            return self.fields[name]
        value = getattr(self.state, name, None)
        return None if value is None else np.asarray(value)

    def evaluations_per_draw(self) -> float | None:
        """Return the score evaluations a draw, or None if they vary and were not recorded."""
        counts = self.field("num_score_evaluations")
        if counts is None:
            return None
        recorded = "num_score_evaluations" in self.fields
        return float(np.mean(counts)) if recorded or not self.builds_trees else None

    def score_evaluations(self) -> int | None:
        """Return the score evaluations of all draws after warm-up, thinned ones included."""
        per_draw = self.evaluations_per_draw()
        draws = self.num_chains * self.num_draws * self.thinning
        return None if per_draw is None else round(per_draw * draws)


def read_run(mcmc: Any) -> Run:
    """Read a run off an ``MCMC`` object.

    Raises
    ------
    ValueError
        If `mcmc` is no such object, has not been run, or holds no named sites.
    """
    needed = ("sampler", "get_samples", "get_extra_fields", "last_state")
    missing = [name for name in needed if not hasattr(mcmc, name)]
    if missing:
        raise ValueError(
            f"`mcmc` of type {type(mcmc).__name__} has no {', '.join(missing)}; pass the "
            "numpyro.infer.MCMC object after its run."
        )
    if mcmc.last_state is None:
        raise ValueError("`mcmc` has not been run; call mcmc.run(key, ...) first.")
    samples = jax.device_get(mcmc.get_samples(group_by_chain=True))
    if not isinstance(samples, dict) or not samples:
        raise ValueError("`mcmc` holds no samples by site name; run it on a NumPyro model.")
    samples = {name: np.asarray(value) for name, value in samples.items()}
    chains, draws = next(iter(samples.values())).shape[:2]
    kernel = mcmc.sampler
    # NumPyro keeps the arguments of the last run there; ArviZ reads them in the same way.
    args, kwargs = mcmc._args, mcmc._kwargs
    target = kernel.target(*args, **kwargs) if hasattr(kernel, "target") else None
    is_annealed = target is not None and hasattr(kernel, "noise_levels")
    fields = jax.device_get(mcmc.get_extra_fields(group_by_chain=True))
    return Run(
        kernel=type(kernel).__name__,
        num_chains=chains,
        num_draws=draws,
        samples=samples,
        fields={name: np.asarray(v) for name, v in fields.items() if hasattr(v, "shape")},
        state=_with_chain_axis(mcmc.last_state),
        target=target,
        noise_levels=np.asarray(kernel.noise_levels(*args, **kwargs)) if is_annealed else None,
        inner=_inner_name(kernel, target, is_annealed),
        thinning=int(getattr(mcmc, "thinning", 1)),
        # As ArviZ tells them.
        builds_trees=hasattr(kernel, "_max_tree_depth"),
    )


def _inner_name(kernel: Any, target: Target | None, is_annealed: bool) -> str | None:
    if target is not None and hasattr(kernel, "networks"):
        return "proposal"
    if target is not None and hasattr(kernel, "_accept"):
        return kernel._accept or "always"
    if target is None or not is_annealed:
        return None
    inner = getattr(kernel, "_inner", None)
    if inner is None:
        return "hmc" if target.has_log_density else "split"
    return inner if isinstance(inner, str) else "custom"


def _with_chain_axis(state: Any) -> Any:
    """Give the state of a single chain the leading axis that several chains have."""
    if np.ndim(getattr(state, "i", np.zeros(1))) > 0:
        return state
    return jax.tree.map(lambda leaf: leaf[None], state)


def last_positions(run: Run, target: Target) -> tuple[Start, Callable[[Array], Any]]:
    """Return the last states of a local kernel as starts of its own moves, and ``unravel``.

    Step size and preconditioner are averaged over chains.
    """
    tuning = run.state.adapt_state
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], run.state.z))[1]
    points = jax.vmap(lambda z: ravel_pytree(z)[0])(run.state.z)
    law = target_builder(
        lambda z: target.score(z, target.floors),
        target.log_weight,
        log_density_fn=None,
        quadrature="simpson",
        batch_nodes=True,
    )(unravel)
    at = run.state
    known = ScoreState(at.z, at.prior_score, at.log_weight, at.weight_gradient)
    start = Start(
        law,
        points,
        jax.vmap(lambda state: unpack(state)[2])(known),
        jnp.mean(tuning.step_size),
        jnp.mean(tuning.inverse_mass_matrix, axis=0),
    )
    return start, unravel
