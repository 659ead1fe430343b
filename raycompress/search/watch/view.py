"""Protocols of whoever shows a running search or analysis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from raycompress.results.journal.journal import Event


class View(Protocol):
    """Shows phases, how far they are, and notes."""

    def phase(self, text: str) -> None:
        """Show what is being done now, outside of the trials."""

    def note(self, text: str) -> None:
        """Show a note."""

    def progress(self, done: int, total: int, what: str) -> None:
        """Show how much of the phase is done, and what comes next; 0 of 0 clears it."""


class SearchView(View, Protocol):
    """Shows a search."""

    def history(self, events: Iterable[Event]) -> None:
        """Add the events of earlier runs of a search that is resumed."""

    def event(self, event: Event) -> None:
        """Show an event that was written to the journal."""
