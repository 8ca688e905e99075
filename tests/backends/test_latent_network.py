"""The trained network of coloured digits: its pictures are what the prompt says."""

from pathlib import Path

import jax
import numpy as np
import pytest

import scoreppl as sp

for package in ("torch", "torchax", "diffusers", "transformers"):
    pytest.importorskip(package)

FOLDER = Path(__file__).parents[2] / "case_studies" / "sdxl_latent" / "network"


def pictures(prompt, count=32, **options):
    options = {"guidance_scale": 1.0, "height": 64, "width": 64} | options
    backend = sp.backends.sdxl(FOLDER, prompt=prompt, **options)
    latents = backend.sample(jax.random.key(0), (count,), num_steps=30)
    return np.asarray(jax.vmap(backend.decode)(latents))


def labels(images):
    from case_studies.sdxl_latent.rewards import class_log_probabilities

    return np.asarray(jax.vmap(class_log_probabilities)(images)).argmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("prompt, colour, digit", [("a red seven", 0, 7), ("a blue three", 2, 3)])
def test_colour_and_digit_are_those_of_the_prompt(prompt, colour, digit):
    images = pictures(prompt)
    # The strongest channel of the ink is that of the colour's name, digits are read by the judge.
    ink = np.einsum("ncij,nij->nc", images, images.max(1))
    right_colour = np.mean(ink.argmax(1) == colour)
    right_digit = np.mean(labels(images) == digit)
    # By chance a third and a tenth; 32 pictures know a share of .8 to .07.
    assert right_colour > 0.9 and right_digit > 0.6


@pytest.mark.slow
def test_a_prompt_without_a_digit_gives_several():
    images = pictures("a green digit")
    assert len(set(labels(images))) >= 5
    assert np.mean(np.einsum("ncij,nij->nc", images, images.max(1)).argmax(1) == 1) > 0.9
