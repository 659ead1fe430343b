"""Builds a wheel of the running raycompress for the nodes of a cluster."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import raycompress
from raycompress.disk import translate_os_errors

_PACKAGE = Path(raycompress.__file__).parent
_SHIPPED = ("configs", "cluster")
"""Folders of the source tree that a wheel holds in ``raycompress/shipped``."""


def make_wheel(folder: Path) -> Path:
    """Pack the code that runs here, installed or a source tree, into a wheel in `folder`.

    Returns
    -------
    The wheel; equal code gives an equal file.
    """
    version = metadata.version("raycompress")
    information = f"raycompress-{version}.dist-info"
    wheel = folder / f"raycompress-{version}-py3-none-any.whl"
    record: list[str] = []
    aside = wheel.with_suffix(".new")
    with translate_os_errors("cannot write", wheel), zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*_code(), *_information(information)]:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
        record_name = f"{information}/RECORD"
        archive.writestr(zipfile.ZipInfo(record_name), "\n".join([*record, f"{record_name},,"]) + "\n")
    with translate_os_errors("cannot write", wheel):
        aside.replace(wheel)
    return wheel


def _code() -> Iterator[tuple[str, bytes]]:
    roots = {"raycompress": _PACKAGE}
    if not (_PACKAGE / "shipped").exists():  # a source tree
        roots |= {f"raycompress/shipped/{name}": _PACKAGE.parent / name for name in _SHIPPED}
    for prefix, root in roots.items():
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{prefix}/{path.relative_to(root).as_posix()}", path.read_bytes()


def _information(folder: str) -> Iterator[tuple[str, bytes]]:
    installed = metadata.distribution("raycompress")
    for name in ("METADATA", "entry_points.txt"):
        yield f"{folder}/{name}", (installed.read_text(name) or "").encode()
    yield f"{folder}/WHEEL", b"Wheel-Version: 1.0\nGenerator: raycompress\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def unpacked_wheel(scratch: Path) -> list[Path]:
    """Return the folders that Ray is to put on the path of a job's processes.

    As a wheel Ray would install it by pip, with all that it needs, in every job. Unpacked, it takes the libraries that
    the nodes have; what they lack is told before the first trial.
    """
    home = scratch / "modules"
    home.mkdir()
    with zipfile.ZipFile(make_wheel(scratch)) as wheel:
        wheel.extractall(home)
    return sorted(home.iterdir())
