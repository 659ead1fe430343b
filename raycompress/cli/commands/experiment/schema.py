"""``raycompress schema``: the JSON Schema of the experiment file."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of the experiment file on stdout, for editors and other programs."""
    from raycompress.config.schema.keys import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
