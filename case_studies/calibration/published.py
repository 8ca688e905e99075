"""Reading published reference draws; nothing of them is part of this project."""

import bz2
import importlib.util
import io
import json
import zipfile
from pathlib import Path

import numpy as np

_SCHOOLS = "eight_schools-eight_schools_noncentered"


def installed_sbibm() -> Path | None:
    """Return the folder of an installed sbibm, without importing it (it needs PyTorch)."""
    found = importlib.util.find_spec("sbibm")
    return None if found is None or found.origin is None else Path(found.origin).parents[1]


def sbibm(place: Path, task: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an observation of sbibm and its reference draws.

    Parameters
    ----------
    place
        The wheel of sbibm 1.1.0, a folder that holds that wheel, or one that holds the package.
    task, number
        Name of the task, and number of the observation, from 1.

    Raises
    ------
    ValueError
        If there are no such files.
    """
    folder = f"sbibm/tasks/{task}/files/num_observation_{number}"
    seen = _table(_read(place, f"{folder}/observation.csv"))
    draws = _table(bz2.decompress(_read(place, f"{folder}/reference_posterior_samples.csv.bz2")))
    return seen[0], draws


def posteriordb_schools(place: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mu, tau and theta of posteriordb's reference draws of eight schools, not centred.

    Parameters
    ----------
    place
        A checkout of posteriordb, or a folder with ``eight_schools-.../draws.npz`` made of one:
        ``draws``, shape ``(chains, draws, parameters)``, and ``names``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    array = place / _SCHOOLS / "draws.npz"
    folder = place / "posterior_database" / "reference_posteriors" / "draws" / "draws"
    packed = folder / f"{_SCHOOLS}.json.zip"
    if array.exists():
        with np.load(array, allow_pickle=False) as file:
            draws = file["draws"].reshape(-1, file["draws"].shape[-1]).astype(float)
            columns = dict(zip(map(str, file["names"]), draws.T, strict=True))
    elif packed.exists():
        with zipfile.ZipFile(packed) as archive:
            chains = json.loads(archive.read(f"{_SCHOOLS}.json"))
        columns = {name: np.concatenate([chain[name] for chain in chains]) for name in chains[0]}
    else:
        raise ValueError(
            f"`--posteriordb {place}` holds neither {array.relative_to(place)} nor "
            f"{packed.relative_to(place)}; give a checkout of posteriordb."
        )
    theta = np.stack([columns[f"theta[{j + 1}]"] for j in range(8)], 1)
    return columns["mu"], columns["tau"], theta


def _read(place: Path, name: str) -> bytes:
    if (place / name).exists():
        return (place / name).read_bytes()
    wheels = [place] if place.suffix == ".whl" else sorted(place.glob("sbibm-*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            if name in archive.namelist():
                return archive.read(name)
    raise ValueError(f"`--sbibm {place}` has no {name}; give the wheel of sbibm 1.1.0.")


def _table(content: bytes) -> np.ndarray:
    return np.loadtxt(io.BytesIO(content), delimiter=",", skiprows=1, ndmin=2)
