"""`aup_save_model`: registers a function that saves the model after the decorated main has returned."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raycompress.script import context
from raycompress.script.workers.agreement import follows

FOLDER = "aup_models"
"""Where decorated scripts save when they run by hand, each in the folder that its configuration names."""

_registered: Callable[[], Any] | None = None


def aup_save_model(save: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Have ``save(*args, **kwargs)`` called when the decorated main has returned and its value is reported.

    The last call counts. A run that is to save no model leaves it out.
    """
    global _registered
    _registered = functools.partial(save, *args, **kwargs)


def save_registered(config: Mapping[str, Any]) -> None:
    """Call what `aup_save_model` was given, once, inside the folder that this run saves into."""
    global _registered
    save, _registered = _registered, None
    folder = _folder(config)
    if save is None or folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        save()


def _folder(config: Mapping[str, Any]) -> Path | None:
    """Return where models go; None where none is saved."""
    trial = context.current()
    if trial is not None:
        return trial.candidate if trial.saves else None
    if follows(trial):
        return None
    return Path(FOLDER, str(config.get("folder_name") or ".")) if config.get("save_model") else None
