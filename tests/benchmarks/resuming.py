"""How soon a search of a thousand ended trials goes on, and how long the journal of ten thousand takes to read."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import ROOT
from tests.benchmarks.outcome import Outcome, Target, seconds
from tests.benchmarks.processes import CommandFailed

PROPOSERS = ("random", "optuna", "hyperopt", "spearmint")
_COMMAND = str(Path(sys.executable).with_name("raycompress"))
_REAL = 4
_LIMIT_S = 300


def measure(n_ended: int, n_read: int, say: Callable[[str], None]) -> Outcome:
    """Resume a search of `n_ended` ended trials with each proposer, and read a journal of `n_read` of them."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        found = {proposer: _first_trial(Path(name), proposer, n_ended, say) for proposer in PROPOSERS}
        wall, cpu, size = _read(Path(name), n_read)
    rows = [[f"first trial of a resumed search, {proposer}", seconds(value)] for proposer, value in found.items()]
    rows.append([f"the journal of {n_read:,} trials ({size / 2**20:.0f} MiB)", f"{wall:.2f} ({cpu:.2f} of CPU)"])
    targets = [Target(f"resumed, {proposer}", value, 15, " s") for proposer, value in found.items()]
    return Outcome(
        f"Resuming with {n_ended:,} ended trials: seconds from the command on",
        ["what", "seconds"],
        rows,
        targets=[*targets, Target("the journal is read", wall, 2, " s")],
        raw={"first trial": found, "journal": {"wall": wall, "cpu": cpu, "bytes": size}},
    )


def _first_trial(folder: Path, proposer: str, n_ended: int, say: Callable[[str], None]) -> float:
    work = folder / proposer
    shutil.copytree(ROOT / "configs" / "digits", work, ignore=shutil.ignore_patterns("raycompress_results"))
    given = json.loads((work / "auto_l1.json").read_text())
    changes = {"name": "resumed", "proposer": proposer, "n_samples": _REAL, "n_parallel": 2, "random_seed": 0}
    (work / "exp.json").write_text(json.dumps({**given, **changes, "storage": "results"}))
    _run("launch", "exp.json", cwd=work)
    journal = next((work / "results").glob("*/journal.jsonl"))
    lines = lengthen(journal, n_ended)
    started = time.perf_counter()
    with (work / "said").open("wb") as said:
        resumed = [_COMMAND, "resume", str(journal.parent), "--n-samples", str(n_ended + 4)]
        process = subprocess.Popen(resumed, cwd=work, stdout=said, stderr=said)
        while process.poll() is None:
            if any(b'"event": "started"' in line for line in journal.read_bytes().splitlines()[lines:]):
                break
            if time.perf_counter() - started > _LIMIT_S:
                process.terminate()
            time.sleep(0.05)
        taken = time.perf_counter() - started
        if process.wait():
            raise CommandFailed((work / "said").read_text()[-2000:])
    say(f"{proposer}: {taken:.1f} s")
    return taken


def lengthen(journal: Path, n_trials: int) -> int:
    """Make a search's journal one of `n_trials` ended trials, by repeating one; return the number of its lines."""
    events: list[dict[str, Any]] = [json.loads(line) for line in journal.read_text().splitlines()]
    started, ended = (
        next(event for event in events if event["event"] == kind and event["trial"] == 2)
        for kind in ("started", "ended")
    )
    events = [event for event in events if event["event"] not in ("finished", "verified")]
    events[0]["n_trials"] = n_trials + 1
    chance = random.Random(0)
    for number in range(_REAL + 1, n_trials + 1):
        sample = {dimension: chance.uniform(0.1, 0.9) for dimension in started["sample"]}
        events.append({**started, "trial": number, "sample": sample})
        events.append({**ended, "trial": number, "score": 0.5 + 0.1 * chance.random(), "saved": False})
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    return len(events)


def _read(folder: Path, n_trials: int) -> tuple[float, float, int]:
    """Return wall and CPU seconds that opening the record of `n_trials` takes, and the size of its journal in bytes."""
    from raycompress import Experiment

    journal = next((folder / PROPOSERS[0] / "results").glob("*/journal.jsonl"))
    lengthen(journal, n_trials)
    wall, cpu = time.perf_counter(), time.process_time()
    record = Experiment.open(journal.parent)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if len(record.searched) != n_trials:
        raise CommandFailed(f"{len(record.searched)} trials were read of {n_trials}")
    return wall, cpu, journal.stat().st_size


def _run(*words: str, cwd: Path) -> None:
    done = subprocess.run([_COMMAND, *words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise CommandFailed(done.stderr[-2000:])
