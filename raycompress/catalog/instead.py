"""Which compressor to recommend in the place of one that does not take some layers, and what that changes in a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from raycompress.catalog import CATALOG, CompressorEntry
from raycompress.text import join_names

SELECTION = ("op_names", "op_types", "exclude", "expand_op_names")


def recommended(
    compressor: CompressorEntry,
    types: Collection[str],
    entry: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Return the name, in quotes, of a compressor that takes layers of all `types`, with what else has to change.

    Empty where there is none: `CompressorEntry.instead` first, else another that does the same kind of thing.

    Parameters
    ----------
    entry, arguments
        What the file gives `compressor`; what the other one does not know is said to go.
    """
    alike = [one for one in CATALOG if (one.framework, one.kind) == (compressor.framework, compressor.kind)]
    named = [one for one in alike if one.name == compressor.instead]
    near = [one for one in alike if one.takes_groups and compressor.removes_channels]
    for other in (*named, *near):
        if other.name != compressor.name and set(types) <= set(other.layer_types or types):
            return f'"{other.name}"{_changes(other, entry or {}, arguments or {})}'
    return ""


def _changes(other: CompressorEntry, entry: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    lost = [key for key in entry if key not in other.keys and key not in SELECTION]
    lost += [name for name in arguments if other.argument(name) is None]
    either = [(need,) if isinstance(need, str) else need for need in other.needs]
    new = [f'"{need[0]}"' for need in either if entry and not any(key in entry for key in need)]
    changes = [f"with {join_names(new)}"] if new else []
    if lost:
        quoted = (f'"{name}"' for name in lost)
        changes.append(f"without {join_names(quoted)}")
    return f" ({', '.join(changes)})" if changes else ""
