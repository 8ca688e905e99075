"""ScoreMALA, ScoreHMC and ScoreNUTS: local moves of all latents jointly, at one noise level.

Score sites move at their noise level in data units, ordinary latents unconstrained. The
acceptance takes the prior's log-ratio from the integral of its score along the path and
everything else in the model exactly. There is no energy and no log density to report.
"""

from functools import partial

from jax import Array

from scoreppl import mcmc
from scoreppl.line_integral import Quadrature
from scoreppl.ppl.local import LocalKernel
from scoreppl.ppl.potential import Model


class ScoreMALA(LocalKernel):
    """Metropolis-adjusted Langevin on a model with score sites; the local kernel for networks.

    Parameters
    ----------
    model
        NumPyro model with `ScorePrior` sites.
    noise_level
        Time at which the score sites are sampled; default: each site's own.
    quadrature
        Rule for the log-ratio: a name or a `scoreppl.line_integral.Quadrature`. None takes the
        exact log density where every score site has one (energy networks, analytic models) and
        Simpson's rule otherwise.
    step_size
        Initial leapfrog step; the Langevin step is half its square.
    inverse_mass_matrix
        Initial preconditioner, ``(d,)`` or ``(d, d)`` in the order of ``ravel_pytree``.
    adapt_step_size, adapt_mass_matrix
        Whether warm-up tunes them (dual averaging, Stan's windows).
    dense_mass
        Full instead of diagonal preconditioner.
    target_accept_prob
        Acceptance that warm-up aims at. Lower values make steps so long in one or two dimensions
        that the error of Simpson's rule shows: on a bimodal scalar prior the standard deviation
        came out 14 % too large at 0.6, within 1 % at 0.8.
    batch_nodes
        Evaluate quadrature nodes in one batched network call; False saves memory.

    Notes
    -----
    Extra fields: ``accept_prob``, ``diverging``, ``is_nan``, ``log_ratio``, ``log_ratio_error``,
    ``num_steps``, ``num_score_evaluations``, ``adapt_state.step_size``. Exact for a conservative
    score up to quadrature; on a network "MH-like" (arXiv:2307.14012): the invariant law is not
    known, and `sp.diagnostics.report` says how far from conservative the network is.
    """

    def __init__(
        self,
        model: Model,
        *,
        noise_level: float | None = None,
        quadrature: str | Quadrature | None = None,
        step_size: float = 0.1,
        inverse_mass_matrix: Array | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: bool = False,
        target_accept_prob: float = 0.8,
        batch_nodes: bool = True,
    ) -> None:
        super().__init__(
            model,
            partial(mcmc.hmc, num_integration_steps=1),
            noise_level=noise_level,
            quadrature=quadrature,
            step_size=step_size,
            inverse_mass_matrix=inverse_mass_matrix,
            adapt_step_size=adapt_step_size,
            adapt_mass_matrix=adapt_mass_matrix,
            dense_mass=dense_mass,
            target_accept_prob=target_accept_prob,
            batch_nodes=batch_nodes,
        )


class ScoreHMC(LocalKernel):
    """Hamiltonian Monte Carlo on a model with score sites.

    Parameters
    ----------
    model, noise_level, quadrature, step_size, inverse_mass_matrix, adapt_step_size, \
adapt_mass_matrix, dense_mass, target_accept_prob, batch_nodes
        As in `ScoreMALA`.
    num_steps
        Leapfrog steps a transition.

    Notes
    -----
    Warns on networks: along a trajectory the network's curl enters the acceptance, by tenths of
    a nat and more on the networks that were measured.
    """

    warns_on_networks = True

    def __init__(
        self,
        model: Model,
        *,
        num_steps: int = 10,
        noise_level: float | None = None,
        quadrature: str | Quadrature | None = None,
        step_size: float = 0.1,
        inverse_mass_matrix: Array | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: bool = False,
        target_accept_prob: float = 0.8,
        batch_nodes: bool = True,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"`num_steps={num_steps}` must be at least 1.")
        super().__init__(
            model,
            partial(mcmc.hmc, num_integration_steps=num_steps),
            noise_level=noise_level,
            quadrature=quadrature,
            step_size=step_size,
            inverse_mass_matrix=inverse_mass_matrix,
            adapt_step_size=adapt_step_size,
            adapt_mass_matrix=adapt_mass_matrix,
            dense_mass=dense_mass,
            target_accept_prob=target_accept_prob,
            batch_nodes=batch_nodes,
        )


class ScoreNUTS(LocalKernel):
    """The No-U-Turn sampler on a model with score sites.

    Parameters
    ----------
    model, noise_level, quadrature, step_size, inverse_mass_matrix, adapt_step_size, \
adapt_mass_matrix, dense_mass, target_accept_prob, batch_nodes
        As in `ScoreMALA`.
    max_tree_depth
        Greatest depth of the tree.

    Notes
    -----
    Warns on networks, as `ScoreHMC` does and for the same reason.
    """

    warns_on_networks = True

    def __init__(
        self,
        model: Model,
        *,
        max_tree_depth: int = 10,
        noise_level: float | None = None,
        quadrature: str | Quadrature | None = None,
        step_size: float = 0.1,
        inverse_mass_matrix: Array | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: bool = False,
        target_accept_prob: float = 0.8,
        batch_nodes: bool = True,
    ) -> None:
        if max_tree_depth < 1:
            raise ValueError(f"`max_tree_depth={max_tree_depth}` must be at least 1.")
        super().__init__(
            model,
            partial(mcmc.nuts, max_num_doublings=max_tree_depth),
            noise_level=noise_level,
            quadrature=quadrature,
            step_size=step_size,
            inverse_mass_matrix=inverse_mass_matrix,
            adapt_step_size=adapt_step_size,
            adapt_mass_matrix=adapt_mass_matrix,
            dense_mass=dense_mass,
            target_accept_prob=target_accept_prob,
            batch_nodes=batch_nodes,
        )
        # ArviZ and the report tell kernels that build trees by this name, which is NUTS's own.
        self._max_tree_depth = max_tree_depth
