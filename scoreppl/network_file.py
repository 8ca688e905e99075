"""Score networks on disk: parameters in a safetensors file, everything else in its card.

The card is a JSON object in the file's metadata, under the key ``card``. It says how the numbers
are to be used (architecture, prediction, schedule, shapes) and where they came from (data,
licence, training command, errors on held-out data, in free text). Nothing in a file is executed:
the architecture is only a name, which the caller maps to a function.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from scoreppl import noise
from scoreppl.score import ScoreNetwork

_SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        noise.VPLinear,
        noise.VPCosine,
        noise.VE,
        noise.EDM,
        noise.DiscreteVP,
        noise.FlowMatching,
    )
}
_CARD_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "architecture": str,
    "prediction": str,
    "event_shape": list,
    "batched": bool,
    "schedule": dict,
    "min_time": (int, float),
    "sigma_data": (int, float),
    "sha256": str,
    "tensors": dict,
}


def save_score_network(
    path: str | os.PathLike[str],
    network: ScoreNetwork,
    *,
    architecture: str,
    card: Mapping[str, Any],
) -> None:
    """Write a score network to a safetensors file with a card.

    Parameters
    ----------
    path
        The file; an existing one is replaced.
    network
        The network. Its parameters must be a flat dictionary from names to arrays, and its
        schedule one of `scoreppl.noise`. Its condition is not stored.
    architecture
        Name under which `load_score_network` looks up ``network.apply_fn``.
    card
        What else the card shall say, as JSON values: ``name`` is required; usual ones are
        ``data``, ``licence``, ``training`` and ``heldout``. Fields that describe the network
        itself are filled in.

    Raises
    ------
    ValueError
        If the network cannot be stored, or `card` lacks a name, repeats a field that is filled
        in, or is not JSON.
    """
    if network.condition is not None:
        raise ValueError(
            "`network.condition` is not stored: save dataclasses.replace(network, condition=None) "
            "and set the condition again after loading."
        )
    params = network.params
    if not isinstance(params, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Array | np.ndarray)
        for name, value in params.items()
    ):
        raise ValueError(
            "`network.params` must be a flat dictionary from names to arrays: flatten it and let "
            "`apply_fn` unflatten."
        )
    tensors = {name: np.asarray(value, order="C") for name, value in params.items()}
    described = {
        "architecture": architecture,
        "prediction": network.prediction,
        "event_shape": list(network.event_shape),
        "batched": network.batched,
        "schedule": _describe_schedule(network.noise),
        "min_time": float(np.asarray(network.min_time)),
        "sigma_data": float(np.asarray(network.sigma_data)),
        "sha256": _digest(tensors),
        "tensors": {name: list(value.shape) for name, value in tensors.items()},
    }
    if repeated := sorted(described.keys() & card.keys()):
        raise ValueError(f"`card` repeats {repeated}, which are filled in: leave them out.")
    if not isinstance(card.get("name"), str):
        raise ValueError("`card` must give the network a 'name', a string.")
    try:
        text = json.dumps({**card, **described})
    except (TypeError, ValueError) as error:
        raise ValueError(f"`card` must hold JSON values only: {error}.") from error
    save_file(tensors, path, metadata={"card": text})


def load_score_network(
    path: str | os.PathLike[str],
    *,
    apply_fns: Mapping[str, Callable[[Any, Array, Array, Any], Array]] | None = None,
) -> ScoreNetwork:
    """Read a score network written by `save_score_network`.

    Parameters
    ----------
    path
        The file.
    apply_fns
        Functions ``apply_fn(params, x, t, condition)`` by the name of their architecture.

    Returns
    -------
    ScoreNetwork
        The network; its parameters are a flat dictionary from names to arrays.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a safetensors file, is damaged, has no card or one that does not
        describe it, or its architecture is not among `apply_fns`.
    """
    card, tensors = _read(path, with_tensors=True)
    found = {name: list(value.shape) for name, value in tensors.items()}
    if found != card["tensors"]:
        differing = sorted(
            name
            for name in found.keys() | card["tensors"].keys()
            if found.get(name) != card["tensors"].get(name)
        )
        name = differing[0]
        raise ValueError(
            f"{path}: {len(differing)} tensors are not as the card says; {name!r} has shape "
            f"{found.get(name, 'none (it is absent)')} in the file and "
            f"{card['tensors'].get(name, 'none (it is absent)')} on the card. Get the file again."
        )
    if _digest(tensors) != card["sha256"]:
        raise ValueError(f"{path}: the tensors' checksum is not the card's. Get the file again.")
    apply_fns = apply_fns or {}
    architecture = card["architecture"]
    if architecture not in apply_fns:
        raise ValueError(
            f"{path}: architecture {architecture!r} is not among `apply_fns`, which has "
            f"{sorted(apply_fns)}. Pass apply_fns={{{architecture!r}: apply_fn}}."
        )
    try:
        return ScoreNetwork(
            apply_fns[architecture],
            {name: jnp.asarray(value) for name, value in tensors.items()},
            noise=_build_schedule(card["schedule"]),
            prediction=card["prediction"],
            event_shape=tuple(card["event_shape"]),
            batched=card["batched"],
            sigma_data=card["sigma_data"],
            min_time=card["min_time"],
        )
    except ValueError as error:
        raise ValueError(f"{path}: the card describes no network. {error}") from error


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the card of a file written by `save_score_network`, without its parameters.

    Errors as in `load_score_network`, as far as they concern the card.
    """
    return _read(path, with_tensors=False)[0]


def _read(
    path: str | os.PathLike[str], *, with_tensors: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"`path={str(path)!r}`: there is no such file.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a safetensors file, or a damaged one ({error}). Get the file again."
        ) from error
    if "card" not in metadata:
        raise ValueError(
            f"{path}: the file has no card. Build a ScoreNetwork from its tensors and write it "
            "with save_score_network."
        )
    try:
        card = json.loads(metadata["card"])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the card is not JSON ({error}).") from error
    for name, kind in _CARD_TYPES.items():
        if not isinstance(card, dict) or name not in card:
            raise ValueError(f"{path}: the card lacks {name!r}.")
        # A bool is an int to Python, but no number on a card.
        if not isinstance(card[name], kind) or (isinstance(card[name], bool) and kind is not bool):
            raise ValueError(f"{path}: the card's {name!r} cannot be {card[name]!r}.")
    return card, tensors


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}:{tensors[name].dtype}:".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def _describe_schedule(schedule: noise.Schedule) -> dict[str, Any]:
    kind = type(schedule).__name__
    if _SCHEDULES.get(kind) is not type(schedule):
        raise ValueError(f"`network.noise` is a {kind}; only {sorted(_SCHEDULES)} can be stored.")
    if isinstance(schedule, noise.DiscreteVP):
        # In float64: the table in float32 would lose digits of 1 - alpha^2.
        table = np.asarray(schedule.log_snr_table, np.float64)
        return {"type": kind, "params": {"alphas_cumprod": (1 / (1 + np.exp(-table))).tolist()}}
    params = {f.name: float(getattr(schedule, f.name)) for f in fields(schedule)}  # type: ignore[arg-type]
    return {"type": kind, "params": params}


def _build_schedule(description: dict[str, Any]) -> noise.Schedule:
    kind = description.get("type")
    if kind not in _SCHEDULES:
        raise ValueError(f"Schedule type {kind!r} is not known; use one of {sorted(_SCHEDULES)}.")
    try:
        return _SCHEDULES[kind](**description.get("params", {}))
    except TypeError as error:
        raise ValueError(f"Schedule {kind} has other parameters: {error}.") from error
