"""The one loop of a search, whoever runs its trials."""

from __future__ import annotations

from contextlib import closing

from raycompress.backend.protocol import Backend, Result
from raycompress.search.search import Search


def run(search: Search, backend: Backend) -> None:
    """Run all trials of `search` on `backend`; the journal then holds how each ended, and the folder the best model."""
    search.begin()
    with closing(backend):
        while not search.is_over:
            while backend.room() and (trial := search.propose()) is not None:
                backend.start(trial)
            if search.is_over:
                break
            for event in backend.poll():
                if not isinstance(event, Result):
                    search.add(event)
                elif why := search.why_stop(event):
                    backend.stop(event.number)
                    search.end_early(event, why)
    search.conclude()
