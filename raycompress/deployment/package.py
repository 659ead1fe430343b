"""The agent as one file: a zip of its sources, which any Python runs."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from functools import cache
from importlib import resources
from pathlib import Path

from raycompress.script import node

_PACKAGE = "raycompress.deployment.agent"
_MAIN = f"from {_PACKAGE}.serve import main\n\nmain()\n"
_PARTLY = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
_DATE = (1980, 1, 1, 0, 0, 0)


@cache
def content() -> bytes:
    """Return the zip; the same sources give the same bytes.

    Its modules have the names that they have here, so that the class of a plug-in finds its base class in both places;
    what is not in it is raycompress's own where that is installed beside the plug-in.
    """
    inside = _PACKAGE.replace(".", "/")
    files = {"__main__.py": _MAIN.encode()}
    files |= dict.fromkeys(("raycompress/__init__.py", "raycompress/deployment/__init__.py"), _PARTLY.encode())
    root = resources.files(_PACKAGE)
    for folder, prefix in ((root, ""), (root / "runtimes", "runtimes/")):
        for file in folder.iterdir():
            if file.name.endswith(".py"):
                files[f"{inside}/{prefix}{file.name}"] = file.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _DATE), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def version() -> str:
    """Return what tells one agent from another: the beginning of the zip's SHA-256."""
    return hashlib.sha256(content()).hexdigest()[:12]


def path() -> Path:
    """Return the zip's place on this machine, where it is written if it is not there."""
    file = node.runtime_folder() / f"agent-{version()}.pyz"
    if not file.is_file():
        aside = file.with_name(f"{file.name}.{os.getpid()}")
        aside.write_bytes(content())
        aside.replace(file)
    return file
