"""Checks between the stages of a compression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from raycompress.catalog import CompressorEntry
from raycompress.catalog.stages import why_not_after
from raycompress.config.schema.ranges import Finding


def check_order(compressors: Sequence[CompressorEntry | None]) -> Iterator[Finding]:
    """Yield each stage that cannot follow the one before; None is a compressor that is not known."""
    for number, (before, entry) in enumerate(pairwise(compressors), 1):
        if before is not None and entry is not None:
            what, fix = why_not_after(entry, before)
            if what:
                yield Finding(("compression", number, "compressor"), what, fix)
