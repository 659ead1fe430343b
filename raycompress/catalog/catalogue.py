"""A catalogue: our own entries, and those of plug-ins, under one set of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from raycompress.catalog.plugins import Plugin, declared, load, only
from raycompress.errors import PluginError, Problem


class Entry(Protocol):
    """What a catalogue says of one thing."""

    @property
    def name(self) -> str:
        """The name that users write."""
        ...

    @property
    def distribution(self) -> str:
        """Name and version of the distribution that it comes with; empty for our own."""
        ...

    def of_plugin(self, plugin: Plugin, found: type) -> Self:
        """Return the entry that the class `found` of a plug-in carries, complete; raises PluginError."""
        ...


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Catalogue(Generic[E]):
    """Entries by name.

    Attributes
    ----------
    group
        The group of entry points that plug-ins are declared in.
    kind
        The class of the entries.
    built_in
        Our own.
    """

    group: str
    kind: type[E]
    built_in: tuple[E, ...]

    def names(self) -> tuple[str, ...]:
        """Return all names, each once, our own first; no plug-in is imported."""
        return tuple(dict.fromkeys([*(entry.name for entry in self.built_in), *declared(self.group)]))

    def find(self, name: str) -> Sequence[E]:
        """Return the entries called `name`: several where it is there for several frameworks, or none.

        Raises
        ------
        PluginError
            It is a plug-in that cannot be used, or the name is taken twice.
        """
        ours = [entry for entry in self.built_in if entry.name == name]
        plugin = only(self.group, name, taken=bool(ours))
        return ours if plugin is None else [self._entry(plugin)]

    def plugin(self, name: str) -> Plugin | None:
        """Return the plug-in called `name`, None where that is none of a plug-in; raises PluginError on a clash."""
        return only(self.group, name, taken=any(entry.name == name for entry in self.built_in))

    def load(self, name: str) -> Any:
        """Return the class of the plug-in called `name`, which is there; raises PluginError."""
        plugin = self.plugin(name)
        assert plugin is not None, name
        self._entry(plugin)
        return load(plugin, self.kind)

    def all(self) -> tuple[tuple[E, ...], tuple[Problem, ...]]:
        """Return all entries, plug-ins loaded, and what is wrong with those that cannot be used."""
        entries, problems = list(self.built_in), list[Problem]()
        for name in declared(self.group):
            try:
                entries += [entry for entry in self.find(name) if entry not in self.built_in]
            except PluginError as error:
                problems += error.problems
        return tuple(entries), tuple(problems)

    def _entry(self, plugin: Plugin) -> E:
        found: Any = load(plugin, self.kind)
        entry: E = found.entry
        return entry.of_plugin(plugin, found)
