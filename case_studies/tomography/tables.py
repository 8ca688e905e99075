"""The study's tables."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from case_studies.galaxies.coverage import allowed
from case_studies.tomography.metrics import (
    LEVELS,
    Share,
    coverage,
    crps,
    mean_and_error,
    psnr,
    psnr_of_exact_mean,
    quantities,
)
from case_studies.tomography.scenes import Scene
from case_studies.tomography.study import OURS, Found

if TYPE_CHECKING:
    from case_studies.tomography.peers import Peer


# DPS is guided by the norm of the residual, whatever the noise.
NOISE_SCALE = {OURS: "unknown", "DPS": "not used"}


class Judged(NamedTuple):
    """One set of digits with every method's draws.

    Attributes
    ----------
    title
        Of the set.
    scene
        Digits and their sinograms; a method may have seen the first ones alone.
    found
        Draws by method.
    images
        The same draws with the truths' pixel noise, shape ``(digits, draws, size, size)``.
    clean
        The digits without it where they are known, else None.
    """

    title: str
    scene: Scene
    found: Found
    images: dict[str, np.ndarray]
    clean: np.ndarray | None = None


def errors(judged: Judged) -> str:
    """Return how far the methods are from the truth on the digits that all saw, and the cost."""
    lines = [
        "| method | noise scale | PSNR of the mean | ours less this, digit by digit "
        "| PSNR of the mean of infinitely many | ours less this | PSNR of one draw "
        "| CRPS, pixels | CRPS, total ink | evaluations a draw | seconds a digit |",
        "|---" * 11 + "|",
    ]
    count = min(len(each) for each in judged.found.values())
    truth, asked = judged.scene.images[:count], quantities()
    best: dict[str, tuple[np.ndarray, ...]] = {}
    for name, each in judged.found.items():
        drawn = np.stack([one.images for one in each[:count]])
        best[name] = psnr(drawn.mean(1), truth), psnr_of_exact_mean(drawn, truth)
        scores = [
            mean_and_error(
                np.stack([
                    crps(of(draws), of(image)).mean()
                    for draws, image in zip(judged.images[name][:count], truth, strict=True)
                ])
            )
            for of in (asked["pixels"], asked["total ink"])
        ]  # fmt: skip
        decibels = []
        for ours, value in zip(best[OURS], best[name], strict=True):
            behind = mean_and_error(ours - value)
            decibels += [
                _pm(mean_and_error(value), 2),
                "" if name == OURS else f"{behind.mean:+.2f} ± {behind.error:.2f}",
            ]
        cells = [
            name, NOISE_SCALE.get(name, "given"), *decibels,
            _pm(mean_and_error(psnr(drawn[:, 0], truth)), 2), _pm(scores[0], 4), _pm(scores[1], 2),
            f"{np.mean([one.evaluations for one in each[:count]]):.0f}",
            f"{np.mean([one.seconds for one in each[:count]]):.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    draws = len(next(iter(judged.images.values()))[0])
    return "\n".join(lines) + (
        f"\n\nDigits {judged.title}: {count}, {draws} draws each; decibels and units of ink, mean "
        "± standard error over digits."
    )


def intervals(judged: Judged) -> str:
    """Return how many truths lie in central intervals of 50 and 90 per cent."""
    asked = quantities()
    head = [f"{name}, {100 * level:.0f} %" for name in (*asked, "noise scale") for level in LEVELS]
    lines = [f"| method | digits | {' | '.join(head)} |", "|---" * (2 + len(head)) + "|"]
    counts = sorted({len(each) for each in judged.found.values()}, reverse=True)
    for count in counts:
        for name, each in judged.found.items():
            if len(each) < count:
                continue
            cells = _shares(judged.images[name][:count], judged.scene.images[:count])
            scales = [one.noise_scale for one in each[:count] if one.noise_scale is not None]
            known = judged.scene.noise_scales[:count, None]
            cells += [
                str(coverage(np.stack(scales)[..., None], known, level)) if scales else ""
                for level in LEVELS
            ]
            lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    if judged.clean is not None:
        for name, each in list(judged.found.items())[1:]:
            images, truth = np.stack([one.images for one in each]), judged.clean[: len(each)]
            cells = _shares(images, truth) + [""] * len(LEVELS)
            lines.append(f"| {name}, no pixel noise | {len(each)} | {' | '.join(cells)} |")
    said = []
    for count in counts:
        (a, b), (c, d) = [tuple(100 * v for v in allowed(level, count)) for level in LEVELS]
        said.append(f"with {count} digits {a:.0f} to {b:.0f} and {c:.0f} to {d:.0f}")
    return "\n".join(lines) + (
        f"\n\nDigits {judged.title}. Shares in per cent ± standard error over digits. For total "
        "ink, slant and noise scale, one value a digit, an exact sampler's would lie with "
        f"probability 0.9 between these: {'; '.join(said)}. Posterior means of the noise scale lie "
        f"{_pm(noise_bias(judged), 2)} posterior standard deviations above the truth."
    )


def noise_bias(judged: Judged) -> Share:
    """Return how far our noise scale is above the truth, in posterior standard deviations."""
    scales = np.stack(
        [one.noise_scale for one in judged.found[OURS] if one.noise_scale is not None]
    )
    error = scales.mean(1) - judged.scene.noise_scales
    return mean_and_error(error / scales.std(1, ddof=1))


def _shares(images: np.ndarray, truth: np.ndarray) -> list[str]:
    return [
        str(coverage(of(images), of(truth), level))
        for of in quantities().values()
        for level in LEVELS
    ]


def tuning(rows: "list[tuple[Peer, float]]", num_draws: int) -> str:
    """Return the pilots' table of settings and decibels."""
    lines = ["| method | settings | PSNR of the mean |", "|---" * 3 + "|"]
    for peer, value in rows:
        said = ", ".join(f"`{name}={number:g}`" for name, number in peer._asdict().items())
        lines.append(f"| {type(peer).__name__} | {said} | {value:.2f} |")
    return "\n".join(lines) + f"\n\nMean over four real digits of the mean of {num_draws} draws."


def _pm(value: Share, digits: int) -> str:
    return f"{value.mean:.{digits}f} ± {value.error:.{digits}f}"
