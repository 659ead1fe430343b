"""``raycompress schema``: the JSON Schema of the experiment file."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of the experiment file on stdout, for editors and other programs.

    The file may have comments, // and /* */, and trailing commas. An editor that marks them wants to be told that it is
    JSONC: in VS Code "files.associations": {"exp.json": "jsonc"} in the settings, beside "json.schemas".
    """
    from raycompress.config.schema.keys import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
