"""``raycompress exec``: runs a plain script of the old tool."""

from __future__ import annotations

import click


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run_script(script: str, arguments: tuple[str, ...]) -> int:
    """Run SCRIPT as python would, with `import aup` standing for raycompress.

    No experiment is made of it: what it saves goes where it says. What follows SCRIPT is the script's own.
    """
    from raycompress.script.running import run_by_hand

    return run_by_hand(script, arguments)


exec = run_script
