"""``raycompress compressors``: the catalogue, as a table or one entry at a time."""

from __future__ import annotations

import difflib
import json
import textwrap
from dataclasses import asdict

import click

from raycompress.compressors.catalog import CATALOG, CompressorEntry, names
from raycompress.errors import UsageError

_WIDTH = 80


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compressors(name: str | None, as_json: bool) -> None:
    """List the compressors, or describe the one called NAME."""
    if name is None:
        click.echo(json.dumps([asdict(entry) for entry in CATALOG], indent=2) if as_json else _table())
        return
    found = _find(name)
    described = [asdict(entry) for entry in found]
    click.echo(json.dumps(described, indent=2) if as_json else "\n\n".join(_description(entry) for entry in found))


def _find(name: str) -> list[CompressorEntry]:
    """Return the entries called `name`, one for each framework that has it."""
    found = [entry for entry in CATALOG if entry.name == name]
    if not found:
        near = difflib.get_close_matches(name, names(), n=1)
        fix = f'did you mean "{near[0]}"? ' if near else ""
        raise UsageError(f'unknown compressor "{name}"', fix=f"{fix}`raycompress compressors` lists them all")
    return found


def _table() -> str:
    rows = [("NAME", "KIND", "LAYERS", "SHRINKS")]
    rows += [
        (entry.name, entry.kind, ", ".join(entry.layer_types) or "any with a weight", _yes(entry.removes_channels))
        for entry in CATALOG
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    summaries = [textwrap.fill(f"{entry.name}: {entry.summary}", _WIDTH, subsequent_indent="    ") for entry in CATALOG]
    return "\n".join([*lines, "", *summaries, "", "raycompress compressors NAME describes one, with its arguments."])


def _description(entry: CompressorEntry) -> str:
    facts = {
        "framework": f"{entry.framework}, {entry.kind}",
        "layers": ", ".join(entry.layer_types) or "any with a weight",
        "shrinks": f"{_yes(entry.removes_channels)}, by apply_speedup" if entry.removes_channels else "no, masks only",
        "paper": entry.paper,
    }
    lines = [textwrap.fill(f"{entry.name}: {entry.summary}", _WIDTH), ""]
    lines += [_indented(f"{label:<11}", text) for label, text in facts.items()]
    lines += ["", "arguments"] if entry.arguments else ["", "It takes no arguments of its own."]
    for argument in entry.arguments:
        place = "from the script only" if argument.from_script else f"default {json.dumps(argument.default)}"
        lines.append(_indented("  ", f"{argument.name} ({place}): {argument.summary}", "      "))
    return "\n".join(lines)


def _indented(label: str, text: str, indent: str | None = None) -> str:
    hanging = " " * len(label) if indent is None else indent
    return textwrap.fill(text, _WIDTH, initial_indent=label, subsequent_indent=hanging)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
