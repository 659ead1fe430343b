"""The agent's loop: reads one request after another, answers each, and ends with the stream."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import platform
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from . import frames
from .places import BusyError, after, alone, own_folder
from .runtime import Options, RefusedError, Runtime, Session

_IDLE_S, _BUSY_S = 3600.0, 60.0
"""Of a connection that was cut this end may hear nothing, and the models stay loaded; a client is told to ask again."""
Answer = tuple[dict[str, Any], Sequence[bytes]]


class Agent:
    """What a client has given the agent: models as they were sent, those converted, those loaded.

    Parameters
    ----------
    runtime
        ``module:Class`` of the runtime that this agent is for.
    folder
        Where files go.
    """

    def __init__(self, runtime: str, folder: Path) -> None:
        module, _, name = runtime.partition(":")
        self._runtime: Runtime = getattr(importlib.import_module(module), name)()
        self._folder = folder
        self._sessions: dict[str, Session] = {}

    def answer(self, message: dict[str, Any], blobs: list[bytes]) -> Answer:
        """Return what a request asks for; one with a lock while nobody else does such a thing on this machine."""
        do: Callable[[dict[str, Any], list[bytes]], Answer] = getattr(self, f"_{message['do']}")
        if "lock" not in message:
            return do(message, blobs)
        try:
            with alone(message["lock"], _BUSY_S):
                return do(message, blobs)
        except BusyError:
            return {"is_busy": True}, []

    def _examine(self, message: dict[str, Any], _blobs: list[bytes]) -> Answer:
        """Tell what this machine is, what the runtime lacks, and why it cannot run here."""
        missing = self._runtime.missing(converting=message["converting"])
        refused, fix = ("", "") if missing else self._refusal(Options(**message["options"]))
        facts = {
            "missing": missing,
            "wheel": self._runtime.distributions[-1],
            "refused": refused,
            "fix": fix,
            "version": "" if missing else self._runtime.version(),
            "python": platform.python_version(),
            "machine": platform.node(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        }
        return facts, []

    def _refusal(self, options: Options) -> tuple[str, str]:
        """Return why the runtime cannot run here with such options, and the remedy; nothing where it can."""
        try:
            self._runtime.check(options)
        except RefusedError as error:
            return error.what, error.fix
        return "", ""

    def _put(self, message: dict[str, Any], blobs: list[bytes]) -> Answer:
        """Store the files of a model, sent whole."""
        folder = self._place(message["key"])
        for name, blob in zip(message["names"], blobs, strict=True):
            (folder / Path(name).name).write_bytes(blob)
        return {}, []

    def _get(self, message: dict[str, Any], _blobs: list[bytes]) -> Answer:
        """Return the files of a model."""
        paths = sorted(self._place(message["key"]).iterdir())
        return {"names": [path.name for path in paths]}, [path.read_bytes() for path in paths]

    def _convert(self, message: dict[str, Any], blobs: list[bytes]) -> Answer:
        """Convert a model that was sent, and tell the seconds that it took."""
        source = next(self._place(message["source"]).iterdir())
        folder = self._place(message["key"])
        arrays = frames.unpacked(blobs)
        width = message["width"]
        samples = [arrays[start : start + width] for start in range(0, len(arrays), width)] if width else []
        begun = time.perf_counter()
        self._runtime.convert(source, folder, Options(**message["options"]), samples)
        return {"seconds": time.perf_counter() - begun}, []

    def _load(self, message: dict[str, Any], _blobs: list[bytes]) -> Answer:
        """Load a model that was converted."""
        key = message["key"]
        folder = self._place(key)
        self._sessions[key] = self._runtime.load(folder, Options(**message["options"]))
        return {"memory_mb": self._runtime.memory_mb(folder)}, []

    def _drop(self, message: dict[str, Any], _blobs: list[bytes]) -> Answer:
        """Forget a model, its files too."""
        self._sessions.pop(message["key"], None)
        shutil.rmtree(self._place(message["key"]), ignore_errors=True)
        return {}, []

    def _run(self, message: dict[str, Any], blobs: list[bytes]) -> Answer:
        """Return the outputs of one pass."""
        return {}, frames.packed(self._sessions[message["key"]].run(frames.unpacked(blobs)))

    def _time(self, message: dict[str, Any], blobs: list[bytes]) -> Answer:
        """Time models in turn, round by round: seconds by the clock and of CPU time, for each pass of each model."""
        sessions = [self._sessions[key] for key in message["keys"]]
        arrays = frames.unpacked(blobs)
        prepared = [session.prepared(arrays) for session in sessions]
        with _no_garbage():
            return {"times": _timed(sessions, prepared, message)}, []

    def _ping(self, _message: dict[str, Any], _blobs: list[bytes]) -> Answer:
        """Answer nothing."""
        return {}, []

    def _place(self, key: str) -> Path:
        folder = self._folder / Path(key).name
        folder.mkdir(exist_ok=True)
        return folder


def _timed(
    sessions: Sequence[Session], prepared: Sequence[Any], message: dict[str, Any]
) -> list[list[tuple[float, float]]]:
    """Return the times of each session's passes; see `Agent._time`."""
    times: list[list[tuple[float, float]]] = [[] for _ in sessions]
    end = time.monotonic() + message["seconds"]
    for number in range(-message["warm_up"], message["rounds"]):
        for session, inputs, measured in zip(sessions, prepared, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            session.step(inputs)
            once = time.perf_counter() - wall, time.process_time() - cpu
            if number >= 0:
                measured.append(once)
        if number >= 0 and time.monotonic() > end:
            break
    return times


def serve(runtime: str, source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer requests until the stream ends; what goes wrong in one is its answer."""
    with own_folder() as folder:
        agent = Agent(runtime, folder)
        frames.write(sink, {"ready": True})
        while True:
            try:
                with after(_IDLE_S, EOFError("no request for an hour")):
                    message, blobs = frames.read(source)
            except EOFError:
                return
            try:
                answer, content = agent.answer(message, blobs)
            except RefusedError as error:
                answer, content = {"error": error.what, "fix": error.fix}, []
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises is the client's to tell
                lines = traceback.format_exception_only(type(error), error)
                answer, content = {"error": lines[-1].strip()}, []
            frames.write(sink, answer, content)


def main() -> None:
    """Serve on the standard streams; whatever a library prints goes to the standard error."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # so that the folder is removed
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):  # the client is gone
        serve(sys.argv[1], sys.stdin.buffer, sink)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
