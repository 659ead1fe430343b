"""The client of an agent: starts it here or on another machine, and sends requests."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from raycompress.catalog.runtimes import RUNTIMES, RuntimeEntry
from raycompress.deployment import package, remote
from raycompress.deployment.agent import frames
from raycompress.deployment.agent.frames import Array
from raycompress.deployment.agent.places import MEASURING
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError, MissingDependencyError
from raycompress.script import node

Files = Mapping[str, bytes]
"""The files of one converted model, by name."""
_START_S, _ANSWER_S, _TURN_S = 60.0, 600.0, 3600.0
_BYTES_PER_S = 200e3
"""What the slowest connection is given credit for."""


class Agent:
    """The agent of one target; a context, in which it runs.

    Parameters
    ----------
    target
        Its runtime, device and interpreter decide which program is started where.
    converting
        Whether it is to convert, for which a runtime may need more than for running.
    running
        Whether it is to run models, which some runtimes do on some machines only.

    Raises
    ------
    MissingDependencyError
        The runtime is not installed where the agent runs.
    DeploymentError
        The runtime has no such precision or cannot run there; or the agent cannot be started or reached, which is a
        LostAgentError where another try may succeed.
    """

    def __init__(self, target: DeploymentTarget, *, converting: bool = True, running: bool = True) -> None:
        self.target = target
        self.entry = entry_of(target)
        self._converting, self._running = converting, running
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the agent, and ends with it
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the agent."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(OSError):  # what could not be sent to a lost one
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def convert(
        self, source: bytes, samples: Sequence[Sequence[Array]] = (), *, as_it_is: bool = False
    ) -> tuple[Files, float]:
        """Return the files that the runtime reads, and the seconds that converting took.

        Parameters
        ----------
        source
            The model in the form that the runtime's converter reads.
        samples
            Inputs to calibrate with, for int8.
        as_it_is
            Whether the source has the target's precision already.
        """
        self.request({"do": "put", "key": "source", "names": ["model"]}, [source])
        width = len(samples[0]) if samples else 0
        arrays = [array for sample in samples for array in sample]
        options = {**self.target.options(), **({"precision": "fp32"} if as_it_is else {})}
        asked = {"do": "convert", "source": "source", "key": "converted", "options": options}
        found, _ = self.request({**asked, "width": width}, frames.packed(arrays))
        answer, blobs = self.request({"do": "get", "key": "converted"})
        for key in ("source", "converted"):
            self.request({"do": "drop", "key": key})
        return dict(zip(answer["names"], blobs, strict=True)), float(found["seconds"])

    def load(self, key: str, files: Files) -> float | None:
        """Load a converted model under `key`; return the memory in MiB that the runtime plans, where it tells."""
        self.request({"do": "put", "key": key, "names": list(files)}, list(files.values()))
        answer, _ = self.request({"do": "load", "key": key, "options": self.target.options()})
        found = answer["memory_mb"]
        return None if found is None else float(found)

    def drop(self, key: str) -> None:
        """Forget a loaded model."""
        self.request({"do": "drop", "key": key})

    def run(self, key: str, inputs: Sequence[Array]) -> list[Array]:
        """Return the outputs of a loaded model."""
        _, blobs = self.request({"do": "run", "key": key}, frames.packed(inputs))
        return frames.unpacked(blobs)

    def time(
        self, keys: Sequence[str], inputs: Sequence[Array], *, rounds: int, warm_up: int, seconds: float
    ) -> list[list[tuple[float, float]]]:
        """Return seconds of each pass, by the clock and of CPU time, for each model; the models run in turn.

        Nothing else of ours is timed on the device meanwhile.
        """
        asked = {"do": "time", "keys": list(keys), "rounds": rounds, "warm_up": warm_up, "seconds": seconds}
        answer, _ = self.request(asked, frames.packed(inputs))
        return [[(wall, cpu) for wall, cpu in times] for times in answer["times"]]

    def ping(self) -> None:
        """Send a request that asks for nothing; it returns when the answer is there."""
        self.request({"do": "ping"})

    def request(self, message: dict[str, Any], blobs: Sequence[bytes] = ()) -> tuple[dict[str, Any], list[bytes]]:
        """Send one request, again until it has its turn on the device, and return its answer.

        Raises
        ------
        DeploymentError
            The runtime raised an error, the agent was lost, or the request's turn did not come.
        """
        lock = self._lock(message["do"])
        asked = message if lock is None else {**message, "lock": lock}
        end = time.monotonic() + _TURN_S
        while True:
            answer, content = self._answered(asked, blobs)
            if not answer.get("is_busy"):
                break
            if time.monotonic() > end:
                raise DeploymentError(
                    f"others have measured on {self.facts['machine']} for {_TURN_S:.0f} s",
                    where=self.where,
                    fix=f"end what holds {lock or f'/tmp/{MEASURING}'} there: `fuser -v` tells",
                )
        if "error" in answer:
            raise DeploymentError(
                f"{self.entry.name} cannot {message['do']} the model: {answer['error']}",
                where=self.where,
                fix=answer.get("fix") or "another runtime or precision, or leave out the layers that it does not know",
            )
        return answer, content

    def _lock(self, do: str) -> str | None:
        """Return the lock that a request is answered under: on another machine its own; None where it needs none."""
        if self.target.host:  # compiling a model, too, would disturb whoever measures there
            return "" if do in ("time", "load", "run") else None
        return str(node.runtime_folder() / node.MEASURING) if do == "time" else None

    def _answered(self, message: dict[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        doing = f"while it was to {message['do']}"
        seconds = _ANSWER_S + sum(map(len, blobs)) / _BYTES_PER_S
        with self._bounded(process, seconds) as is_late:
            try:
                frames.write(process.stdin, message, blobs)
                return frames.read(process.stdout)
            except (OSError, EOFError, ValueError) as error:
                if is_late.is_set():
                    raise self._late(f"does not answer {doing}", seconds) from error
                raise self._lost(doing) from error

    @property
    def where(self) -> str:
        """The target, as messages name it."""
        return f"target {self.target.name}"

    def _start(self) -> None:
        self._check()
        begun = time.monotonic()
        self._log.seek(0)
        self._log.truncate()
        command = self._command()
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        except OSError as error:
            raise MissingDependencyError(
                f"{command[0]} cannot be started: {error.strerror}",
                where=self.where,
                fix="install OpenSSH's client" if self.target.host else '"python" of the target names an interpreter',
            ) from error
        self._process = process
        assert process.stdin is not None and process.stdout is not None
        with self._bounded(process, _START_S) as is_late:
            try:
                if self.target.host:
                    remote.send(process.stdout, process.stdin)
                frames.read(process.stdout)
            except (OSError, EOFError, ValueError) as error:
                raise self._not_started(is_late=is_late.is_set()) from error
        options = self.target.options()
        self.facts, _ = self.request({"do": "examine", "converting": self._converting, "options": options})
        self.facts["seconds"] = time.monotonic() - begun
        if self.facts["missing"]:
            raise self._missing(self.facts["missing"], self.facts["wheel"])
        if self._running and self.facts["refused"]:
            raise DeploymentError(
                f"{self.target.runtime} cannot run on {self.facts['machine']}: {self.facts['refused']}",
                where=self.where,
                fix=self.facts["fix"] or "another runtime or device",
            )

    def _check(self) -> None:
        """Raise where the runtime, by the catalogue, has no such precision or device."""
        mine, entry = self.target, self.entry
        device = mine.options()["device"]
        for what, wanted, known in (("precision", mine.precision, entry.precisions), ("device", device, entry.devices)):
            if wanted not in known:
                raise DeploymentError(
                    f'{mine.runtime} has no {what} "{wanted}"', where=self.where, fix=f"one of {', '.join(known)}"
                )

    def _command(self) -> list[str]:
        if self.target.host:
            return remote.command(self.target, self.entry.make)
        return [self.target.python or sys.executable, str(package.path()), self.entry.make]

    @contextlib.contextmanager
    def _bounded(self, process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
        """End the process after so long; the event tells that it was."""
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            process.kill()

        late = threading.Timer(seconds, end)
        late.start()
        try:
            yield is_late
        finally:
            late.cancel()

    def _missing(self, what: str, wheel: str) -> MissingDependencyError:
        """Return the error of a module that is not installed where the agent runs."""
        if self.target.host:
            pip = f"{remote.python_of(self.target)} -m pip install {wheel}"
            return MissingDependencyError(
                f"{self.target.runtime} needs {what}, which is not installed on {self.target.host}",
                where=self.where,
                fix=f"ssh {self.target.device} {shlex.quote(pip)}, or name the Python of an environment there that has "
                'it: "device_python": "/path/to/bin/python" in the target',
            )
        return MissingDependencyError(
            f"{self.target.runtime} needs {what}, which is not installed",
            where=self.target.python or sys.executable,
            fix=f"pip install '{self.entry.install}' there, or name the Python of an environment that has it: "
            '"target": {"runtime": "...", "python": "/path/to/bin/python"}',
        )

    def _not_started(self, *, is_late: bool) -> DeploymentError | MissingDependencyError:
        """Return the error of an agent that ended, or was ended, before it was ready."""
        status = self._status()
        if "No module named 'numpy'" in self._printed():
            return self._missing("numpy", f"numpy {' '.join(self.entry.libraries[:1])}")
        if self.target.host:
            what, fix, may_pass = remote.problem(self.target, None if is_late else status, self._printed())
            kind: type[DeploymentError] = DeploymentError
            if may_pass:
                kind = UnreachableError if is_late or status == remote.SSH_FAILED else LostAgentError
            return kind(what, where=self.where, fix=fix)
        if is_late:
            return self._late("does not start", _START_S)
        return LostAgentError(
            f"the agent of {self.target.runtime} does not start: {self._last_words()}",
            where=self.where,
            fix='"python" of the target names the interpreter of the environment that has the runtime',
        )

    def _lost(self, doing: str) -> LostAgentError:
        """Return the error of an agent, or a connection to it, that ended during a request."""
        is_cut = self.target.host and self._status() == remote.SSH_FAILED
        kind = UnreachableError if is_cut else LostAgentError
        who = f"the connection to {self.target.host}" if is_cut else f"the agent of {self.target.runtime}"
        return kind(f"{who} was lost {doing}: {self._last_words()}", where=self.where, fix=self._doctor)

    def _late(self, what: str, seconds: float) -> DeploymentError:
        return DeploymentError(
            f"the agent of {self.target.runtime} {what}: {seconds:.0f} s have passed",
            where=self.where,
            fix=self._doctor,
        )

    @property
    def _doctor(self) -> str:
        return f"raycompress doctor --target {shlex.quote(json.dumps(self.target.to_json()))}"

    def _status(self) -> int | None:
        """Return how the process ended, which it is about to."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(5)
        return None

    def _printed(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()

    def _last_words(self) -> str:
        """Return the last line that the agent printed, or how it ended."""
        lines = self._printed().splitlines()
        return lines[-1].rstrip(".") if lines else _ending(self._status())


class LostAgentError(DeploymentError):
    """The agent is gone: what was asked may be asked again of a new one."""


class UnreachableError(LostAgentError):
    """The connection to the agent's device is gone, or cannot be made: it may be there again after a while."""


def _ending(status: int | None) -> str:
    """Return how a process ended; a shell, and the agent's starter on a device, tell a signal as 128 and its number."""
    number = 0 if status is None else -status if status < 0 else status - 128
    if number not in set(signal.Signals):
        return f"it ended with {status}"
    want = ", perhaps for want of memory" if number == signal.SIGKILL else ""
    return f"it was ended by {signal.Signals(number).name}{want}"


def entry_of(target: DeploymentTarget) -> RuntimeEntry:
    """Return the catalogue's entry of a target's runtime."""
    (entry,) = RUNTIMES.find(target.runtime)
    return entry
