"""Imports of what an extra brings."""

import importlib
from types import ModuleType


def load(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """Import a package, or say which extra has it.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise ImportError(
            f"`{needed_by}` needs {module}, which is not installed; it comes with "
            f"`pip install 'scoreppl[{extra}]'`."
        ) from error
