"""Who watches what is run: the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from raycompress.results.journal.journal import Event


class View(Protocol):
    """Whoever watches."""

    def phase(self, text: str) -> None:
        """What is being done now, outside of the trials."""

    def note(self, text: str) -> None:
        """Something worth knowing that is no mistake."""


class SearchView(View, Protocol):
    """Whoever watches a search."""

    def progress(self, done: int, total: int, what: str) -> None:
        """How much of the phase is done, and what comes next; 0 of 0 where that is over."""

    def history(self, events: Iterable[Event]) -> None:
        """What stands in the journal of a search that is resumed."""

    def event(self, event: Event) -> None:
        """Something that stands in the journal by now."""
