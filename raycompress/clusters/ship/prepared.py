"""Prepares a cluster file for Ray's launcher: adds our token and our wheel to every node."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

TOKEN = "~/.ray/auth_token"
"""Where Ray looks for its token, on every node."""

ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
"""What Ray is started with on every node."""

_STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
_STOP = re.compile(r"^(.*?)\bray stop\b[^;&|]*$")
_START = re.compile(r"\bray start\b")


def prepare(data: dict[str, Any], *, token: Path, wheel: Path) -> dict[str, Any]:
    """Return a cluster file whose nodes have this raycompress and admit no one without the token.

    Parameters
    ----------
    data
        The cluster file.
    token, wheel
        The files here. The token goes to where Ray looks for it, readable by its owner alone.
    """
    ready = copy.deepcopy(data)
    there = f"~/{wheel.name}"
    ready["file_mounts"] = {**(ready.get("file_mounts") or {}), TOKEN: str(token), there: str(wheel)}
    pip = "python -m pip install --quiet --disable-pip-version-check"
    # once for the libraries it needs, and once for this very build: its version may be installed already
    install = f"{pip} {there} && {pip} --force-reinstall --no-deps {there}"
    ready["setup_commands"] = [
        *(ready.get("setup_commands") or []),
        f"chmod 600 {TOKEN}",
        f"{activation(ready)}{install}",
    ]
    environment = dict(ENVIRONMENT)
    if ready["provider"]["type"] == "local":
        # Ray's newer autoscaler starts one worker of a list of machines and waits for the others for ever
        environment["RAY_enable_autoscaler_v2"] = "0"
    started = " ".join([*(f"{name}={value}" for name, value in environment.items()), "ray start"])
    for name in _STARTS:
        ready[name] = [_START.sub(started, each) for each in ready[name]]
    return ready


def activation(data: dict[str, Any]) -> str:
    """Return what the cluster file writes before ``ray stop``: how Ray's Python environment is entered."""
    found = (_STOP.match(command) for name in _STARTS for command in data[name])
    return next((match[1] for match in found if match), "")


def stop_command(data: dict[str, Any]) -> str:
    """Return what stops Ray on a node: on the login PATH there may be no ``ray``."""
    return f"{activation(data)}ray stop --force"
