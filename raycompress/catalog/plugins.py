"""What other distributions add by entry points: found without an import, loaded when its name is asked for.

A distribution declares, in its ``pyproject.toml``::

    [project.entry-points."raycompress.compressors"]
    spread = "raycompress_spread:Spread"

The class carries its catalogue entry as the attribute ``entry``. Its module is imported when the name is used, or the
catalogue is listed; it should import torch inside its methods, so that ``raycompress validate`` needs no torch.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Protocol

from raycompress.errors import PluginError

TYPES: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}
"""Type of an argument -> the Python types that a file may give it; a bool is no number."""


@dataclass(frozen=True)
class Plugin:
    """One entry point of another distribution.

    Attributes
    ----------
    group
        ``raycompress.compressors``, ``.proposers``, ``.exports`` or ``.runtimes``.
    name
        The name that users write.
    value
        ``module:Class``.
    distribution
        Name and version of the distribution that declares it.
    """

    group: str
    name: str
    value: str
    distribution: str

    def __str__(self) -> str:
        return f'the plug-in "{self.name}" of {self.distribution}'

    @property
    def where(self) -> str:
        """The entry point, as its distribution declares it."""
        return f"{self.group}: {self.name} = {self.value}"

    @property
    def project(self) -> str:
        """The distribution's name alone, as pip takes it."""
        return self.distribution.partition(" ")[0]


class _Named(Protocol):
    """What the class of a plug-in carries as ``entry``."""

    @property
    def name(self) -> str: ...


class _Argument(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def default(self) -> Any: ...
    @property
    def summary(self) -> str: ...
    @property
    def required(self) -> bool: ...
    @property
    def type(self) -> str: ...


def declared(group: str) -> Mapping[str, tuple[Plugin, ...]]:
    """Return name -> the plug-ins of `group` that have it; nothing is imported. More than one of a name is a clash."""
    return _declared(group, tuple(sys.path))


@lru_cache(maxsize=16)
def _declared(group: str, _path: tuple[str, ...]) -> Mapping[str, tuple[Plugin, ...]]:
    found: dict[str, dict[Plugin, None]] = {}
    for point in entry_points(group=group):
        distribution = (
            f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"
        )
        found.setdefault(point.name, {})[Plugin(group, point.name, point.value, distribution)] = None
    return {name: tuple(plugins) for name, plugins in sorted(found.items())}


def only(group: str, name: str, *, taken: bool) -> Plugin | None:
    """Return the plug-in called `name`, or None where there is none.

    Parameters
    ----------
    taken
        Whether something of raycompress itself has the name.

    Raises
    ------
    PluginError
        Several have the name, so that it is not clear which of them is meant.
    """
    plugins = declared(group).get(name, ())
    if not plugins or (len(plugins) == 1 and not taken):
        return next(iter(plugins), None)
    owners = [*(["raycompress itself"] if taken else []), *(plugin.distribution for plugin in plugins)]
    spare = plugins[-1].project
    raise PluginError(
        f'the name "{name}" is taken twice, by {" and by ".join(owners)}',
        where="; ".join(plugin.where for plugin in plugins),
        fix=f"pip uninstall {spare}, or a version of it with another name",
    )


def require(needed: Iterable[tuple[str, str, str]]) -> None:
    """Check that plug-ins are installed on this machine: those that a search needs where its trials run.

    Parameters
    ----------
    needed
        ``(group, name, distribution)`` of each, as they were where the search was started.

    Raises
    ------
    PluginError
        One is missing, or is of another version.
    """
    for group, name, distribution in needed:
        here = {plugin.distribution for plugin in declared(group).get(name, ())}
        if distribution not in here:
            there = f"has {' and '.join(here)}" if here else "has none of the name"
            project, _, version = distribution.partition(" ")
            raise PluginError(
                f'"{name}" comes with {distribution}, and this machine, {platform.node()}, {there}',
                where=group,
                fix=f"pip install {project}=={version} on every node, in the environment that Ray runs in",
            )


def load(plugin: Plugin, kind: type[_Named]) -> type:
    """Import the module of a plug-in and return its class, whose ``entry`` is a `kind`.

    Raises
    ------
    PluginError
        The module cannot be imported, or the class is not what it must be.
    """
    module, _, attribute = plugin.value.partition(":")
    fix = f"pip install --upgrade {plugin.project}, or tell its author; pip uninstall {plugin.project} takes it away"
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # a module of somebody else may raise anything
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(f"{plugin} cannot be loaded: {text}", where=plugin.where, fix=fix) from error
    entry = getattr(found, "entry", None)
    if not isinstance(found, type) or not isinstance(entry, kind):
        what = f"{plugin} cannot be used: {plugin.value} is no class with an entry, a {kind.__name__}"
        raise PluginError(what, where=plugin.where, fix=fix)
    if entry.name != plugin.name:
        what = f'{plugin} cannot be used: its entry is called "{entry.name}"'
        raise PluginError(what, where=plugin.where, fix=fix)
    return found


def checked_arguments(plugin: Plugin, arguments: Iterable[_Argument]) -> None:
    """Raise PluginError where the arguments in an entry of a plug-in cannot be what they say."""
    seen: set[str] = set()
    for argument in arguments:
        what = ""
        if argument.name in seen:
            what = f'it has two arguments "{argument.name}"'
        elif argument.type not in ("", *TYPES):
            what = f'its argument "{argument.name}" has the type "{argument.type}"'
        elif not argument.required and argument.default is not None and not is_of(argument.type, argument.default):
            what = f'the default of its argument "{argument.name}" is no {argument.type}'
        if what:
            fix = f"its author writes one of {', '.join(TYPES)}, a default of it, and each name once"
            raise PluginError(f"{plugin} cannot be used: {what}", where=plugin.where, fix=fix)
        seen.add(argument.name)


def missing_methods(found: type, names: Iterable[str]) -> str:
    """Return what is wrong with the class of a plug-in that lacks some of these methods; empty where it has all."""
    missing = [name for name in names if not callable(getattr(found, name, None))]
    return f"it has no method {' and '.join(missing)}" if missing else ""


def is_of(kind: str, value: Any) -> bool:
    """Tell whether `value` is of a type of `TYPES`; every value is of the empty one."""
    if not kind:
        return True
    return isinstance(value, TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
