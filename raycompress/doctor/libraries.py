"""Checks of the versions of Python and of the libraries, without importing them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from platform import python_version

from packaging.requirements import Requirement

from raycompress.clusters.file.check import Check, State, failed, warning
from raycompress.extras import unavailable

_SHOWN = ("ray", "torch", "nni")
_EXTRA_OF_DEVELOPERS = "dev"
_ABSENT = "not installed"


def check_libraries(n_gpus: int) -> Iterator[Check]:
    """Look at the versions of Python, of the libraries and of those of the extras.

    Parameters
    ----------
    n_gpus
        How many GPUs there are, which torch should be built for.
    """
    about = metadata.metadata("raycompress")
    yield _python(str(about.json.get("requires_python", "")))
    asked = [Requirement(line) for line in metadata.requires("raycompress") or ()]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    for library in _SHOWN:
        yield from (_library(one, n_gpus) for one in needed if one.name == library)
    others = [_library(one, n_gpus) for one in needed if one.name not in _SHOWN]
    yield from (check for check in others if check.state is not State.OK)
    fitting = sum(check.state is State.OK for check in others)
    yield Check("other libraries", State.OK, f"{fitting} of {len(others)} as raycompress needs them")
    yield from _extras(about.get_all("Provides-Extra") or [], asked)


def _python(supported: str) -> Check:
    version = python_version()
    if Requirement(f"python{supported}").specifier.contains(version):
        return Check("Python", State.OK, version)
    fix = "make an environment with such a Python"
    return failed("Python", f"Python {version} is not among {supported}", fix=fix)


def _library(asked: Requirement, n_gpus: int) -> Check:
    version, fault = _version(asked)
    if fault:
        return failed(asked.name, fault, fix=f"pip install '{asked.name}{asked.specifier}'")
    if asked.name == "torch" and n_gpus and version.endswith("+cpu"):
        fix = f"install the build of torch {version.removesuffix('+cpu')} for CUDA"
        return warning("torch", f"torch {version} is built for CPUs alone, and there are GPUs", fix=fix)
    return Check(asked.name, State.OK, f"{version} ({asked.specifier} is needed)")


def _version(asked: Requirement) -> tuple[str, str]:
    """Return the version that is installed, and what is wrong with it; nothing where it fits."""
    try:
        version = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        return _ABSENT, f"{asked.name} is not installed"
    if asked.specifier.contains(version, prereleases=True):
        return version, ""
    return version, f"{asked.name} {version} is not among {asked.specifier}"


def _extras(extras: list[str], asked: list[Requirement]) -> Iterator[Check]:
    """Look at each extra: there, absent, or there in part, which is a fault."""
    there, absent, lacking = [], [], []
    for extra in sorted(set(extras) - {_EXTRA_OF_DEVELOPERS}):
        of_extra = [one for one in asked if _is_of(one, extra)]
        found = [_version(one) for one in of_extra]
        # the library that it is named after; others may come with another extra, or with the core as sqlalchemy does
        main = next((place for place, one in enumerate(of_extra) if one.name == extra), 0)
        faults = [fault for _, fault in found if fault]
        lacking += [
            f"{extra} without {name}, which needs Python {' or '.join(pythons)}"
            for name, pythons in unavailable(extra).items()
        ]
        if not found:
            continue
        if not faults:
            there.append(extra)
        elif found[main][0] == _ABSENT:
            absent.append(extra)
        else:
            yield warning(f"extra {extra}", "; ".join(faults), fix=f"pip install 'raycompress[{extra}]'")
    how = f"; absent: pip install 'raycompress[{','.join(absent)}]'" if absent else ""
    yield Check("extras", State.OK, (", ".join(there) or "none") + how)
    if lacking:
        yield Check("extras on this Python", State.OK, "; ".join(lacking))


def _is_of(asked: Requirement, extra: str) -> bool:
    """Tell whether `extra` is why a library is asked for."""
    marker = asked.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
