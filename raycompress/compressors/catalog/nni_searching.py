"""NNI's pruners that search how much to remove from each layer."""

from __future__ import annotations

from raycompress.compressors.catalog.entry import CompressorEntry

ENTRIES: tuple[CompressorEntry, ...] = ()
