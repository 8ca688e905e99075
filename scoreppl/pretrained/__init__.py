"""The project's own small networks, shipped with the package.

Each was trained by a script of the repository (``training/``) and lies here as one safetensors
file with a card: data, licence, schedule, prediction, training command and the denoising error
on held-out data at every noise level.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scoreppl.network_file import load_score_network, read_card
from scoreppl.pretrained.unet import unet
from scoreppl.score import ScoreNetwork

_FOLDER = Path(__file__).parent
_APPLY_FNS = {"unet": unet}


class TestDigits(NamedTuple):
    """Real handwritten digits that no shipped network has seen.

    Attributes
    ----------
    images
        Shape ``(64, 28, 28)``, pixels in [-1, 1], the ink at 1.
    labels
        The digits, shape ``(64,)``.
    attribution
        Source and licence.
    """

    images: np.ndarray
    labels: np.ndarray
    attribution: str


def list() -> tuple[str, ...]:  # noqa: A001  (read as `pretrained.list()`)
    """Return the names that `load` takes."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def load(name: str) -> ScoreNetwork:
    """Load a shipped network.

    Parameters
    ----------
    name
        ``"digits"``: MNIST images, 28 x 28, pixels in [-1, 1]; ``"digits8"``: 8 x 8 digits of
        scikit-learn, pixels in [-1, 1], for quick tests.

    Raises
    ------
    ValueError
        If there is no network of that name.
    """
    return load_score_network(_path(name), apply_fns=_APPLY_FNS)


def card(name: str) -> dict[str, Any]:
    """Return the card of a shipped network; arguments and errors as in `load`."""
    return read_card(_path(name))


def test_digits() -> TestDigits:
    """Return 64 images of the MNIST test set, the first 64 of it."""
    with np.load(_FOLDER / "test_digits.npz", allow_pickle=False) as file:
        images = file["images"].astype(np.float32) / 127.5 - 1.0
        return TestDigits(images, file["labels"].astype(int), str(file["attribution"]))


# pytest would take the function and the class for tests wherever they are imported.
test_digits.__test__ = False
TestDigits.__test__ = False  # type: ignore[attr-defined]


def _path(name: str) -> Path:
    if name not in list():
        raise ValueError(f"`name={name!r}` is not a shipped network; use one of {list()}.")
    return _FOLDER / f"{name}.safetensors"


__all__ = ["TestDigits", "card", "list", "load", "test_digits"]
