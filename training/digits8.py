"""Train the tiny score network of 8 x 8 digits (scikit-learn's) that the fast tests use.

::

    python -m training.digits8

It takes about two minutes on two quiet cores and writes
``scoreppl/pretrained/digits8.safetensors``.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from scoreppl.pretrained.unet import UNetShape
from training.train import Plan, as_network, held_out_errors, train, write

PLAN = Plan(UNetShape(8, 16, 32, (1, 1, 1)), rounds=((6000, 4e-3),), batch=128, seed=0)
FOLDER = Path(__file__).parents[1] / "scoreppl" / "pretrained"


if __name__ == "__main__":
    pixels = (load_digits().images / 8.0 - 1.0).astype(np.float32)
    shuffled = pixels[np.random.default_rng(0).permutation(len(pixels))]
    training, held_out = shuffled[:1500], shuffled[1500:]
    params = train(training, PLAN)
    network = as_network(params, PLAN.shape.image_size)
    rows = held_out_errors(network, held_out)
    for row in rows:
        print(row)
    write(
        FOLDER / "digits8.safetensors",
        network,
        {
            "name": "digits8",
            "data": "scikit-learn's copy of the UCI optical digits: 1,500 images for training, "
            "297 held out",
            "licence": "weights: Apache-2.0; images: E. Alpaydin, C. Kaynak, UCI Machine "
            "Learning Repository, CC BY 4.0",
            "pixels": "8 x 8 in [-1, 1], ink at 1",
            "training": "python -m training.digits8",
            "parameters": int(sum(np.size(value) for value in params.values())),
            "heldout": rows,
        },
    )
