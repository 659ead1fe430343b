"""Shell commands before and after a script: ``runtime_args.prescript`` and ``postscript``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from raycompress.errors import ScriptError

_OF_THE_SHELL = ("_", "SHLVL", "PWD", "OLDPWD")


@contextmanager
def around(before: str, after: str) -> Iterator[None]:
    """Run the commands `before` now and `after` at the end, however that comes; both in this process's folder.

    What `before` exports is in this process's environment afterwards. What they print goes where this process's output
    goes.

    Raises
    ------
    ScriptError
        The commands end with another exit code than 0; of `after` only where nothing else went wrong.
    """
    if before:
        _take_over(_run(before, "prescript"))
    try:
        yield
    except BaseException:
        if after:
            _run_after_failure(after)
        raise
    if after:
        _run(after, "postscript")


def _run_after_failure(after: str) -> None:
    try:
        _run(after, "postscript")
    except ScriptError as error:  # what went wrong before is the trial's cause; this stands in its log
        print(error, file=sys.stderr)


def _run(commands: str, key: str) -> dict[str, str]:
    """Run `commands` in one shell and return the environment at their end; none where they left the shell."""
    shell = shutil.which("bash") or "sh"
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as environment_file:  # no pipe: an environment may be larger than one holds
        script = f"{commands}\nstatus=$?; [ $status = 0 ] && env -0 >&{environment_file.fileno()}; exit $status"
        done = subprocess.run([shell, "-c", script], stdin=subprocess.DEVNULL, pass_fds=[environment_file.fileno()])
        if done.returncode != 0:
            raise ScriptError(
                f"{key} ended with exit code {done.returncode}: {commands}",
                where=f"runtime_args.{key}",
                fix="what it printed is in the trial's log",
            )
        environment_file.seek(0)
        entries = environment_file.read().decode(errors="surrogateescape").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def _take_over(environment: dict[str, str]) -> None:
    if not environment:
        return
    known = sys.path[:]
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if name not in _OF_THE_SHELL})
    added = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder and folder not in known]
    sys.path[1:1] = added  # as Python would have it: after the script's own folder
