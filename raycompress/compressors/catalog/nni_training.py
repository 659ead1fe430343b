"""NNI's pruners that act while a model trains, or that train it."""

from __future__ import annotations

from raycompress.compressors.catalog.entry import CompressorEntry

ENTRIES: tuple[CompressorEntry, ...] = ()
