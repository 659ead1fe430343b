"""Runs a function that was launched from Python: in a trial it is the script."""

from __future__ import annotations

import linecache
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycompress.script import entry

FUNCTION = "function.pkl"
"""Beside the script that is made of it."""


def main(script: str, path: Sequence[str]) -> None:
    """Load the function that lies beside `script`, and call it with the configuration of the trial.

    The file was written by `raycompress.launch` from the user's own function, in the user's own results.

    Parameters
    ----------
    path
        The folders of the user's modules, as `sys.path` had them where the function was launched.
    """
    sys.path.extend(folder for folder in path if folder not in sys.path)
    with Path(script).with_name(FUNCTION).open("rb") as file:
        sources: Mapping[str, str] = pickle.load(file)  # noqa: S301 - see above
        for name, text in sources.items():
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        function: Callable[..., Any] = pickle.load(file)  # noqa: S301
    if not is_entry(function):
        function = entry.experiment(function)
    function()


def is_entry(function: Any) -> bool:
    """Tell whether `function` was made by one of the decorators that load a configuration."""
    return hasattr(function, "__wrapped__") and getattr(function, "__globals__", {}).get("__name__") == entry.__name__
