"""``raycompress``: the command line. Each verb lives in a file of its own and is loaded when it is called."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from raycompress.errors import RaycompressError
from raycompress.runtime.processes import open_standard_streams
from raycompress.text import did_you_mean

# verb -> (module, one line for --help); a table, so that --help loads no verb
VERBS: dict[str, tuple[str, str]] = {
    "validate": ("raycompress.cli.commands.experiment.validate", "Check an experiment file, without running anything."),
    "migrate": (
        "raycompress.cli.commands.experiment.migrate",
        "Say what became of the keys of an Auptimizer file, and renew it.",
    ),
    "plan": ("raycompress.cli.commands.experiment.plan", "Show what a launch would search, keep and cost."),
    "run": ("raycompress.cli.commands.search.launch", "Run a one-time experiment: no search range, one trial."),
    "launch": ("raycompress.cli.commands.search.launch", "Run an experiment, one-time or automatic."),
    "resume": (
        "raycompress.cli.commands.search.resume",
        "Go on with a search that was killed or stopped, or add trials to it.",
    ),
    "ls": ("raycompress.cli.commands.results.ls", "List the experiments in a results folder."),
    "status": ("raycompress.cli.commands.results.status", "Show how an experiment stands, trial by trial."),
    "logs": ("raycompress.cli.commands.results.logs", "Print the log of a trial."),
    "stop": ("raycompress.cli.commands.search.stop", "Stop a search that was left running on a cluster."),
    "best": (
        "raycompress.cli.commands.results.best",
        "Show the best model of an experiment; --verify reloads and compares it.",
    ),
    "measure": (
        "raycompress.cli.commands.results.measure",
        "Run and time a model in an inference runtime, here or on another machine.",
    ),
    "fetch": (
        "raycompress.cli.commands.results.fetch",
        "Download the best model of an experiment on S3, and check its hashes.",
    ),
    "report": (
        "raycompress.cli.commands.results.report",
        "Write an experiment as one HTML page, or as an Optuna study.",
    ),
    "analyze": ("raycompress.cli.commands.search.analyze", "Measure what each layer of the model bears and costs."),
    "exec": (
        "raycompress.cli.commands.search.exec",
        "Run a plain script of the old tool, with its `aup` in place; no experiment.",
    ),
    "compressors": ("raycompress.cli.commands.experiment.compressors", "List the compressors, or describe one."),
    "doctor": ("raycompress.cli.commands.machine.doctor", "Check what works on this machine, and with a cluster file."),
    "cluster": ("raycompress.cli.commands.machine.cluster", "Write, check, see and take down a cluster of machines."),
    "schema": ("raycompress.cli.commands.experiment.schema", "Print the JSON Schema of the experiment file."),
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = getattr(importlib.import_module(VERBS[name][0]), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            ctx.fail("; ".join(filter(None, [f'no command "{name}"', did_you_mean(name, VERBS)])))
        return super().resolve_command(ctx, args)


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="raycompress", message="%(prog)s %(version)s")
def cli() -> None:
    """Make a trained network smaller and faster: search how much to compress each layer, keep the best.

    \b
    raycompress validate exp.json     check the file
    raycompress launch exp.json       search, and keep the best model and its mask
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit; an error of ours is three lines on stderr and its own exit code."""
    open_standard_streams()
    if argv is None:
        _begin_in_utf8()
    try:
        result: Any = cli.main(args=argv, prog_name="raycompress", standalone_mode=False)
    except RaycompressError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        sys.stdout = None  # what waits in it cannot be written at the end either
        click.echo(f"error: what was found cannot be printed: {error.strerror}", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


def _begin_in_utf8() -> None:
    """Begin this process again with UTF-8 names of files, where a locale has Python take them for something else.

    Ray, torch and the trials take all paths for UTF-8.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
