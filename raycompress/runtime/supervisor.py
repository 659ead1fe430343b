"""The supervisor of one client of the warm process: forks its trials, enforces their time, reports their ends.

A process of its own for each client, so that nothing has to be told apart: all its descendants are its trial's. It
outlives the warm process just long enough to clean up, and the warm process cleans up after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from raycompress.runtime import child
from raycompress.runtime import processes as memory
from raycompress.runtime.folder.system_calls import HeldCalls, receive
from raycompress.runtime.folder.workfolder import WorkFolder, tidy
from raycompress.runtime.log import CappedLog
from raycompress.runtime.messages import Lines, parse_message
from raycompress.runtime.processes import ChildWatch, become_subreaper, kill_descendants, let_descendants_end
from raycompress.runtime.protocol import Ending, Hello, Message, TrialSpec, encode
from raycompress.runtime.trial_messages import TrialMessages
from raycompress.states import TrialState

_CHUNK = 1 << 18
_LONGEST_WAIT_S = 3600.0  # a selector takes no more than some weeks
_LONGEST_MESSAGE = 64 << 20
_UNSENT_LIMIT = 1 << 20  # a client that does not read holds the script's messages back, not memory


@dataclass
class _Running:
    """A trial while it runs."""

    spec: TrialSpec
    number: int
    pid: int
    output: int
    messages: int
    log: CappedLog
    started: float
    received: TrialMessages
    channel: socket.socket | None
    """Brings what the kernel holds the trial's calls by; None once it has."""
    held: HeldCalls | None = None
    """The calls that write, where the kernel can hold them."""
    lines: Lines = field(default_factory=lambda: Lines(_LONGEST_MESSAGE))
    memory_kills: int = field(default_factory=memory.kills)
    """How often the kernel had killed for want of memory before."""
    at_end: set[int] = field(default_factory=set)
    """Which of its two pipes nobody writes to any more."""
    verdict: tuple[TrialState, str] | None = None
    """Why we ended it, if we did."""

    @property
    def deadline(self) -> float:
        """When its time is up, on the monotonic clock."""
        return math.inf if self.spec.timeout_s is None else self.started + self.spec.timeout_s


class Supervisor:
    """Serves one client until it leaves or the warm process ends.

    Parameters
    ----------
    connection
        The client.
    life
        A descriptor that reaches its end when the warm process does.
    hello
        The first thing to say.
    """

    def __init__(self, connection: socket.socket, life: int, hello: Hello) -> None:
        become_subreaper()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._connection = connection
        self._connection.setblocking(False)
        self._life = life
        self._watch = ChildWatch()
        self._selector = selectors.DefaultSelector()
        self._requests = Lines()
        self._unsent = bytearray(encode(hello.to_message()))
        self._running: _Running | None = None
        self._leaving = False

    def serve(self) -> NoReturn:
        """Serve, and end the process."""
        for source in (self._connection, self._life, self._watch.fileno()):
            self._selector.register(source, selectors.EVENT_READ)
        while not self._leaving:
            self._step()
        kill_descendants()
        self._send_rest()
        os._exit(0)

    def _step(self) -> None:
        self._flush()
        timeout = None
        if self._running is not None and self._running.deadline < math.inf:
            timeout = min(max(0.0, self._running.deadline - time.monotonic()), _LONGEST_WAIT_S)
        ready = {key.fd for key, _ in self._selector.select(timeout)}
        trial = self._running
        if trial is not None:
            if trial.output in ready:
                self._read_output(trial)
            if trial.messages in ready:
                self._read_messages(trial)
            self._serve_calls(trial, ready)
        if self._connection.fileno() in ready:
            self._read_requests()
        if self._life in ready:
            self._stop(TrialState.KILLED, "the warm process, which it was forked from, was killed")
            self._leaving = True
        if self._watch.fileno() in ready:
            self._ended(self._watch.reap())
        if self._running is not None and time.monotonic() >= self._running.deadline:
            self._stop(TrialState.TIMED_OUT, _overdue(self._running))

    # the client

    def _read_requests(self) -> None:
        try:
            data = self._connection.recv(_CHUNK)
        except BlockingIOError:  # it was only writable
            return
        except ConnectionError:
            data = b""
        if not data:
            self._leaving = True
            self._stop(TrialState.STOPPED, "its client left")
            return
        for line in self._requests.feed(data):
            request = json.loads(line)
            if "run" in request:
                self._start(TrialSpec.from_json(request["run"]), request["number"])
            elif self._running is not None and request["stop"] == self._running.number:
                self._stop(TrialState.STOPPED, "stopped")

    def _send(self, message: Message) -> None:
        self._unsent += encode(message)

    def _flush(self) -> None:
        if self._unsent:
            try:
                del self._unsent[: self._connection.send(self._unsent)]
            except BlockingIOError:
                pass
            except ConnectionError:
                self._unsent.clear()  # the next read of the connection finds its end
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._selector.get_key(self._connection).events != events:
            self._selector.modify(self._connection, events)
        if self._running is not None:
            wanted = len(self._unsent) < _UNSENT_LIMIT and self._running.messages not in self._running.at_end
            self._set_reading(self._running.messages, wanted)

    def _send_rest(self) -> None:
        self._connection.settimeout(1.0)
        with contextlib.suppress(OSError):  # the client is gone, or does not read
            self._connection.sendall(self._unsent)

    def _set_reading(self, descriptor: int, wanted: bool) -> None:
        registered = descriptor in self._selector.get_map()
        if wanted and not registered:
            self._selector.register(descriptor, selectors.EVENT_READ)
        elif registered and not wanted:
            self._selector.unregister(descriptor)

    # the trial

    def _start(self, spec: TrialSpec, number: int) -> None:
        assert self._running is None, "a client runs one trial at a time"
        started = time.monotonic()
        try:
            Path(spec.folder).mkdir(parents=True, exist_ok=True)
            spec.config_path.write_text(json.dumps(spec.config, indent=2) + "\n", encoding="utf-8")
            log = CappedLog(spec.log_path, spec.log_limit)
            pid, output, messages, channel = self._fork(spec)
        except OSError as error:
            cause = f"the trial could not be started: {error}"
            ending = Ending(TrialState.FAILED, cause, spec.log_path, time.monotonic() - started)
            self._send(ending.to_message())
            return
        received = TrialMessages(spec.mode)
        self._running = _Running(spec, number, pid, output, messages, log, started, received, channel)
        for descriptor in (output, messages, channel.fileno()):
            self._set_reading(descriptor, True)

    def _fork(self, spec: TrialSpec) -> tuple[int, int, int, socket.socket]:
        output, output_end = os.pipe()
        messages, messages_end = os.pipe()
        channel, channel_end = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._watch.close()
            self._selector.close()
            self._connection.close()
            channel.close()
            for descriptor in (self._life, output, messages):
                os.close(descriptor)
            child.run(spec, parent, output_end, messages_end, channel_end)
        channel_end.close()
        os.close(output_end)
        os.close(messages_end)
        os.set_blocking(output, False)
        os.set_blocking(messages, False)
        with contextlib.suppress(OSError):  # more than this user may have
            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _CHUNK)
        return pid, output, messages, channel

    def _serve_calls(self, trial: _Running, ready: set[int]) -> None:
        """Let the calls go on that the kernel holds; see `raycompress.runtime.folder.system_calls`."""
        if trial.channel is not None and trial.channel.fileno() in ready:
            self._set_reading(trial.channel.fileno(), False)
            trial.held = receive(trial.channel, WorkFolder(trial.spec.files_path, Path(trial.spec.workingdir)))
            trial.channel = None
            if trial.held is not None:
                self._set_reading(trial.held.listener, True)
        elif trial.held is not None and trial.held.listener in ready and not trial.held.serve():
            self._set_reading(trial.held.listener, False)

    def _forget_calls(self, trial: _Running) -> None:
        if trial.channel is not None:
            self._set_reading(trial.channel.fileno(), False)
            trial.channel.close()
        if trial.held is not None:
            self._set_reading(trial.held.listener, False)
            trial.held.close()

    def _read_output(self, trial: _Running) -> bool:
        data = self._read(trial, trial.output)
        trial.log.write(data)
        return bool(data)

    def _read_messages(self, trial: _Running) -> bool:
        data = self._read(trial, trial.messages)
        for line in trial.lines.feed(data):
            self._handle_line(trial, line)
        return bool(data)

    def _read(self, trial: _Running, descriptor: int) -> bytes:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            trial.at_end.add(descriptor)
            self._set_reading(descriptor, False)
        return data

    def _handle_line(self, trial: _Running, line: bytes) -> None:
        message = parse_message(line)
        if message is None:  # the script wrote to a descriptor that is not its own
            trial.log.write(b"raycompress: unreadable message: %s\n" % line[:200])
            return
        trial.received.add(message)
        if message["type"] != "done":
            self._send(message)

    # its end

    def _stop(self, state: TrialState, cause: str) -> None:
        trial = self._running
        if trial is None:
            return
        trial.verdict = (state, cause)
        self._ended(kill_descendants())

    def _ended(self, statuses: dict[int, int]) -> None:
        trial = self._running
        if trial is None:
            return
        if trial.pid not in statuses:
            if trial.verdict is None:
                return  # some descendant's end, adopted and reaped
            statuses[trial.pid] = signal.SIGKILL  # the kernel still holds it; its signal is pending
        if trial.verdict is None:
            let_descendants_end(meanwhile=None if trial.held is None else trial.held.serve)
        kill_descendants()
        for read in (self._read_output, self._read_messages):
            for _ in range(64):  # bounded: who left our tree of processes may still print
                if not read(trial):
                    break
        trial.log.close()
        self._forget_calls(trial)
        for descriptor in (trial.output, trial.messages):
            self._set_reading(descriptor, False)
            os.close(descriptor)
        self._running = None
        self._send(_ending(trial, os.waitstatus_to_exitcode(statuses[trial.pid])).to_message())


def _ending(trial: _Running, code: int) -> Ending:
    """Say how `trial` ended; `code` is its exit code, or the negative number of the signal that killed it."""
    received = trial.received
    state, cause = trial.verdict or received.verdict(code)
    if state.is_failure and memory.kills() > trial.memory_kills:
        if code == -signal.SIGKILL and trial.verdict is None:
            state, cause = TrialState.OUT_OF_MEMORY, f"{cause}, probably by the kernel, as memory was exhausted"
        elif state != TrialState.OUT_OF_MEMORY:
            cause += "; meanwhile the kernel killed a process, as memory was exhausted"
    if trial.log.problem:
        cause = "; ".join(filter(None, (cause, trial.log.problem)))
    return Ending(
        state=state,
        cause=cause,
        log=trial.log.path,
        seconds=time.monotonic() - trial.started,
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        frame=received.failure["frame"] if received.failure else "",
        values=received.values,
        candidate=received.candidate,
        left=_left(received.left, [] if trial.held is None else trial.held.shared()),
        files=tidy(trial.spec.files_path, Path(trial.spec.workingdir)) if trial.spec.own_folder else (),
    )


def _left(left: Message | None, shared: Sequence[str]) -> Message | None:
    """Return the message of a trial's end with the files that other programs of it share with other trials."""
    if not shared:
        return left
    known = left or {"type": "left", "reads": None, "unread": [], "shared": []}
    return {**known, "shared": sorted({*known["shared"], *shared})}


def _overdue(trial: _Running) -> str:
    limit = f"{trial.spec.timeout_s:g} s (trial_timeout_s)"
    return f"no result within {limit}" if trial.received.values is None else f"not at its end within {limit}"
