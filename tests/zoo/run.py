"""Networks one after another, followed and compressed, each in a process with a bound on time and memory.

    python -m tests.zoo.run [--engine NAME] [--lines FILE] [NAME ...]

A name may be a part of one: `timm/` are all of timm; with a `$` behind it is a name's end. Engines are `axes`, which is
what finds couplings, and the compressors; quantizers run where they are named. What was found is kept in build/zoo and
not run again while the sources are the same.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from raycompress.compressors.measure.difference import TOLERANCE
from tests.zoo import compensating
from tests.zoo.attempt import COMPRESSORS, SECONDS, Progress, attempt
from tests.zoo.networks.catalogue import catalogue
from tests.zoo.networks.network import Network
from tests.zoo.quantizing import QUANTIZERS, is_quantized, quantize

ENGINES = ("axes", *COMPRESSORS)
EVERY = (*ENGINES, *QUANTIZERS)
CHOICES = (*EVERY, compensating.ENGINE)
SIDE_BY_SIDE = 2
BATCH = 12
"""How many bundles one fresh process loads."""

_ROOT = Path(__file__).parents[2]
_KEPT = _ROOT / "build" / "zoo" / "cells.jsonl"
_NO_SOURCES = ("__main__.py", "table.py", "compensated.py", "test_zoo.py")  # they change the page, not what is in it

Cell = dict[str, Any]


def main() -> None:
    """Run the networks that were named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--engine", action="append", choices=CHOICES)
    parser.add_argument("--jobs", type=int, default=SIDE_BY_SIDE, help="networks at a time")
    parser.add_argument("--lines", type=Path)
    options = parser.parse_args()
    for cell in cells(options.names, options.engine or ENGINES, options.jobs):
        if options.lines:
            with options.lines.open("a") as file:
                file.write(json.dumps(cell) + "\n")


def cells(names: Sequence[str], engines: Sequence[str] = ENGINES, jobs: int = SIDE_BY_SIDE) -> Iterator[Cell]:
    """Yield the cell of each engine and network whose name holds one of `names`, of all where there are none."""
    torch.set_num_threads(1)
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    os.environ.setdefault("YOLO_OFFLINE", "true")
    sources = fingerprint()
    kept = {(cell["network"], cell["engine"]): cell for cell in _kept() if cell["sources"] == sources}
    networks = [one for name, one in catalogue().items() if not names or any(part in f"{name}$" for part in names)]
    wanted = [
        (one, engine) for one in networks for engine in engines if engine not in QUANTIZERS or is_quantized(one.name)
    ]
    yield from (kept[network.name, engine] for network, engine in wanted if (network.name, engine) in kept)
    wanted = [(network, engine) for network, engine in wanted if (network.name, engine) not in kept]
    if not wanted:
        return
    _load_libraries({network.name.partition("/")[0] for network, _ in wanted}, {engine for _, engine in wanted})
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for cell in _Pool(wanted, Path(folder), jobs).cells():
            cell["sources"] = sources
            with _KEPT.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            spent = f"{cell.get('all', 0):.0f} s"
            print(cell["network"], cell["engine"], cell["result"], spent, cell.get("reason", "")[:150], flush=True)
            yield cell


def fingerprint() -> str:
    """Return a hash of all that a cell depends on: the sources of raycompress and of this folder."""
    files = [*(_ROOT / "raycompress").rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.name not in _NO_SOURCES):
        digest.update(file.relative_to(_ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _kept() -> list[Cell]:
    return [json.loads(line) for line in _KEPT.read_text().splitlines()] if _KEPT.exists() else []


_LIBRARIES = {"smp": "segmentation_models_pytorch", "ultralytics": "ultralytics.nn.tasks"}


def _load_libraries(families: Iterable[str], engines: Collection[str]) -> None:
    """Import what the networks and the compressors need once; a forked process has it."""
    warnings.simplefilter("ignore")
    own: tuple[str, ...] = (
        "raycompress.compressors.pruning.pruner",
        "torch_pruning.pruner.importance",
        "torch.utils.flop_counter",
    )
    if not set(QUANTIZERS).isdisjoint(engines):
        own += ("torchao.quantization", "onnxruntime.quantization", "onnxscript", "torch.onnx.utils")
    for name in (*(_LIBRARIES.get(family, family) for family in sorted(families)), *own):
        try:
            __import__(name)
        except ImportError as error:
            print(f"{name} is missing: {error}", file=sys.stderr)


@dataclass
class _Job:
    """A process, and what is made of what it leaves.

    Attributes
    ----------
    pid
        The process.
    progress
        The file that says how far it is and how much memory it may have.
    seconds
        How long it may take by the clock, on a machine that others use too.
    end
        Is called with why the process was ended, or with an empty text, and its CPU seconds; returns finished cells.
    """

    pid: int
    progress: Path
    seconds: float
    end: Callable[[str, float], list[Cell]]
    started: float = field(default_factory=time.monotonic)
    ended_by: str = ""

    def cells(self) -> list[Cell] | None:
        """Return the cells of a process that has ended; None while it works."""
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid:
            if os.WIFSIGNALED(status) and not self.ended_by:
                name = signal.Signals(os.WTERMSIG(status)).name
                self.ended_by = "time" if name in ("SIGXCPU", "SIGKILL") else f"killed by {name}"
            return self.end(self.ended_by, used.ru_utime + used.ru_stime)
        if not self.ended_by and time.monotonic() - self.started > self.seconds:
            self._kill("time")
        elif not self.ended_by and _resident(self.pid) > _read(self.progress).get("limit", 1 << 62):
            self._kill("memory")
        return None

    def _kill(self, reason: str) -> None:
        self.ended_by = reason
        os.kill(self.pid, signal.SIGKILL)


class _Pool:
    """Attempts, some at a time; now and then a fresh process loads the bundles that they left."""

    def __init__(self, wanted: Sequence[tuple[Network, str]], folder: Path, jobs: int) -> None:
        self._jobs = jobs
        self._wanted = collections.deque(wanted)
        self._folder = folder
        self._running: list[_Job] = []
        self._saved: list[tuple[Cell, Path]] = []

    def cells(self) -> Iterator[Cell]:
        """Yield each cell once it is complete."""
        while self._wanted or self._running or self._saved:
            while len(self._running) < self._jobs and self._start():
                pass
            time.sleep(0.05)
            for job in list(self._running):
                found = job.cells()
                if found is not None:
                    self._running.remove(job)
                    yield from found

    def _start(self) -> bool:
        if len(self._saved) >= BATCH or (self._saved and not self._wanted and not self._running):
            batch, self._saved = self._saved[:BATCH], self._saved[BATCH:]
            self._running.append(_reloading(batch, self._folder))
            return True
        if not self._wanted:
            return False
        self._running.append(self._attempt(*self._wanted.popleft()))
        return True

    def _attempt(self, network: Network, engine: str) -> _Job:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        file = folder / "cell.json"
        child = _forked(lambda: _work(network, engine, folder, Progress(file)))

        def end(ended_by: str, seconds: float) -> list[Cell]:
            known = _read(file)
            cell = {"network": network.name, "engine": engine, "task": network.task, "all": round(seconds, 2), **known}
            if "result" not in known:
                cell |= {"result": ended_by or "traceback", "reason": f"in the phase: {known.get('phase', 'start')}"}
            if cell["result"] == "saved":
                self._saved.append((cell, folder))
                return []
            shutil.rmtree(folder, ignore_errors=True)
            return [cell]

        return _Job(child, file, 8 * SECONDS, end)


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the copy of the caller ends here whatever happens
            traceback.print_exc()
        finally:
            os._exit(0)
    return child


def _work(network: Network, engine: str, folder: Path, progress: Progress) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (2 * SECONDS, resource.RLIM_INFINITY))  # for building it, too
    if engine in QUANTIZERS:
        quantize(network, engine, folder, progress)
        return
    if engine == compensating.ENGINE:
        compensating.compensated(network, progress)
        return
    if engine != "axes":
        attempt(network, engine, folder, progress)
        return
    from tests.zoo.cell import measure

    try:
        progress.write(**measure(network))
    except Exception as error:  # noqa: BLE001 - whatever a network raises is its cell
        reason = f"{type(error).__name__}: {error}"[:300]
        progress.write(result="error", reason=reason, trace=traceback.format_exc()[-1500:])


def _reloading(batch: list[tuple[Cell, Path]], folder: Path) -> _Job:
    """Start a fresh process that loads bundles."""
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    asked, answered = Path(name), Path(f"{name}.lines")
    asked.write_text(json.dumps([[cell["network"], str(place / "bundle")] for cell, place in batch]))
    command = [sys.executable, "-W", "ignore", "-m", "tests.zoo.reloading", str(asked)]
    output = (os.POSIX_SPAWN_OPEN, 1, str(answered), os.O_WRONLY | os.O_CREAT, 0o600)
    child = os.posix_spawn(sys.executable, command, os.environ, file_actions=[output])

    def end(ended_by: str, _seconds: float) -> list[Cell]:
        lines = answered.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        missing = {"reason": f"the process that loads it ended: {ended_by or 'by itself'}"}
        for place, (cell, bundle) in enumerate(batch):
            cell |= found[place] if place < len(found) else missing
            cell["result"] = "ok" if cell.get("reloaded", 1.0) <= TOLERANCE else "does not reload"
            shutil.rmtree(bundle, ignore_errors=True)
        return [cell for cell, _ in batch]

    return _Job(child, asked.with_suffix(".none"), 4 * SECONDS * len(batch), end)


def _read(file: Path) -> dict[str, Any]:
    """Return what a process wrote last; nothing before it has."""
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    return {}


def _resident(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


if __name__ == "__main__":
    main()
