"""The pruners of NNI."""

from __future__ import annotations

from raycompress.catalog.entry import CompressorEntry
from raycompress.catalog.nni import pruners, searching, training

ENTRIES: tuple[CompressorEntry, ...] = (*pruners.ENTRIES, *training.ENTRIES, *searching.ENTRIES)
