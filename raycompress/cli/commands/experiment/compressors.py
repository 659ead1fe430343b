"""``raycompress compressors``: the catalogue, as a table or one entry at a time."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import asdict

import click

from raycompress.catalog import COMPRESSORS, FRAMEWORKS, Argument, CompressorEntry, names
from raycompress.catalog.quantizers import OF_LAYERS
from raycompress.catalog.stages import is_for_stages, may_follow
from raycompress.cli.options import print_text
from raycompress.errors import Problem, UsageError
from raycompress.text import did_you_mean

_WIDTH = 80


@click.command()
@click.argument("name", required=False)
@click.option("--framework", type=click.Choice(FRAMEWORKS), help="Those of one framework only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compressors(name: str | None, framework: str | None, as_json: bool) -> None:
    """List the compressors, plug-ins among them, or describe the one called NAME."""
    if name is not None:
        entries, problems = _find(name, framework), tuple[Problem, ...]()
    else:
        every, problems = COMPRESSORS.all()
        entries = [entry for entry in every if framework in (None, entry.framework)]
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
    elif name is None:
        click.echo(_table(entries))
    else:
        click.echo("\n\n".join(_description(entry) for entry in entries))
    for problem in problems:
        print_text(str(problem), err=True)


def _find(name: str, framework: str | None) -> list[CompressorEntry]:
    """Return the entries called `name`, one for each framework that has it."""
    found = [entry for entry in COMPRESSORS.find(name) if framework in (None, entry.framework)]
    if not found:
        fix = f"{did_you_mean(name, names())} `raycompress compressors` lists them all".lstrip()
        raise UsageError(f'unknown compressor "{name}"', fix=fix)
    return found


def _table(entries: list[CompressorEntry]) -> str:
    wide = max(len(entry.name) for entry in entries)
    lines: list[str] = []
    for family, group in families(entries):
        lines += [family, ""]
        for entry in group:
            source = f" ({entry.distribution})" if entry.distribution else ""
            lines.append(_indented(f"  {entry.name:<{wide}}  ", entry.summary + source))
        lines.append("")
    return "\n".join([*lines, "raycompress compressors NAME describes one, with its arguments."])


def families(entries: Iterable[CompressorEntry]) -> list[tuple[str, list[CompressorEntry]]]:
    """Return the entries by framework and kind, in the catalogue's order: ``torch, pruning`` first."""
    found: dict[str, list[CompressorEntry]] = {}
    for entry in entries:
        found.setdefault(f"{entry.framework}, {entry.kind}", []).append(entry)
    return list(found.items())


def _description(entry: CompressorEntry) -> str:
    facts = {
        "framework": f"{entry.framework}, {entry.kind}",
        "layers": layers_of(entry),
        "acts": entry.acts,
        "shrinks": shrinks(entry),
        "entries": keys_of(entry),
        "follows": follows(entry),
        "paper": entry.paper,
        "plug-in": entry.distribution,
    }
    lines = [textwrap.fill(f"{entry.name}: {entry.summary}", _WIDTH), ""]
    lines += [_indented(f"{label:<11}", text) for label, text in facts.items() if text]
    lines += ["", "arguments"] if entry.arguments else ["", "It takes no arguments of its own."]
    for argument in entry.arguments:
        lines.append(_indented("  ", f"{argument.name} ({source_of(argument)}): {argument.summary}", "      "))
    return "\n".join(lines)


def layers_of(entry: CompressorEntry) -> str:
    """Return the layer types that a compressor takes, in words."""
    types = ", ".join(entry.layer_types) or "any with a weight"
    return f"{types}; {entry.instead} takes others" if entry.instead and entry.layer_types else types


def shrinks(entry: CompressorEntry) -> str:
    """Return whether and how a compressor makes the model smaller, in words."""
    if entry.kind == "quantization":
        return "the file, by fewer bits"
    if entry.returns_small:
        return "yes, in compress() itself"
    cut = "yes, by apply_speedup" + ", before training too" * (not entry.trains)
    if entry.base:
        return f"{cut}, unless {entry.base} is level"
    return cut if entry.removes_channels else "no, it sets weights to zero"


def follows(entry: CompressorEntry) -> str:
    """Return which compressors it may follow in an experiment of several stages, in words."""
    if not is_for_stages(entry):
        return ""
    pruners = [one.name for one in COMPRESSORS.built_in if one.framework == "torch" and one.kind == "pruning"]
    found = may_follow(entry, COMPRESSORS.built_in)
    if found == pruners:
        return "any pruner, in an experiment of several stages"
    return (
        f"{', '.join(found)}, in an experiment of several stages"
        if found
        else "none: of several stages it is the first"
    )


def keys_of(entry: CompressorEntry) -> str:
    """Return what an entry of the config_list may hold beside the choice of layers, in words."""
    needed = [need if isinstance(need, str) else " or ".join(need) for need in entry.needs]
    single = {key for need in entry.needs for key in ((need,) if isinstance(need, str) else need)}
    bits = f" ({', '.join(map(str, OF_LAYERS[entry.name]))})" if entry.name in OF_LAYERS else ""
    further = [key + bits if key == "quant_bits" else key for key in entry.keys if key not in single]
    texts = [f"need {', '.join(needed)}" if needed else "", f"may have {', '.join(further)}" if further else ""]
    return "; ".join(filter(None, texts)) or "choose layers, nothing else"


def source_of(argument: Argument) -> str:
    """Return where an argument comes from and its default, in words."""
    if argument.required:
        return "the script must pass it" if argument.from_script else "required"
    if argument.from_script:
        return "from the script only"
    return f"{argument.type}, default {json.dumps(argument.default)}".removeprefix(", ")


def _indented(label: str, text: str, indent: str | None = None) -> str:
    hanging = " " * len(label) if indent is None else indent
    return textwrap.fill(text, _WIDTH, initial_indent=label, subsequent_indent=hanging)
