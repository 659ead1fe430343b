"""Every compressor by its name: what it is, what it takes, which engine computes its masks.

Light: importing this loads no torch. The tables of `raycompress compressors` and of docs/compressors.md come from here.
Plug-ins stand in it like our own; the module of one is imported when its name is asked for.
"""

from __future__ import annotations

from raycompress.catalog import keras, nni, quantizers, torch_pruning
from raycompress.catalog.catalogue import Catalogue
from raycompress.catalog.entry import EXPERTS, FRAMEWORKS, WEIGHTED_TYPES, Argument, CompressorEntry

__all__ = [
    "CATALOG",
    "COMPRESSORS",
    "EXPERTS",
    "FRAMEWORKS",
    "WEIGHTED_TYPES",
    "Argument",
    "CompressorEntry",
    "find",
    "names",
]

CATALOG: tuple[CompressorEntry, ...] = (
    *(entry.with_compensation() for entry in (*nni.ENTRIES, *torch_pruning.ENTRIES)),
    *quantizers.ENTRIES,
    *keras.ENTRIES,
)
"""Our own compressors; a name stands once for each framework that has it."""

COMPRESSORS = Catalogue("raycompress.compressors", CompressorEntry, CATALOG)
"""All compressors, those of plug-ins too."""


def find(name: str, framework: str = "torch") -> CompressorEntry | None:
    """Return the compressor `name` of `framework`; where that has none, the one of another framework, or None.

    Raises
    ------
    PluginError
        It is a plug-in that cannot be used, or its name is taken twice.
    """
    found = {entry.framework: entry for entry in reversed(COMPRESSORS.find(name))}
    return next((found[place] for place in (framework, *FRAMEWORKS) if place in found), None)


def names(framework: str | None = None) -> tuple[str, ...]:
    """Return the names of all compressors, or of one framework's, each once.

    For those of one framework plug-ins are loaded; one that cannot be used is left out.
    """
    if framework is None:
        return COMPRESSORS.names()
    return tuple(dict.fromkeys(entry.name for entry in COMPRESSORS.all()[0] if entry.framework == framework))
