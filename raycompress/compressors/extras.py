"""Libraries that only some users have: imported when needed, and a missing one says which extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from raycompress.errors import MissingDependencyError


def load_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import and return `module`.

    Parameters
    ----------
    module
        Such as ``onnxruntime.quantization``.
    extra
        The extra of raycompress that brings it.
    what
        What needs it, for the message.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{what} needs {error.name or module}, which is not installed",
            where=f"import {module}",
            fix=f"pip install 'raycompress[{extra}]'",
        ) from error
