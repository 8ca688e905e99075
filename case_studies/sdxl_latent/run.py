"""The reward tilt of a Gaussian, whose law is known, and of a latent diffusion network.

::

    python -m case_studies.sdxl_latent [--model FOLDER] [--prompt TEXT] [--size 64] [--out DIR]

Writes tables of both, figures of reward against distance from the prior, and pictures; a quarter
of an hour on two cores with the network of this folder.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoreppl as sp
from case_studies.sdxl_latent import figures, surrogate, tables
from case_studies.sdxl_latent.methods import (
    DPS,
    LAGS_NAME,
    METHODS,
    PLAIN,
    WITHOUT_PRODUCT,
    fit_law,
)
from case_studies.sdxl_latent.study import BEST_OF, Sizes, plain_draws, run
from case_studies.sdxl_latent.summary import best_of, curve

NETWORK = Path(__file__).parent / "network"
PROMPT, SIZE = "a digit", 64
# The tilts of the Gaussian, and of the network in standard deviations of the reward.
TILTS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
MILD, SHARP = 1.0, 3.0
STRENGTHS, MAIN, LIKELINESS = (1.0, 2.0, 4.0), 2.0, (0.5, 1.0, 2.0)
# LAGS shifts late, and little: to come as far from the prior it needs a stronger tilt.
FURTHER = (10.0, 20.0, 40.0)
DISTANCES = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
SURROGATE_STEPS, NUM_STEPS = 50, 30
SURROGATE_SIZES = Sizes(count=2_048, pool=16_384, ahead=512, block=2_048)
GUIDED = {name: method for name, method in METHODS.items() if name != PLAIN}
SWEPT, MATCHED = (WITHOUT_PRODUCT, LAGS_NAME, DPS), "moment matched"
SHOWN, SURE = 12, 0.9
# What the black box is asked for.
DIGIT = 7


class Options(NamedTuple):
    """Of the run on the network.

    Attributes
    ----------
    model
        Folder of Stable Diffusion XL's layout.
    prompt, guidance_scale, size
        As of `sp.backends.sdxl`; height and width are `size`.
    num_steps, num_pilots
        As of `sp.GuidedDiffusion`.
    sizes
        How much to draw.
    strengths, further
        Tilts over the reward's standard deviation, of all methods and of LAGS alone; `MAIN` must be
        among the former.
    """

    model: Path = NETWORK
    prompt: str = PROMPT
    guidance_scale: float = 1.0
    size: int = SIZE
    num_steps: int = NUM_STEPS
    num_pilots: int = 64
    sizes: Sizes = Sizes(count=64, pool=256, ahead=64, block=64)
    strengths: tuple[float, ...] = STRENGTHS
    further: tuple[float, ...] = FURTHER


def run_surrogate(out: Path, sizes: Sizes = SURROGATE_SIZES, tilts: tuple = TILTS) -> None:
    """Compare the methods on the Gaussian with the closed form, and write what was found."""
    key = jax.random.key(0)
    law = fit_law(key, surrogate.prior(), num_steps=SURROGATE_STEPS, num_pilots=512)
    plain = plain_draws(key, law, surrogate.linear, sizes)
    lines = [tables.SURROGATE_HEAD]
    methods = GUIDED | {MATCHED: surrogate.moment_matched(is_linear=True)}
    study = run(key, law, surrogate.linear, methods, tilts, SHARP, plain, sizes)
    for tilt in (MILD, SHARP):
        truth = surrogate.linear_truth(tilt)
        lines += tables.surrogate_rows(f"linear, {tilt:g}", truth, study.at(tilt), methods)
    seen = plain._replace(
        reward=np.asarray(surrogate.quadratic(None, jnp.asarray(plain.events)), float)
    )
    methods = GUIDED | {MATCHED: surrogate.moment_matched(is_linear=False)}
    observed = run(key, law, surrogate.quadratic, methods, (1.0,), 1.0, seen, sizes)
    truth = surrogate.quadratic_truth()
    lines += tables.surrogate_rows("quadratic", truth, observed.at(1.0), methods)
    curves = {name: curve(plain.reward[: sizes.count], study.sweeps[name]) for name in SWEPT}
    write(
        out,
        surrogate="\n".join(lines) + "\n",
        surrogate_equal=tables.equal_table(curves, WITHOUT_PRODUCT, DISTANCES, frontier=True),
        surrogate_best="\n".join(tables.best_rows(plain.reward, (4, 16, 64))) + "\n",
    )
    figures.draw_surrogate(study, out / "surrogate.png")


def run_network(out: Path, options: Options) -> None:
    """Compare the methods on the network by both rewards, and write what was found."""
    from case_studies.sdxl_latent import rewards  # the judge's form needs scikit-learn

    start = time.perf_counter()
    network = sp.backends.sdxl(
        options.model, prompt=options.prompt, guidance_scale=options.guidance_scale,
        height=options.size, width=options.size,
    )  # fmt: skip
    key, sizes = jax.random.key(1), options.sizes
    law = fit_law(key, network, num_steps=options.num_steps, num_pilots=options.num_pilots)
    plain = plain_draws(key, law, rewards.reddening, sizes)
    see = jax.jit(
        lambda network, events: jax.lax.map(
            lambda x: look(rewards, network, x), events, batch_size=sizes.block
        )
    )
    log_probability = see(network, plain.events)[1]
    likeness = plain._replace(reward=np.asarray(log_probability[:, DIGIT], float))
    spread = plain.reward.std(ddof=1)
    tilts = tuple(strength / spread for strength in options.strengths)
    print(f"prior: {time.perf_counter() - start:.0f} seconds", flush=True)
    further = dict.fromkeys(
        (WITHOUT_PRODUCT, LAGS_NAME), tuple(strength / spread for strength in options.further)
    )
    red = run(key, law, rewards.reddening, GUIDED, tilts, MAIN / spread, plain, sizes, further)
    black_box = {name: method for name, method in GUIDED.items() if not method.needs_gradient}
    seven = run(key, law, rewards.likeness(DIGIT), black_box, LIKELINESS, 1.0, likeness, sizes)
    content = {}
    for name, study, title in (("red", red, "redness"), ("seven", seven, "log p(7)")):
        pictures, certain = {}, {}
        for method, draws in study.at(study.main).items():
            images, found = see(network, draws.events[: sizes.count])
            certain[method] = float(np.mean(np.max(found, 1) > np.log(SURE)))
            pictures[method] = images[:SHOWN]
        for size in BEST_OF:
            chosen = best_of(study.plain.reward, size).chosen[:SHOWN]
            pictures[f"best of {size}"] = see(network, study.plain.events[chosen])[0]
        content[name] = tables.method_table(study, GUIDED, certain)
        figures.draw_pictures(
            pictures, out / f"{name}.png", f"{options.prompt}: {title}, tilt {study.main:.2g}"
        )
    curves = {name: curve(plain.reward[: sizes.count], red.sweeps[name]) for name in SWEPT}
    write(out, equal=tables.equal_table(curves, WITHOUT_PRODUCT, DISTANCES), **content)
    figures.draw_network({"redness": red, f"log p({DIGIT})": seven}, out / "distance.png")
    print(f"network: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)


def look(rewards: Any, network: Any, latent: Array) -> tuple[Array, Array]:
    """Return a latent's picture and what the judge says of it."""
    image = network.decode(latent)
    return image, rewards.class_log_probabilities(image)


def write(out: Path, **content: str) -> None:
    """Write tables by name, and print them."""
    for name, text in content.items():
        (out / f"{name}.md").write_text(text)
        print(text, flush=True)


def main(out: Path, options: Options, parts: str = "both") -> None:
    """Run everything and write it; a quarter of an hour on two cores."""
    out.mkdir(parents=True, exist_ok=True)
    if parts != "network":
        run_surrogate(out)
    if parts != "surrogate":
        run_network(out, options)
    print(f"wrote {out}")
