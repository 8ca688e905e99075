"""What draws of a method say: reward, distance from the prior, weights, evidence, cost."""

import warnings
from typing import NamedTuple

import numpy as np

from case_studies.sdxl_latent.methods import Draws
from scoreppl.estimators import expectation, log_evidence, psis, weighted_draws

NUM_BOOTSTRAPS = 400


class Estimate(NamedTuple):
    """A value with its standard error; both NaN where there is none."""

    value: float
    error: float

    def text(self, digits: int = 2, otherwise: str = "") -> str:
        """Say it in Markdown."""
        if np.isnan(self.value):
            return otherwise
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


NOTHING = Estimate(np.nan, np.nan)


class Summary(NamedTuple):
    """Of one method at one tilt.

    Attributes
    ----------
    reward, variance
        Mean and variance of the reward of draws as they come.
    distance
        E[log q / p] of the paths as they come, an upper bound of how far their ends are from the
        prior; none for resampled particles.
    weighted, weighted_variance
        Under the weights, where 10 draws are effective.
    tilt_distance
        Of the tilted law from the prior, by the weights.
    evidence
        Log evidence, where 10 draws are effective.
    ess, pareto_k
        Effective draws, and the shape of the weights' tail; above 0.7 the weighted values are
        unreliable.
    """

    reward: Estimate
    variance: Estimate
    distance: Estimate
    weighted: Estimate
    weighted_variance: float
    tilt_distance: float
    evidence: Estimate
    ess: float
    pareto_k: float


def mean(values: np.ndarray) -> Estimate:
    """Return the mean of independent values."""
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def log_path_ratio(draws: Draws) -> np.ndarray:
    """Return log q / p of each path, of the law that it was drawn from and of the prior."""
    return draws.tilt * draws.reward - draws.log_weight


def summarise(draws: Draws, value: np.ndarray | None = None) -> Summary:
    """Return what the draws say of `value`, the reward where none is given."""
    value = draws.reward if value is None else value
    is_resampled = np.isfinite(draws.log_evidence)
    # Resampled particles are no independent draws: their error would be wrong.
    reward = Estimate(value.mean(), np.nan) if is_resampled else mean(value)
    squares = (value - value.mean()) ** 2
    distance = NOTHING if is_resampled else mean(log_path_ratio(draws))
    share = np.exp(draws.log_weight - np.logaddexp.reduce(draws.log_weight))
    ess, pareto_k = float(1 / np.sum(share**2)), psis(draws.log_weight)[1]
    weighted, spread, tilt_distance, evidence = NOTHING, np.nan, np.nan, NOTHING
    if ess >= 10.0:
        found = weighted_draws({"value": value}, draws.log_weight, cluster=draws.cluster)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pareto k is reported
            first = expectation(value, found)
            evidence = Estimate(draws.log_evidence, draws.log_evidence_error)
            if not is_resampled:
                evidence = Estimate(*log_evidence(draws.log_weight)[:2])
        weighted = Estimate(float(first.value), float(first.standard_error))
        spread = float(share @ (value - weighted.value) ** 2)
        tilt_distance = draws.tilt * float(share @ draws.reward) - evidence.value
    return Summary(
        reward, mean(squares), distance, weighted, spread, tilt_distance, evidence, ess, pareto_k
    )


class Best(NamedTuple):
    """The best of N plain draws: its mean reward, its distance from the prior, and its places."""

    reward: Estimate
    distance: float
    chosen: np.ndarray


def best_of(reward: np.ndarray, size: int) -> Best:
    """Take the best of each `size` draws; its law is log N - (N - 1) / N from the prior.

    That is exact where no two draws have the same reward (Beirami et al., arXiv:2401.01879).
    """
    groups = reward[: len(reward) // size * size].reshape(-1, size)
    chosen = groups.argmax(1) + size * np.arange(len(groups))
    return Best(mean(reward[chosen]), float(np.log(size) - (size - 1) / size), chosen)


class Curve(NamedTuple):
    """Rewards and log path ratios of one method by strength, shape ``(strengths, n)``, weak first.

    The first row is the prior's own draws, at distance zero.
    """

    reward: np.ndarray
    log_ratio: np.ndarray

    def at(self, distances: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return mean rewards at distances, of chosen draws; NaN beyond where the method went.

        Between strengths the reward is taken as linear in the root of the distance, as it is for
        a Gaussian.
        """
        far = np.maximum.accumulate(np.maximum(self.log_ratio[:, chosen].mean(1), 0.0))
        reward = self.reward[:, chosen].mean(1)
        return np.interp(np.sqrt(distances), np.sqrt(far), reward, right=np.nan)


def curve(plain: np.ndarray, sweep: list[Draws]) -> Curve:
    """Put a sweep together, after the rewards of plain draws from the same noise."""
    nothing = np.zeros_like(plain)
    return Curve(
        np.stack([plain, *(draws.reward for draws in sweep)]),
        np.stack([nothing, *(log_path_ratio(draws) for draws in sweep)]),
    )


def at_equal_distance(
    first: Curve, second: Curve, distances: np.ndarray
) -> list[tuple[Estimate, Estimate, Estimate]]:
    """Return rewards of both at each distance, and their difference, by a paired bootstrap.

    Draws of the same number start from the same noise and are resampled together.
    """
    rng, size = np.random.default_rng(0), first.reward.shape[1]
    every = np.arange(size)
    values = np.stack([one.at(distances, every) for one in (first, second)])
    repeats = []
    for _ in range(NUM_BOOTSTRAPS):
        chosen = rng.integers(0, size, size)
        repeats.append([one.at(distances, chosen) for one in (first, second)])
    spread = np.asarray(repeats)
    both = np.concatenate([values, values[:1] - values[1:]])
    differences = np.concatenate([spread, spread[:, :1] - spread[:, 1:]], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a distance that no repeat reached
        errors = np.nanstd(differences, axis=0, ddof=1)
    return [
        (Estimate(*a), Estimate(*b), Estimate(*c))
        for a, b, c in np.moveaxis(np.stack([both, errors], -1), 1, 0)
    ]
