"""Every compressor by its name: what it is, what it takes, which engine computes its masks.

Light: importing this loads no torch. The tables of `raycompress compressors` and of docs/compressors.md come from here.
"""

from __future__ import annotations

from raycompress.catalog import keras, nni_pruners, nni_searching, nni_training, quantizers, torch_pruning
from raycompress.catalog.entry import WEIGHTED_TYPES, Argument, CompressorEntry

__all__ = ["CATALOG", "FRAMEWORKS", "WEIGHTED_TYPES", "Argument", "CompressorEntry", "find", "names"]

CATALOG: tuple[CompressorEntry, ...] = (
    *nni_pruners.ENTRIES,
    *nni_training.ENTRIES,
    *nni_searching.ENTRIES,
    *torch_pruning.ENTRIES,
    *quantizers.ENTRIES,
    *keras.ENTRIES,
)
"""All compressors; a name stands once for each framework that has it."""

FRAMEWORKS = ("torch", "tensorflow")

_BY_NAME = {(entry.framework, entry.name): entry for entry in CATALOG}


def find(name: str, framework: str = "torch") -> CompressorEntry | None:
    """Return the compressor `name` of `framework`; where that has none, the one of another framework, or None."""
    found = (_BY_NAME.get((place, name)) for place in (framework, *FRAMEWORKS))
    return next((entry for entry in found if entry is not None), None)


def names(framework: str | None = None) -> tuple[str, ...]:
    """Return the names of all compressors, or of one framework's, each once."""
    return tuple(dict.fromkeys(entry.name for entry in CATALOG if framework in (None, entry.framework)))
