"""Lightning under its two names, ``lightning.pytorch`` and ``pytorch_lightning``: one library, twice, to Python."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

from raycompress.extras import load_extra

_NAMES = ("lightning.pytorch", "pytorch_lightning")
_EXTRA = "lightning"


def loaded(what: str) -> list[ModuleType]:
    """Return what the script has imported of it; where that is nothing, what is installed.

    Parameters
    ----------
    what
        What needs it, for the message.

    Raises
    ------
    MissingDependencyError
        It is not installed under either name.
    """
    found = [module for name in _NAMES if (module := sys.modules.get(name)) is not None]
    if found:
        return found
    if "lightning" not in sys.modules and importlib.util.find_spec("lightning") is None and _is_there(_NAMES[1]):
        return [load_extra(_NAMES[1], _EXTRA, what)]
    return [load_extra("lightning.pytorch", _EXTRA, what)]


def library_of(trainer: Any, what: str) -> ModuleType | None:
    """Return the library that a Trainer is of; None for what is no Trainer."""
    return next((one for one in loaded(what) if isinstance(trainer, one.Trainer)), None)


def _is_there(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None
