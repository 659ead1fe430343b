"""``raycompress cluster init``: writes a cluster file from a shipped one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import print_text
from raycompress.errors import StorageError, UsageError

if TYPE_CHECKING:
    from raycompress.clusters.file.template import Blank


@click.command()
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it; NAME.yaml here by default.")
@click.option(
    "--set", "given", multiple=True, metavar="WHAT=VALUE", help="Set a value in the file, such as region=eu-west-1."
)
def init(name: str | None, output: Path | None, given: tuple[str, ...]) -> None:
    """Write a cluster file, from the one called NAME that comes with raycompress.

    Without NAME it is said which there are. On a terminal what is not given is asked.
    """
    from raycompress.clusters.file import files, template

    shipped = files.shipped()
    if name is None:
        click.echo("\n".join(f"{path.stem:<14}{_about(path)}" for path in shipped.values()))
        return
    source = files.find_shipped(name)
    output = output or Path(source.name)
    if output.exists():  # before anything is asked; and once more as it is written
        raise _is_there(output)
    text = source.read_text(encoding="utf-8")
    blanks = {blank.name: blank for blank in template.BLANKS[source.name]}
    values = _given(given, blanks, source.name)
    values = {**{what: value for what, value in template.implied(values).items() if what in blanks}, **values}
    if sys.stdin.isatty():
        values |= _asked(text, blanks, values)
    elif "image" not in values:
        values |= _image(blanks, text, values)
    filled = template.fill(text, {blanks[what]: value for what, value in values.items()})
    _write(output, filled)
    click.echo(str(output))
    for number, line in template.still_to_edit(filled):
        print_text(f"to edit:  {output}:{number}  {line}", err=True)
    next_step = f"kubectl apply -f {output}" if source.stem == "kuberay" else f"raycompress cluster check {output}"
    print_text(f"next:     {next_step}", err=True)


def _about(path: Path) -> str:
    """Return the first line of a file's own comment."""
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def _given(given: tuple[str, ...], blanks: dict[str, Blank], name: str) -> dict[str, str]:
    from raycompress.text import did_you_mean, join_names

    values = {}
    for pair in given:
        what, equals, value = pair.partition("=")
        if what not in blanks:
            fix = did_you_mean(what, blanks) or f"there are {join_names(blanks, 12)}"
            raise UsageError(f'of {name} nothing is called "{what}"', where=f"--set {pair}", fix=fix)
        if not equals or not value or (blanks[what].kind == "count" and not value.isdecimal()):
            fix = f"--set {what}={'2' if blanks[what].kind == 'count' else '...'}"
            raise UsageError(f"{blanks[what].question}: this is no value", where=f"--set {pair}", fix=fix)
        values[what] = value
    return values


def _asked(text: str, blanks: dict[str, Blank], given: dict[str, str]) -> dict[str, str]:
    """Ask for what is not given; what the file says is the answer by default."""
    from raycompress.clusters.file import template

    values: dict[str, str] = {}
    for what, blank in blanks.items():
        if what in given:
            continue
        known = {**given, **values}
        usual = template.implied(known).get(what) or template.value_of(text, blank)
        if what == "image":
            usual = _image(blanks, text, known).get("image", usual)
        kind = click.IntRange(0) if blank.kind == "count" else click.STRING
        answer = str(click.prompt(blank.question, default=usual, type=kind, err=True))
        if answer not in template.PLACEHOLDERS:
            values[what] = answer
    return values


def _image(blanks: dict[str, Blank], text: str, known: dict[str, str]) -> dict[str, str]:
    """Return the newest image of the region that is known so far, where the file is for AWS and AWS can be asked."""
    if "key-name" not in blanks:
        return {}
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    from raycompress.clusters.aws.machines import newest_image
    from raycompress.clusters.file import template

    try:
        found = newest_image(known.get("region") or template.value_of(text, blanks["region"]))
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        print_text(f"note: AWS could not be asked for the newest image: {error}", err=True)
        return {}
    return {} if found is None else {"image": found}


def _write(output: Path, text: str) -> None:
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise _is_there(output) from None
    except OSError as error:
        raise StorageError(f"cannot write: {error.strerror}", where=str(output)) from error


def _is_there(output: Path) -> UsageError:
    return UsageError(
        "there is a file already, and it is not overwritten", where=str(output), fix="--output another.yaml"
    )
