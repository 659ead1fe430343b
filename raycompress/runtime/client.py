"""Client of the warm process: starts or joins it, and runs trials in it, one at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Self

from raycompress.errors import ScriptError, StorageError
from raycompress.runtime import processes as memory
from raycompress.runtime.messages import Lines
from raycompress.runtime.protocol import Ending, Hello, Message, TrialSpec, WarmSpec, encode, numbers
from raycompress.script.node import runtime_folder
from raycompress.states import TrialState

__all__ = ["Ending", "Hello", "TrialSpec", "WarmProcess", "WarmSpec", "Worker", "connect_or_start"]

_SECONDS_TO_END = 2.0


class WarmProcess:
    """Handle of a warm process, which lives at least as long as this.

    Use `start`, which returns at once; `connect` waits for the imports.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @classmethod
    def start(cls, spec: WarmSpec) -> Self:
        """Start the process, or join the one that runs already, without waiting for its imports.

        Raises
        ------
        StorageError
            When there is no place for its socket.
        """
        with (runtime_folder() / "lock").open("a") as lock:  # closing it unlocks it
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = None
            connection = _connect(spec)
            if connection is None:
                try:
                    process = _start(spec)
                except OSError as error:
                    raise StorageError(f"the warm process cannot be started: {error}", where=str(spec.folder)) from None
                connection = _connect(spec)
        if connection is None:
            raise StorageError("the warm process ended as it started", where=str(spec.log))
        return cls(Worker(connection, spec, process))

    def wait_ready(self, timeout: float = 600.0) -> Hello:
        """Wait for its imports; see `Worker.wait_ready`."""
        return self._worker.wait_ready(timeout)

    def connect(self, timeout: float = 600.0) -> Worker:
        """Wait for its imports and return this process's client of it; see `Worker.wait_ready`."""
        self.wait_ready(timeout)
        return self._worker

    def close(self) -> None:
        """Let go of it; see `Worker.close`."""
        self._worker.close()


def connect_or_start(spec: WarmSpec, timeout: float = 600.0) -> Worker:
    """Return a client of this machine's warm process for `spec`, ready to run; start the process if there is none.

    Raises
    ------
    ScriptError
        When the process dies during its imports, or takes longer than `timeout` seconds.
    StorageError
        When there is no place for its socket.
    """
    return WarmProcess.start(spec).connect(timeout)


class Worker:
    """One client of a warm process; it runs one trial at a time.

    Parameters
    ----------
    connection
        Connected to the process's socket.
    spec
        What the process was started with.
    process
        The process, if this one started it.
    """

    def __init__(
        self, connection: socket.socket, spec: WarmSpec, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._process = process
        self._connection = connection
        self._spec = spec
        self._hello: Hello | None = None
        self._lines = Lines()
        self._received: list[Message] = []
        self._number = 0
        self._memory_kills = 0
        self._sending = False
        self._under_way = False
        self._stop_wanted = False
        self.is_closed = False

    def wait_ready(self, timeout: float = 600.0) -> Hello:
        """Wait until the process has done its imports, and return their outcome.

        Raises
        ------
        ScriptError
            When it dies on the way, or takes longer than `timeout` seconds.
        """
        if self._hello is not None:
            return self._hello
        deadline = time.monotonic() + timeout
        while not self._received:
            self._connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                alive = self._receive()
            except TimeoutError:
                raise ScriptError(
                    f"the script's imports took longer than {timeout:g} s", where=str(self._spec.log)
                ) from None
            if not alive:
                raise self._died()
        self._connection.settimeout(None)
        self._hello = Hello.from_message(self._received.pop(0))
        return self._hello

    def run(self, spec: TrialSpec) -> Generator[Message | Ending, None, None]:
        """Run a trial: yield the script's messages as they come, and last its `Ending`.

        Closing the iterator before its end kills the trial, and waits until the last of its processes is gone.
        """
        self.wait_ready()
        self._number += 1
        started = time.monotonic()
        self._stop_wanted = False
        self._memory_kills = memory.kills()
        self._under_way = True
        try:
            with contextlib.suppress(OSError):  # the process is gone, or this client closed: the messages end with that
                self._request(replace(spec, shared=str(self._spec.shared)))
            yield from self._messages(spec, started)
        finally:
            if self._under_way:  # the caller left early
                self.stop()
                for _ in self._messages(spec, started):
                    pass

    def stop(self) -> None:
        """Kill the trial that runs, if one does; for another thread or a signal handler as well."""
        self._stop_wanted = True
        if self._under_way and not self._sending:
            with contextlib.suppress(OSError):  # it is gone, and its trial with it
                self._connection.sendall(encode({"stop": self._number}))

    def close(self) -> None:
        """Leave; a trial that runs is killed, and a process that has no other client ends, which is waited for.

        For another thread or a signal handler as well.
        """
        self.is_closed = True
        with contextlib.suppress(OSError):  # already gone
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it has other clients
                self._process.wait(_SECONDS_TO_END)

    def _request(self, spec: TrialSpec) -> None:
        self._sending = True
        try:
            self._connection.sendall(encode({"run": spec.to_json(), "number": self._number}))
        finally:
            self._sending = False
        if self._stop_wanted:
            self.stop()

    def _messages(self, spec: TrialSpec, started: float) -> Iterator[Message | Ending]:
        while True:
            while self._received:
                message = self._received.pop(0)
                if message["type"] == "end":
                    self._under_way = False
                    yield Ending.from_message(message)
                    return
                if message["type"] == "result":
                    message = {**message, "values": numbers(message["values"])}
                yield message
            if self.is_closed or not self._receive():
                self._under_way = False
                state, cause = TrialState.KILLED, "the process that watched over it, or the warm process, is gone"
                if memory.kills() > self._memory_kills:
                    state, cause = TrialState.OUT_OF_MEMORY, f"{cause}, probably killed as memory was exhausted"
                if self.is_closed:
                    state, cause = TrialState.STOPPED, "stopped"
                self.is_closed = True
                yield Ending(state, cause, spec.log_path, time.monotonic() - started)
                return

    def _receive(self) -> bool:
        """Wait for more from the process; False when it is gone."""
        try:
            data = self._connection.recv(1 << 18)
        except TimeoutError:
            raise
        except OSError:  # reset, or closed by another thread
            return False
        self._received += [json.loads(line) for line in self._lines.feed(data)]
        return bool(data)

    def _died(self) -> ScriptError:
        try:
            lines = self._spec.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return ScriptError(
            "the process that imports the script's modules died: " + (lines[-1] if lines else "it printed nothing"),
            where=str(self._spec.log),
            fix="import the script's modules in a fresh python, one by one, to find which one fails",
        )


def _connect(spec: WarmSpec) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(spec.socket))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise StorageError(
            f"cannot use the socket of the warm process: {error}",
            where=str(spec.socket),
            fix="set TMPDIR to a folder of this machine with a short path",
        ) from None
    return connection


def _start(spec: WarmSpec) -> subprocess.Popen[bytes]:
    """Start the process. Its socket listens from the first moment on, so that clients need not wait to connect."""
    _sweep(spec)
    spec.folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener, spec.log.open("wb") as log:
        listener.bind(str(spec.socket))
        listener.listen(128)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "raycompress.runtime.warm", str(listener.fileno()), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=spec.workingdir,
            env=_environment(spec.env),
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # it died: waiting for it tells
        stdin.write(json.dumps(spec.to_json()).encode())
    return process


def _sweep(spec: WarmSpec) -> None:
    """Remove what killed processes left behind; of others than `spec`, an hour is left for reading their log."""
    shutil.rmtree(spec.folder, ignore_errors=True)
    for folder in runtime_folder().glob("*/"):
        with socket.socket(socket.AF_UNIX) as client:
            try:
                old = time.time() - folder.stat().st_mtime > 3600
                client.connect(str(folder / "socket"))
            except (ConnectionRefusedError, FileNotFoundError):
                if old:
                    shutil.rmtree(folder, ignore_errors=True)


def _environment(changes: Mapping[str, str | None]) -> dict[str, Any]:
    """Return this process's environment with `changes`; None removes a variable."""
    # equal seeds shall give equal runs, whichever process they run in
    merged = {"PYTHONHASHSEED": "0", **os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}
