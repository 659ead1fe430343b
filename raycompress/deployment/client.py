"""The client of an agent: starts it here or on another machine, sends requests, and starts it again when it is lost."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from raycompress.catalog.runtimes import RUNTIMES, RuntimeEntry
from raycompress.deployment import package
from raycompress.deployment.agent import frames
from raycompress.deployment.agent.frames import Array
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError, MissingDependencyError
from raycompress.script import node

Files = Mapping[str, bytes]
"""The files of one converted model, by name."""
_TIMEOUT_S = 600.0


class Agent:
    """The agent of one target; a context, in which it runs.

    Parameters
    ----------
    target
        Its runtime, device and interpreter decide which program is started where.

    Raises
    ------
    MissingDependencyError
        The runtime is not installed where the agent runs.
    DeploymentError
        The agent cannot be started or reached.
    """

    def __init__(self, target: DeploymentTarget, *, converting: bool = True) -> None:
        self.target = target
        self.entry = entry_of(target)
        self._converting = converting
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
        """Return seconds of each pass, by the clock and of CPU time, for each model; the models run in turn."""
        lock = "" if self.target.host else str(node.runtime_folder() / node.MEASURING)
        asked = {"do": "time", "keys": list(keys), "rounds": rounds, "warm_up": warm_up, "seconds": seconds}
        answer, _ = self.request({**asked, "lock": lock}, frames.packed(inputs))
        return [[(wall, cpu) for wall, cpu in times] for times in answer["times"]]

    def peak_mb(self) -> float:
        """Return the largest resident memory of the agent so far, in MiB."""
        return float(self.request({"do": "peak"})[0]["peak_mb"])

    def request(self, message: dict[str, Any], blobs: Sequence[bytes] = ()) -> tuple[dict[str, Any], list[bytes]]:
        """Send one request and return its answer.

        Raises
        ------
        DeploymentError
            The runtime raised an error, or the agent was lost.
        """
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        late = threading.Timer(_TIMEOUT_S, process.kill)
        late.start()
        try:
            frames.write(process.stdin, message, blobs)
            answer, content = frames.read(process.stdout)
        except (OSError, EOFError, ValueError) as error:
            raise LostAgentError(
                f"the agent of {self.target.runtime} was lost while it was to {message['do']}: {self._last_words()}",
                where=self.where,
                fix=f"raycompress doctor --target {shlex.quote(self.target.name)}",
            ) from error
        finally:
            late.cancel()
        if "error" in answer:
            raise DeploymentError(
                f"{self.entry.name} cannot {message['do']} the model: {answer['error']}",
                where=self.where,
                fix=answer.get("fix") or "another runtime or precision, or leave out the layers that it does not know",
            )
        return answer, content

    @property
    def where(self) -> str:
        """The target, as messages name it."""
        return f"target {self.target.name}"

    def _start(self) -> None:
        begun = time.monotonic()
        self._process = subprocess.Popen(
            self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        assert self._process.stdout is not None
        try:
            frames.read(self._process.stdout)
        except (EOFError, ValueError) as error:
            raise LostAgentError(
                f"the agent of {self.target.runtime} does not start: {self._last_words()}",
                where=self.where,
                fix='"python" of the target names the interpreter of the environment that has the runtime',
            ) from error
        self.facts, _ = self.request({"do": "examine", "converting": self._converting})
        self.facts["seconds"] = time.monotonic() - begun
        if self.facts["missing"]:
            raise MissingDependencyError(
                f"{self.target.runtime} needs {self.facts['missing']}, which is not installed",
                where=self.target.python or sys.executable,
                fix=f"pip install '{self.entry.install}' there, or name the Python of an environment that has it: "
                '"target": {"runtime": "...", "python": "/path/to/bin/python"}',
            )

    def _command(self) -> list[str]:
        return [self.target.python or sys.executable, str(package.path()), self.entry.make]

    def _last_words(self) -> str:
        """Return the last line that the agent printed, or how it ended."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        code = None if self._process is None else self._process.poll()
        return lines[-1] if lines else f"it ended with {code}"


class LostAgentError(DeploymentError):
    """The agent, or the connection to it, is gone: what was asked may be asked again of a new one."""


def entry_of(target: DeploymentTarget) -> RuntimeEntry:
    """Return the catalogue's entry of a target's runtime."""
    (entry,) = RUNTIMES.find(target.runtime)
    return entry
