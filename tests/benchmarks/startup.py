"""How long a command takes that runs nothing."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import ROOT
from tests.benchmarks.outcome import Outcome, Target, median, seconds
from tests.benchmarks.processes import Run, run

_COMMAND = str(Path(sys.executable).with_name("raycompress"))
BARE = "python -c pass"
HELP = "raycompress --help"
VALIDATE = "raycompress validate exp.json"
IMPORT = "import raycompress.script.report"
COMMANDS = {
    BARE: [sys.executable, "-c", "pass"],
    HELP: [_COMMAND, "--help"],
    VALIDATE: [_COMMAND, "validate", str(ROOT / "configs" / "digits" / "auto_l1.json")],
    IMPORT: [sys.executable, "-c", "import raycompress.script.report"],
}


def measure(repeats: int, say: Callable[[str], None]) -> Outcome:
    """Run each command `repeats` times, one after the other; a first round fills the caches and is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for repeat in range(repeats + 1):
            for name, command in COMMANDS.items():
                done = run(command, cwd=Path(folder))
                if repeat:
                    runs[name].append(done)
        say(f"{repeats} rounds done")
    walls = {name: median([done.wall for done in done_runs]) for name, done_runs in runs.items()}
    rows = [
        [
            name,
            seconds(walls[name], 3),
            seconds(min(done.wall for done in done_runs), 3),
            seconds(median([done.cpu for done in done_runs]), 3),
            seconds(walls[name] - walls[BARE], 3),
        ]
        for name, done_runs in runs.items()
    ]
    return Outcome(
        f"Start-up: seconds, median of {repeats}",
        ["command", "wall", "fastest", "CPU", "beyond bare Python"],
        rows,
        targets=[
            Target(HELP, walls[HELP], 0.25, " s"),
            Target(VALIDATE, walls[VALIDATE], 0.5, " s"),
            Target(f"{IMPORT}, beyond bare Python", walls[IMPORT] - walls[BARE], 0.05, " s"),
        ],
        raw={name: [{"wall": done.wall, "cpu": done.cpu} for done in done_runs] for name, done_runs in runs.items()},
    )
