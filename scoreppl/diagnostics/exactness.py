"""What a run's draws are exact for, and which errors remain: one sentence for each kernel."""

import numpy as np

from scoreppl.diagnostics.run import Run
from scoreppl.target import Target

_ANNEALING = (
    "Draws are independent, so R-hat and ESS say nothing of the bias that incomplete annealing "
    "leaves. The check is a run with more levels and sweeps (num_levels, steps_per_level): the "
    "answer should not change."
)
_DISCRETISED = (
    "The discretised prior is the reverse process of as many steps: compare a run with more "
    "(num_steps). No conservative score is needed, so no loop defect is measured."
)
_PROPOSAL = (
    "Exact for the model's posterior, with any network: it only proposes. What remains to be asked "
    "is whether the chains mix."
)
_GUIDED = {
    "independence": (
        "Exact for the discretised prior, whatever the guidance: a Metropolis chain of independent "
        "paths.",
        _DISCRETISED,
    ),
    "always": (
        "Heuristic: guided paths as they come. Weighted by the extra field log_weight they are "
        "exact for the discretised prior.",
        _DISCRETISED,
    ),
}


def exactness(run: Run) -> tuple[str, ...]:
    """Return what holds for the run's draws, most important sentence first."""
    if run.target is None:
        return (
            f"{run.kernel} is not a kernel of this package: what its draws are exact for, and the "
            "loop defect of networks inside it (scoreppl.diagnostics.loop_defect), are not known "
            "here.",
        )
    if run.noise_levels is not None:
        end = f"noise sd {float(run.noise_levels[-1]):.2g} (data units)"
        return (_annealed(run, end), _ANNEALING)
    if run.inner == "proposal":
        return (_PROPOSAL,)
    if run.inner in _GUIDED:
        return _GUIDED[run.inner]
    if run.is_local:
        return (_local(run, run.target),)
    return (f"See the documentation of {run.kernel} for what its draws are exact for.",)


def _local(run: Run, target: Target) -> str:
    if not target.score_models:
        return "Exact: the model has no score site, so this is ordinary MCMC on its density."
    at = f"the target at {_noise(target)}"
    if run.networks:
        return (
            f'"MH-like" for {at}: the log-ratio of {_names(run.networks)} is a line integral of a '
            "network's score, exact for a conservative score alone. The law that the chain leaves "
            "invariant is not known, and a high acceptance is no evidence for it."
        )
    if np.any(run.field("log_ratio_error")):
        return f"Exact for {at} up to quadrature: the scores are gradients."
    return f"Exact for {at}: log-ratios are differences of the score models' own log densities."


def _annealed(run: Run, end: str) -> str:
    if run.inner == "custom":
        return "As exact at each level as the inner moves that were passed to the kernel."
    if run.inner == "split":
        return (
            f"Exact, once annealed, for p(u) w(u, theta) at {end}, up to the "
            "discretisation of short reverse diffusions, if the network's levels agree about p. "
            "No conservative score is needed, so no loop defect is measured."
        )
    if run.networks:
        return (
            f'"MH-like" at every level for {_names(run.networks)}: line integrals of a network\'s '
            "score are exact for a conservative score alone, jumps between modes up to the "
            "discretisation of their reverse steps. inner='split' needs no conservative score."
        )
    return (
        f"Moves are exact at every level, down to {end}: the score models have log "
        "densities. Jumps between modes are exact up to the discretisation of their reverse steps."
    )


def _noise(target: Target) -> str:
    scales = target.scales(target.floors)
    levels = ", ".join(f"{float(scale):.2g}" for scale in scales.values())
    return f"noise sd {levels} (data units)"


def _names(sites: tuple[str, ...]) -> str:
    return ", ".join(sites)
