"""The networks that are measured: the project's own, a control, and those of the user."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

import scoreppl as sp
from case_studies.composition import network as plane
from case_studies.eight_schools import network as schools
from case_studies.galaxies import network as galaxies
from scoreppl.pretrained.unet import unet

CONTROL = "ring, energy (control)"
APPLY_FNS = {"unet": unet, **plane.APPLY, "exchangeable": schools.v_prediction}


class Named(NamedTuple):
    """A score model with its name in the tables, and how it is loaded."""

    name: str
    load: Callable[[], sp.ScoreModel]


def shipped(with_galaxies: bool) -> list[Named]:
    """Return the project's networks; the last two differ in what they predict, not in their data.

    Parameters
    ----------
    with_galaxies
        Whether the network of the extra ``galaxies`` is among them.
    """
    return [
        Named("digits", lambda: sp.pretrained.load("digits")),
        Named("digits8", lambda: sp.pretrained.load("digits8")),
        *([Named("galaxies", galaxies.load)] if with_galaxies else []),
        Named("eight schools", schools.load),
        Named("ring, noise", lambda: plane.load("ring", "epsilon")),
        Named(CONTROL, lambda: plane.load("ring", "energy")),
    ]


def chosen(files: list[Path], functions: list[str], galaxies_needed: bool = False) -> list[Named]:
    """Return what is to be measured: what the user names first, then the project's own.

    Parameters
    ----------
    files, functions
        As `from_file` and `from_function` take them.
    galaxies_needed
        Whether it is an error if the network of galaxies is not installed.

    Raises
    ------
    ValueError
        If one cannot be had, or two have one name.
    """
    installed = galaxies.installed()
    if not installed:
        said = f"The network of galaxies is not installed. {galaxies.INSTALL}"
        if galaxies_needed:
            raise ValueError(said)
        print(f"{said} It is left out.", flush=True)
    own = [*map(from_file, files), *map(from_function, functions)]
    found = [*own, *shipped(installed)]
    names = [named.name for named in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two networks are called {', '.join(twice)}: rename the file.")
    return found


def from_file(path: Path) -> Named:
    """Return a network of `sp.save_score_network` whose architecture is known here.

    Raises
    ------
    ValueError
        If there is no such file, it is damaged, or it names another architecture.
    """
    try:
        architecture = sp.read_card(path)["architecture"]
        if architecture not in APPLY_FNS:
            raise ValueError(
                f"{path}: a file holds no code, and its architecture {architecture!r} is none of "
                f"{sorted(APPLY_FNS)}. Write a function that loads it, and pass it with "
                "--model package.module:function."
            )
        network = sp.load_score_network(path, apply_fns=APPLY_FNS)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    return Named(path.stem, lambda: network)


def from_function(place: str) -> Named:
    """Return what a function of no arguments returns, given as ``"package.module:function"``.

    Raises
    ------
    ValueError
        If there is no such function, or what it returns is no score model.
    """
    module_name, _, function_name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`--model {place}` must be package.module:function, importable from here ({error})."
        ) from error
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(
            f"`--model {place}` must name a function of no arguments ({error})."
        ) from error
    model = function()
    # Runtime protocols look for names alone, which is what is asked here.
    if not isinstance(model, sp.ScoreModel) or jax.tree_util.all_leaves([model]):
        raise ValueError(
            f"`--model {place}` returned a {type(model).__name__}; it must return a score model "
            "that is a pytree, such as sp.ScoreNetwork(...)."
        )
    return Named(place, lambda: model)
