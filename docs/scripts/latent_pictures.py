"""Draw pictures of the small latent network by prompt, without and with guidance.

::

    python -m docs.scripts.latent_pictures

Writes ``docs/images/coloured_digits.png``; needs the extra ``sdxl``.
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import scoreppl as sp

FOLDER = Path(__file__).parents[2] / "case_studies" / "sdxl_latent" / "network"
PROMPTS = ("a red seven", "a blue three", "a green digit", "a eight", "a digit")
SCALES = (1.0, 3.0)
NUM_PICTURES, NUM_STEPS = 8, 40


def pictures(prompt: str, guidance_scale: float) -> np.ndarray:
    """Return a row of pictures, shape ``(64, 64 * NUM_PICTURES, 3)``."""
    backend = sp.backends.sdxl(
        FOLDER, prompt=prompt, guidance_scale=guidance_scale, height=64, width=64
    )
    latents = backend.sample(jax.random.key(0), (NUM_PICTURES,), num_steps=NUM_STEPS)
    images = np.moveaxis(np.asarray(jax.vmap(backend.decode)(latents)), 1, -1)
    return np.concatenate(list(images), 1)


def main() -> None:
    """Draw and write the figure."""
    figure, axes = plt.subplots(
        len(PROMPTS), len(SCALES), figsize=(11, 3.8), layout="constrained", squeeze=False
    )
    for scale, axis in zip(SCALES, axes[0], strict=True):
        axis.set_title("no guidance" if scale == 1.0 else f"guidance_scale={scale:g}")
    for line, prompt in zip(axes, PROMPTS, strict=True):
        for axis, scale in zip(line, SCALES, strict=True):
            axis.imshow(pictures(prompt, scale))
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(f'"{prompt}"', rotation=0, ha="right", va="center")
    path = Path(__file__).parents[1] / "images" / "coloured_digits.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
