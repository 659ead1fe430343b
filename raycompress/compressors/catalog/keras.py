"""Compressors of Keras models."""

from __future__ import annotations

from raycompress.compressors.catalog.entry import CompressorEntry

ENTRIES: tuple[CompressorEntry, ...] = ()
