"""Torch-Pruning's methods, which prune whole groups of tied layers."""

from __future__ import annotations

from raycompress.compressors.catalog.entry import CompressorEntry

ENTRIES: tuple[CompressorEntry, ...] = ()
