"""The catalogue as Markdown."""

from __future__ import annotations

from raycompress.catalog import CATALOG, CompressorEntry
from raycompress.cli.commands.experiment.compressors import families, keys_of, layers_of, shrinks, source_of


def markdown() -> str:
    """Return a section for each family: one table of its compressors, and the arguments of each."""
    parts: list[str] = []
    for family, entries in families(CATALOG):
        parts += [f"## {family}", "", *_table(entries), ""]
        for entry in entries:
            parts += [*_arguments(entry), ""]
    return "\n".join(parts).rstrip() + "\n"


def _table(entries: list[CompressorEntry]) -> list[str]:
    rows = [
        (f"`{entry.name}`", entry.summary, layers_of(entry), shrinks(entry), entry.acts, entry.paper)
        for entry in entries
    ]
    return table(("name", "what it does", "layers", "makes the model smaller", "acts", "paper"), rows)


def _arguments(entry: CompressorEntry) -> list[str]:
    lines = [f"**`{entry.name}`**: entries of its config_list {keys_of(entry)}."]
    lines += [f"- `{item.name}` ({source_of(item)}): {item.summary}" for item in entry.arguments]
    return lines


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return a Markdown table, a line each."""
    return [_row(header), _row(("---",) * len(header)), *(_row(row) for row in rows)]


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
