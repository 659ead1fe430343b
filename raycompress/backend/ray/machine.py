"""What Ray needs of this machine: a folder for its session, and a token."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from raycompress.script.node import folder_for_sockets

_TAIL = len("/ray-4294967295/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def session_root() -> Path:
    """Return the folder that Ray makes the folders of its sessions in.

    Ray's own is ``ray`` among the temporary files, where the path is short enough for its sockets and plain, and nobody
    else's.

    Raises
    ------
    StorageError
        There is no place for it.
    """
    if "RAY_TMPDIR" in os.environ:
        return Path(os.environ["RAY_TMPDIR"], "ray")
    folder = folder_for_sockets(_TAIL, plain=True)
    shared = folder / "ray"
    if not shared.exists() or os.access(shared, os.W_OK | os.X_OK):
        return shared
    return folder / f"ray-{os.getuid()}"


def session_logs() -> str:
    """Return where Ray keeps the logs of the session that it started last."""
    return str(session_root() / "session_latest" / "logs")


def ensure_token() -> None:
    """Give Ray a token by the environment where it could not write one to the home folder.

    In a container that runs as a user of its own there is no home that can be written.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    try:
        token = Path.home() / ".ray" / "auth_token"
        if not token.is_file():
            token.parent.mkdir(parents=True, exist_ok=True)
        if os.access(token, os.R_OK) or os.access(token.parent, os.W_OK | os.X_OK):
            return
    except (OSError, RuntimeError):  # RuntimeError: HOME is not set, and this user is not known
        pass
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
