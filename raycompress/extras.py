"""Libraries that only some users have: imported on use; a missing one says which extra of raycompress brings it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable
from importlib import metadata
from types import ModuleType

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from raycompress.errors import MissingDependencyError

_PYTHONS = ("3.11", "3.12", "3.13")
"""The versions of Python that raycompress works with."""

_OURS = re.compile(r"raycompress\[(\w+)\]")


def load_extra(module: str, extra: str, what: str, where: str = "") -> ModuleType:
    """Import and return `module`.

    Parameters
    ----------
    module
        Such as ``onnxruntime.quantization``.
    extra
        The extra of raycompress that brings it.
    what
        What needs it, for the message.
    where
        The place that asks for it: a file and line, or an option; the import statement where it is left out.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise _missing(missing, f"raycompress[{extra}]", what, where or f"import {module}") from error


def check_installed(modules: Iterable[str], install: str, what: str, where: str = "") -> None:
    """Look whether modules could be imported; none is.

    Parameters
    ----------
    install
        What brings them, as pip takes it: ``raycompress[onnx]``, or a distribution; the module's own name where empty.
    what, where
        As of `load_extra`.

    Raises
    ------
    MissingDependencyError
        One of them is not installed.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _missing(module, install or module, what, where)


def _missing(module: str, install: str, what: str, where: str) -> MissingDependencyError:
    extra = _OURS.fullmatch(install)
    pythons = unavailable(extra[1]).get(canonicalize_name(module.partition(".")[0]), ()) if extra else ()
    if extra is None or not pythons:
        return MissingDependencyError(
            f"{what} needs {module}, which is not installed", where=where, fix=f"pip install '{install}'"
        )
    return MissingDependencyError(
        f"{what} needs {module}, which the extra {extra[1]} cannot bring on Python {_running()}",
        where=where,
        fix=f"an environment with Python {' or '.join(pythons)}, and there pip install '{install}'",
    )


def unavailable(extra: str) -> dict[str, tuple[str, ...]]:
    """Return the libraries of an extra that cannot be installed on this Python, by the markers of pyproject.toml.

    Returns
    -------
    Name of the library, such as ``tensorflow-model-optimization``, -> the versions of Python that it is there on.
    """
    asked = [Requirement(line) for line in metadata.requires("raycompress") or ()]
    here = {canonicalize_name(one.name) for one in asked if _applies(one, extra, _running())}
    found: dict[str, tuple[str, ...]] = {}
    for one in asked:
        pythons = tuple(python for python in _PYTHONS if _applies(one, extra, python))
        if pythons and (name := canonicalize_name(one.name)) not in here:
            found[name] = (*found.get(name, ()), *pythons)
    return found


def _applies(asked: Requirement, extra: str, python: str) -> bool:
    """Tell whether a library is asked for because of `extra`, on a version of Python such as ``3.12``."""
    if asked.marker is None:
        return False
    place = {"python_version": python, "python_full_version": f"{python}.0"}
    with_extra, without = ({**place, "extra": name} for name in (extra, ""))
    return asked.marker.evaluate(with_extra) and not asked.marker.evaluate(without)


def _running() -> str:
    return default_environment()["python_version"]
