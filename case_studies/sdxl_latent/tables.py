"""Tables of the study in Markdown."""

from collections.abc import Mapping

import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

from case_studies.sdxl_latent import surrogate
from case_studies.sdxl_latent.methods import Draws, Method
from case_studies.sdxl_latent.study import BEST_OF, Study
from case_studies.sdxl_latent.summary import (
    Curve,
    Estimate,
    Summary,
    at_equal_distance,
    best_of,
    summarise,
)
from case_studies.sdxl_latent.surrogate import Truth

REFUSED = "refused"
SURROGATE_HEAD = (
    "| tilt | method | mean | variance | distance of the law | of the paths | weighted mean "
    "| weighted variance | effective draws | Pareto k | log evidence less the truth "
    "| evaluations | backward |\n" + "|---" * 13 + "|"
)
METHOD_HEAD = (
    "| method | reward as it comes | distance | weighted reward | distance of the tilt "
    "| effective draws | Pareto k | log evidence | surely a digit | evaluations | backward "
    "| seconds |\n" + "|---" * 12 + "|"
)


def surrogate_rows(
    tilt: str, truth: Truth, drawn: Mapping[str, Draws], methods: Mapping[str, Method]
) -> list[str]:
    """Return the lines of one tilt of the Gaussian, the closed form first."""
    lines = [
        f"| {tilt} | closed form | {truth.mean:.2f} | {truth.variance:.2f} "
        f"| {truth.divergence:.2f} | {truth.divergence:.2f} | {truth.mean:.2f} "
        f"| {truth.variance:.2f} | | | 0 | | |"
    ]
    for name, draws in drawn.items():
        value = np.asarray(surrogate.along(draws.events))
        found = summarise(draws, value)
        far = surrogate.fitted_divergence(draws.events) - surrogate.fitted_bias(len(value))
        off = found.evidence._replace(value=found.evidence.value - truth.log_evidence)
        lines.append(
            f"| {tilt} | {name} | {_mean(found.reward)} | {_mean(found.variance)} | {far:.2f} "
            f"| {found.distance.text()} | {_weighted(found)} | {off.text(3, REFUSED)} "
            f"| {draws.evaluations:.0f} | {_backward(name, methods)} |"
        )
    return lines


def best_rows(reward: np.ndarray, sizes: tuple[int, ...]) -> list[str]:
    """Return lines of the best of N draws of the Gaussian, beside what theory says."""
    lines = ["| best of | mean predicted | mean | distance |\n|---|---|---|---|"]
    for size in sizes:
        found = best_of(reward, size)
        lines.append(
            f"| {size} | {expected_best(size):.3f} | {found.reward.text(3)} "
            f"| {found.distance:.2f} |"
        )
    return lines


def expected_best(size: int) -> float:
    """Return the mean of the largest of `size` standard normal numbers."""
    return quad(lambda z: z * size * norm.pdf(z) * norm.cdf(z) ** (size - 1), -10, 10)[0]


def method_table(study: Study, methods: Mapping[str, Method], certain: Mapping[str, float]) -> str:
    """Return the methods on the network at the main tilt.

    Parameters
    ----------
    study
        What was drawn.
    methods
        By name.
    certain
        By name, the share of pictures in which the judge is sure of a digit.
    """
    lines = [METHOD_HEAD]
    for name, draws in study.at(study.main).items():
        found = summarise(draws)
        share = f"{certain[name]:.2f}" if name in certain else ""
        far = "" if np.isnan(found.tilt_distance) else f"{found.tilt_distance:.2f}"
        ends = [share, f"{draws.evaluations:.0f}", _backward(name, methods), _seconds(draws)]
        weighted = found.weighted.text(3, REFUSED)
        lines.append(
            f"| {name} | {_mean(found.reward, 3)} | {found.distance.text()} | {weighted} | {far} "
            f"| {_effective(found)} | {found.evidence.text(2, REFUSED)} | {' | '.join(ends)} |"
        )
    for size in BEST_OF:
        found = best_of(study.plain.reward, size)
        cost, seconds = size * study.plain.evaluations, size * _per_thousand(study.plain)
        lines.append(
            f"| best of {size} | {found.reward.text(3)} | {found.distance:.2f} | | | | | "
            f"| | {cost:.0f} | no | {seconds:.0f} |"
        )
    plain, count = study.plain, len(next(iter(study.sweeps.values()))[0].reward)
    lines.append(
        f"\nTilt {study.main:.2f}; {count} draws of each method and {len(plain.reward)} plain "
        f"ones, whose rewards have mean {plain.reward.mean():.3f} and standard deviation "
        f"{plain.reward.std(ddof=1):.3f}. Evaluations are of one draw, seconds of 1,000."
    )
    return "\n".join(lines) + "\n"


def equal_table(
    curves: Mapping[str, Curve], first: str, distances: np.ndarray, frontier: bool = False
) -> str:
    """Return rewards at equal distance from the prior, each compared with the method `first`."""
    others = [name for name in curves if name != first]
    head = ["distance", *(["highest possible"] if frontier else []), first]
    head += [text for name in others for text in (name, f"{first} less {name}")]
    lines = [f"| {' | '.join(head)} |\n" + "|---" * len(head) + "|"]
    found = {name: at_equal_distance(curves[first], curves[name], distances) for name in others}
    for i, distance in enumerate(distances):
        cells = [f"{distance:g}", *([f"{np.sqrt(2 * distance):.2f}"] if frontier else [])]
        cells.append(found[others[0]][i][0].text(3, "not reached"))
        for name in others:
            _, other, difference = found[name][i]
            cells += [other.text(3, "not reached"), difference.text(3)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(estimate: Estimate, digits: int = 2) -> str:
    """Say a mean, alone where it has no error."""
    if np.isnan(estimate.error):
        return f"{estimate.value:.{digits}f}"
    return estimate.text(digits)


def _weighted(found: Summary) -> str:
    spread = REFUSED if np.isnan(found.weighted_variance) else f"{found.weighted_variance:.2f}"
    return f"{found.weighted.text(2, REFUSED)} | {spread} | {_effective(found)}"


def _effective(found: Summary) -> str:
    return f"{found.ess:.0f} | {found.pareto_k:.2f}"


def _backward(name: str, methods: Mapping[str, Method]) -> str:
    method = methods.get(name)
    return "yes" if method is not None and method.has_backward else "no"


def _per_thousand(draws: Draws) -> float:
    return 1_000 * draws.seconds / len(draws.reward)


def _seconds(draws: Draws) -> str:
    return f"{_per_thousand(draws):.0f}"
