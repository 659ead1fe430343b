"""``raycompress migrate``: an experiment file of the old tool, explained and brought into today's form."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.options import json_option, print_text
from raycompress.errors import ExperimentError, StorageError, UsageError

if TYPE_CHECKING:
    from raycompress.config.migration.report import Migration, Remark

_WIDTH = 80


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Write FILE in today's form; the old one is kept as FILE.orig.")
@json_option
def migrate(file: Path, write: bool, as_json: bool) -> int:
    """Show what became of the keys of FILE, an experiment of Auptimizer's Compressor, and what can be better in it.

    Such a file runs as it is; --write changes how it is written, never what it means, and keeps its comments. Slips of
    its JSON that can mean one thing only, such as True for true, are mended too; without --write they are listed, with
    exit code 2. Any other mistake is reported as `raycompress validate` does, and nothing is written.
    """
    from raycompress.config.migration.report import Migration

    try:
        migration = Migration.of(file)
    except ExperimentError as error:
        if not as_json:
            raise
        from raycompress.cli.commands.experiment.validate import as_data

        click.echo(as_data(error))
        return error.exit_code
    original = None
    if write and migration.text != migration.before:
        original = _write(migration)
        now = Migration.of(file)  # what is still to say is about the lines of the new file
        migration = replace(migration, remarks=now.remarks, advice=now.advice, kept=now.kept)
    if as_json:
        click.echo(json.dumps(_data(migration, original), indent=2))
    else:
        print_text(text_of(migration, original))
    return ExperimentError.exit_code if migration.slips and not write else 0


def _write(migration: Migration) -> Path:
    """Replace the file in one step, and return where what it was is kept."""
    from raycompress.disk import write_whole

    file = migration.path.resolve()  # a link stays a link
    original = file.with_name(f"{file.name}.orig")
    try:
        with original.open("xb") as copy:
            copy.write(file.read_bytes())
        shutil.copystat(file, original)
    except FileExistsError:
        fix = "move it away, so that what the file is now can be kept there"
        what = f"{original.name} is there already, and is not overwritten"
        raise UsageError(what, where=str(original), fix=fix) from None
    except OSError as error:
        raise StorageError(f"cannot write: {error.strerror}", where=str(original)) from error
    try:
        write_whole(file, migration.text)
        shutil.copymode(original, file)
    except StorageError:
        original.unlink()
        raise
    return original


def _data(migration: Migration, original: Path | None) -> dict[str, Any]:
    facts = asdict(migration)
    chosen = {name: facts[name] for name in ("slips", "changes", "remarks", "advice", "kept", "text")}
    kept_at = None if original is None else str(original)
    return {"file": str(migration.path), "written": original is not None, "original": kept_at, **chosen}


def text_of(migration: Migration, original: Path | None = None) -> str:
    """Return what there is to say of a file, in at most 80 columns; `original` is where it was kept, once written."""
    mends = "--write mends, as it is no JSON:"
    changes = "--write changes, with the same meaning:"
    better = "could be better; --write leaves it:"
    if original is not None:
        mends, changes = (f"{done} (lines of {original.name}):" for done in ("mended", "changed"))
        better = "could be better:"
    blocks = [
        _state(migration, original),
        _block(mends, [(one, f"{one.what}; {one.write}", "") for one in migration.slips]),
        _block(changes, [(one, one.what, "") for one in migration.changes]),
        _block("not quite what it was:", [(one, f"{one.path} {one.what}", "") for one in migration.remarks]),
        _block(better, [(one, f"{one.path}: {one.what}", one.write) for one in migration.advice]),
        _filled("as it was:  ", ", ".join(migration.kept)),
    ]
    return "\n\n".join(filter(None, blocks))


def _state(migration: Migration, original: Path | None) -> str:
    if original is not None:
        state = f"written in today's form; the old one is {original.name}"
    elif migration.slips:
        state = "no JSON as it is; --write mends it"
    elif migration.changes:
        state = "runs as it is; --write brings it into today's form"
    else:
        state = "runs as it is, and is in today's form"
    return f"{migration.path}: {state}"


def _block(title: str, items: Sequence[tuple[Remark, str, str]]) -> str:
    lines = [title] if items else []
    for remark, text, write in items:
        label = "  absent" if remark.line is None else f"  line {remark.line}"
        lines.append(_filled(f"{label:<12}", text))
        if write:
            lines.append(_filled(f"{'':<12}-> ", write))
    return "\n".join(lines)


def _filled(label: str, text: str) -> str:
    return textwrap.fill(
        *(text, _WIDTH),
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
