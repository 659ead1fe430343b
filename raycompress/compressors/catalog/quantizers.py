"""Quantizers of torch models: NNI's, and those that work after the training."""

from __future__ import annotations

from raycompress.compressors.catalog.entry import CompressorEntry

ENTRIES: tuple[CompressorEntry, ...] = ()
