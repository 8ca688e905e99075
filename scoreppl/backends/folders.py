"""Folders in the layout of diffusers: configurations and safetensors, nothing that is executed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array
from safetensors import SafetensorError, safe_open

from scoreppl.backends.extras import load

_WEIGHTS = ("diffusion_pytorch_model", "model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# What is fetched of a model on a hub: its parts, never a pickle, nor single files of everything.
_FETCHED = (
    "*.json", "*/*.txt", "*/*.model", "*/*.safetensors", "diffusion_pytorch_model*.safetensors",
)  # fmt: skip


def folder_of(folder_or_id: str | os.PathLike[str], needed_by: str, variant: str = "") -> Path:
    """Return a local folder as it is, or that of a hub's model, fetched without its pickles.

    Raises
    ------
    ValueError
        If there is no such folder and the hub has no such model or cannot be reached.
    """
    folder = Path(folder_or_id)
    if folder.is_dir():
        return folder
    name = os.fspath(folder_or_id)
    if folder.is_absolute() or name.count("/") != 1:
        raise ValueError(f"`{name}` is no folder, and no hub id of the form owner/name.")
    hub = load("huggingface_hub", extra="sdxl", needed_by=needed_by)
    try:
        skipped = None if variant else ["*.fp16.safetensors", "*.fp16-*.safetensors"]
        return Path(
            hub.snapshot_download(name, allow_patterns=list(_FETCHED), ignore_patterns=skipped)
        )
    except Exception as error:
        # The hub's client raises a dozen classes, of several packages.
        message = str(error).strip().partition("\n")[0][:160]
        raise ValueError(
            f"`{name}` is no local folder, and could not be fetched from the hub "
            f"({type(error).__name__}: {message}). Download it in "
            "the diffusers layout and give its folder."
        ) from error


def part_of(folder: Path, name: str) -> Path:
    """Return the folder of a part, or the folder itself where older models have their only one."""
    return folder / name if (folder / name).is_dir() else folder


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a folder.

    Raises
    ------
    ValueError
        If it is missing or no JSON object.
    """
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"`{folder}` has no {name}: it is no diffusers folder of this kind."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`{path}` is no JSON file ({error}).") from error
    if not isinstance(found, dict):
        raise ValueError(f"`{path}` holds no JSON object.")
    return found


def read_tensors(
    folder: Path, expected: Mapping[str, tuple[int, ...]], *, dtype: Any = None, variant: str = ""
) -> dict[str, Array]:
    """Read a module's tensors from its safetensors files, one by one.

    Parameters
    ----------
    folder
        Of the module.
    expected
        Shapes by name; no other tensor is read.
    dtype
        What floating-point tensors are turned into; None: as they are.
    variant
        Such as ``"fp16"``, the part of the file names before the extension.

    Raises
    ------
    ValueError
        If there is no safetensors file, one is damaged, or names or shapes do not fit.
    """
    found: dict[str, Array] = {}
    for path in _files(folder, variant):
        try:
            with safe_open(path, framework="flax") as file:
                for name in file.keys():  # noqa: SIM118
                    if name in expected:
                        value = file.get_tensor(name)
                        is_float = jnp.issubdtype(value.dtype, jnp.floating)
                        found[name] = value.astype(dtype) if is_float and dtype else value
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"`{path}` is truncated, damaged or no safetensors file ({error}); fetch it again."
            ) from error
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ValueError(
            f"The files in `{folder}` lack {len(missing)} of {len(expected)} tensors, such as "
            f"`{missing[0]}`: configuration and weights are of different models."
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ValueError(
                f"`{name}` in `{folder}` has shape {found[name].shape}, and the configuration "
                f"wants {shape}: configuration and weights are of different models."
            )
    return found


def usual_variant(folder: Path, variant: str) -> str:
    """Return a variant if a folder has it, and none where it comes in one form alone."""
    return variant if variant and any(folder.glob(f"*.{variant}*.*")) else ""


def check_safetensors(folder: Path, variant: str = "") -> str | None:
    """Refuse a folder without whole safetensors files, for readers that say less.

    Returns
    -------
    str or None
        The variant that there is.

    Raises
    ------
    ValueError
        If there are none, or one is damaged.
    """
    used = usual_variant(folder, variant)
    for path in _files(folder, used):
        try:
            with safe_open(path, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"`{path}` is truncated, damaged or no safetensors file ({error}); fetch it again."
            ) from error
    return used or None


def _files(folder: Path, variant: str) -> list[Path]:
    end = f".{variant}.safetensors" if variant else ".safetensors"
    for stem in _WEIGHTS:
        middle = f".{variant}" if variant else ""
        index = folder / f"{stem}.safetensors.index{middle}.json"
        if index.is_file():
            shards = read_config(folder, index.name).get("weight_map")
            if not isinstance(shards, dict) or not all(
                isinstance(name, str) for name in shards.values()
            ):
                raise ValueError(f"`{index}` maps no tensors to files; fetch it again.")
            # Names come from a file: none may lead out of the folder.
            paths = sorted({folder / Path(name).name for name in shards.values()})
            lacking = [path.name for path in paths if not path.is_file()]
            if lacking:
                raise ValueError(f"`{folder}` lacks {lacking[0]}, which {index.name} names.")
            return paths
        if (folder / (stem + end)).is_file():
            return [folder / (stem + end)]
    pickles = sorted(path.name for kind in _PICKLES for path in folder.glob(kind))
    if pickles:
        raise ValueError(
            f"`{folder}` holds pickled weights alone ({pickles[0]}), which can run any code and "
            "are not read. Save them as safetensors where you trust them: "
            "`model.save_pretrained(folder)`."
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    hint = f"; there is {others[0]}, which `variant` may choose" if others else ""
    raise ValueError(f"`{folder}` has no {_WEIGHTS[0]}{end}{hint}.")
