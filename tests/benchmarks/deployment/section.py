"""The section of ``make bench``: the same measurements as `make deployment`, in the two environments that they need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import ROOT
from tests.benchmarks.deployment.measuring import lines_of
from tests.benchmarks.deployment.table import COLUMNS, cells
from tests.benchmarks.outcome import Outcome
from tests.benchmarks.processes import CommandFailed
from tests.support.outside.environments import TARGETS, ZOO

TITLE = "Six networks in every runtime"


def measure(path: Path, say: Callable[[str], None]) -> Outcome:
    """Measure what the lines in `path` do not have yet; the page is left as it is.

    Raises
    ------
    CommandFailed
        The measuring has failed.
    """
    if not (ZOO.is_there and TARGETS.is_there):
        missing = "left out: no environment of the networks or of the runtimes; `make deployment` builds both"
        return Outcome(TITLE, COLUMNS, [], notes=[missing])
    command = [ZOO.python, "-m", "tests.benchmarks.deployment", "--lines", path, "--no-page"]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
        raise CommandFailed("tests.benchmarks.deployment has failed; what it said stands above")
    lines = lines_of(path)
    say(f"{len(lines)} conversions")
    return Outcome(TITLE, COLUMNS, cells(lines), raw={"lines": lines})
