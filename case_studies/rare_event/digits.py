"""How often a network of digits draws one that a classifier is torn about, between 3 and 8.

The event is that both classes have a probability of more than 0.4. It has no known probability:
plain draws of the same discretised law tell it. There are three such laws, of one network: that of
paths of `NUM_STEPS` steps with the variance of a level, that of the deterministic flow, and that of
the score at the lowest noise, which the moves of the methods by levels leave invariant.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm
from scipy.stats import beta

from case_studies.augmentation.classifier import load, log_probabilities
from case_studies.rare_event.methods import Estimates, by_design_point, by_rare_event
from scoreppl import pretrained
from scoreppl.estimators import GuidedPaths, Splitting, rare_event
from scoreppl.guidance import Guided, LineSearch, Unguided, View
from scoreppl.score import ScoreModel, flow_map

FIRST, SECOND, LEAST = 3, 8, 0.4
NUM_STEPS, FLOW_STEPS, NUM_PILOTS = 16, 10, 64
# Paths of a run, which is refused if none of them meets the event; points of the flow at a time.
PATH_BLOCK, FLOW_BLOCK = 10_000, 1_000


class Plain(NamedTuple):
    """Plain draws of a law: how many met the event, of how many, at how many evaluations."""

    met: int
    num_draws: int
    evaluations: int

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of 95 % for the probability (Clopper and Pearson)."""
        met, missed = self.met, self.num_draws - self.met
        return float(beta.ppf(0.025, met, missed + 1)), float(beta.ppf(0.975, met + 1, missed))


class Smoothed(NamedTuple):
    """Guidance by the gradient of log Phi(g / width): a limit state seen with an error.

    The indicator has no gradient to follow. Weights of paths are those of the indicator whatever
    guides them.
    """

    limit_state: Callable[[Array], Array]
    width: float = 1.0
    needs_gradient = True

    def __call__(self, u: Array, view: View) -> Guided:
        """Take the step of a line search."""
        smooth = view._replace(log_weight=lambda x: norm.logcdf(self.limit_state(x) / self.width))
        return LineSearch()(u, smooth)

    def num_score_evaluations(self, size: int) -> int:
        """Score evaluations a step."""
        return LineSearch().num_score_evaluations(size)


def torn(x: Array) -> Array:
    """Limit state of one image."""
    found = log_probabilities(load(), jnp.reshape(x, (8, 8)))
    return jnp.minimum(found[FIRST], found[SECOND]) - jnp.log(LEAST)


def plain_paths(key: Array, network: ScoreModel, num_draws: int) -> Plain:
    """Draw paths that nothing guides: the law that guided paths without a covariance weigh."""
    method = GuidedPaths(
        PATH_BLOCK, NUM_STEPS, guidance=lambda g: Unguided(), num_pilots=NUM_PILOTS
    )  # fmt: skip
    found = rare_event(key, network, torn, method=method, num_runs=-(-num_draws // PATH_BLOCK))
    weights = found.draws.log_weight
    return Plain(int(np.isfinite(weights).sum()), len(weights), found.num_score_evaluations)


def plain_flow(key: Array, network: ScoreModel, num_draws: int) -> Plain:
    """Draw normal numbers and take them through the flow."""
    flow = flow_map(network, num_steps=FLOW_STEPS)

    @jax.jit
    def block(key: Array) -> Array:
        numbers = jax.random.normal(key, (FLOW_BLOCK, *network.event_shape))
        return jnp.sum(jax.vmap(lambda z: torn(flow(z)) > 0)(numbers))

    blocks = -(-num_draws // FLOW_BLOCK)
    met = sum(int(block(each)) for each in jax.random.split(key, blocks))
    return Plain(met, blocks * FLOW_BLOCK, blocks * FLOW_BLOCK * FLOW_STEPS)


def run_digits(
    num_estimates: int, num_plain: int
) -> tuple[dict[str, Plain], dict[str, Estimates | None]]:
    """Return plain draws by law, and estimates by method, half of them where runs pool."""
    network, key = pretrained.load("digits8"), jax.random.key(0)
    plain = {
        "paths": plain_paths(key, network, num_plain),
        "flow": plain_flow(key, network, num_plain),
    }
    methods = {
        "subset simulation": Splitting(num_particles=100, num_moves=5, share=0.5),
        "subset simulation in the flow's noise": Splitting(
            num_particles=100, num_moves=2, share=0.5, flow_steps=FLOW_STEPS
        ),
        "guided paths": GuidedPaths(
            300, NUM_STEPS, guidance=Smoothed, num_pilots=NUM_PILOTS
        ),
    }  # fmt: skip
    found: dict[str, Estimates | None] = {}
    for name, method in methods.items():
        count = num_estimates // (1 if name == "guided paths" else 2)
        try:
            found[name] = by_rare_event(network, torn, method, key, count)
        except ValueError:  # a run that did not reach the event
            found[name] = None
    form, sampled = by_design_point(network, torn, FLOW_STEPS, key, num_estimates)
    return plain, found | {"FORM": form, "sampling at the design point": sampled}
