"""Compares what a script gives `create_compressor` with the configuration of its trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycompress.script.context import Trial

_PACKAGE = str(Path(__file__).resolve().parent.parent)


def send_given(trial: Trial, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Send what of `config` is not the trial's: `raycompress.search.ownership` judges it.

    Parameters
    ----------
    config
        What the script gave.
    arguments
        All arguments of the compressor, from `config` and by name.
    """
    if trial.config is not None:
        trial.send({"type": "given", "differs": differences(trial.config, config, arguments), "where": _caller()})


def differences(own: Mapping[str, Any], config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a trial's configuration that the script gave otherwise -> what it gave, as plain JSON.

    A list of entries that has all of the trial's is no other one: scripts add layers that are to be excluded.
    """
    found: dict[str, Any] = {}
    if config.get("compressor") != own.get("compressor"):
        found["compressor"] = _plain(config.get("compressor"))
    entries, given = _plain(own.get("config_list") or []), _plain(config.get("config_list") or [])
    if not isinstance(given, list) or any(entry not in given for entry in entries):
        found["config_list"] = given
    wanted = own.get("arguments") or {}
    passed = {name: _plain(arguments.get(name)) for name in wanted}
    if passed != _plain(wanted):
        found["arguments"] = passed
    return found


def _plain(value: Any) -> Any:
    """Return `value` as it would be read again from JSON; numbers of numpy and torch become plain ones."""
    return json.loads(json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other)))


def _caller() -> str:
    """Return file and line of the script's call of `create_compressor`, e.g. ``train.py:12``."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
