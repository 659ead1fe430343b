"""Python and the libraries, against what this version of raycompress says that it needs."""

from __future__ import annotations

import sys
from collections import defaultdict
from importlib import metadata

from packaging.requirements import Requirement

from raycompress.clusters.check import Check, State, failed, warning

_OURS = "raycompress"
# of those that work with it, in the tests, from day to day
_TESTERS = "dev"


def python() -> list[Check]:
    """Return whether this Python is one that raycompress runs on."""
    wanted, has = metadata.metadata(_OURS)["Requires-Python"], sys.version.split()[0]
    if wanted and has not in Requirement(f"python{wanted}").specifier:
        fix = "make an environment with such a Python, and install raycompress there"
        return [failed("Python", f"{has}; raycompress needs {wanted}", where=sys.executable, fix=fix)]
    return [Check("Python", State.OK, f"{has}, {sys.executable}")]


def required() -> list[Check]:
    """Return, for each library that raycompress needs, whether it is there in a version that fits."""
    return [_library(requirement) for extra, requirement in _requirements() if not extra]


def extras() -> list[Check]:
    """Return for each extra whether it is installed; one that is not is no fault."""
    of_extra: dict[str, list[Requirement]] = defaultdict(list)
    for extra, requirement in _requirements():
        if extra and extra != _TESTERS:
            of_extra[extra].append(requirement)
    return [_extra(extra, requirements) for extra, requirements in sorted(of_extra.items())]


def _requirements() -> list[tuple[str, Requirement]]:
    """Return what our own package says that it needs, each with the extra that it belongs to."""
    found = []
    for line in metadata.requires(_OURS) or []:
        requirement = Requirement(line)
        marker = str(requirement.marker or "")
        extra = marker.rpartition("extra == ")[2].strip("\"'") if "extra ==" in marker else ""
        found.append((extra, requirement))
    return found


def _library(requirement: Requirement) -> Check:
    has, fix = _version(requirement.name), f"pip install '{requirement.name}{requirement.specifier}'"
    if has is None:
        return failed(requirement.name, "not installed", fix=fix)
    if not requirement.specifier.contains(has, prereleases=True):
        return failed(requirement.name, f"{has}; needed is {requirement.specifier}", fix=fix)
    return Check(requirement.name, State.OK, has)


def _extra(extra: str, requirements: list[Requirement]) -> Check:
    name, fix = f"extra {extra}", f"pip install '{_OURS}[{extra}]'"
    checks = [_library(requirement) for requirement in requirements]
    old = [check for check in checks if check.state is State.FAILED and check.detail != "not installed"]
    if old:
        return warning(name, f"{old[0].name} is {old[0].detail}", fix=fix)
    missing = [check.name for check in checks if check.state is State.FAILED]
    if missing:
        return Check(name, State.OK, f"not installed ({', '.join(missing)}); {fix}")
    return Check(name, State.OK, ", ".join(f"{check.name} {check.detail}" for check in checks))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
