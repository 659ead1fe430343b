"""Protocol between the warm process and its clients: JSON lines over a Unix socket.

Client to server: ``{"run": TrialSpec, "number": n}`` and ``{"stop": n}``; closing the connection stops the trial too.
Server to client: ``hello`` first; for each run the messages of the script as they come, then one ``end``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from raycompress.script.context import Mode, TrialOptions
from raycompress.script.node import runtime_folder
from raycompress.states import TrialState

Message = dict[str, Any]


SET_BY_SCRIPT: set[str] = set()
"""The variables that the script sets before its imports, in the warm process and what is forked from it."""


@dataclass(frozen=True)
class Import:
    """One import statement to run before the first fork.

    Attributes
    ----------
    module
        The module's full name.
    names
        What ``from module import ...`` asks for: attributes or submodules.
    required
        Whether the script fails without it; False under ``try`` and ``if``.
    where
        File and line of the statement; empty for what no script asked for.
    call
        A function of the module to call after that; one that is not there is left out.
    env
        In place of a module: a variable of the environment that the script sets here, its value (None removes it), and
        "default" where it keeps a value that it has.
    unknown
        In place of a module: variables that the script sets here to what only running it tells; what it imports after
        that is left to the trials.
    """

    module: str
    names: tuple[str, ...] = ()
    required: bool = True
    where: str = ""
    call: str = ""
    env: tuple[str | None, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmSpec:
    """Specification of a warm process; clients with equal ones on the same machine share one process.

    Attributes
    ----------
    name
        Tells this experiment's process from those of other experiments.
    preload
        The imports to run, in this order.
    sys_path
        Folders that modules are looked for in, before the installed ones.
    env
        Environment variables of the process, e.g. ``OMP_NUM_THREADS``; None removes one.
    workingdir
        The folder it runs in.
    idle_s
        How long it waits for its first client, in seconds.
    probe_s
        How long the probe child may take, in seconds.
    many_forks
        Whether so many trials will follow that it is to make its forks cheaper first, which takes half a second.
    """

    name: str
    workingdir: str
    preload: tuple[Import, ...] = ()
    sys_path: tuple[str, ...] = ()
    env: Mapping[str, str | None] = field(default_factory=dict)
    idle_s: float = 30.0
    probe_s: float = 60.0
    many_forks: bool = False

    @property
    def folder(self) -> Path:
        """The process's own folder, with its socket and its log; gone once it has ended well."""
        key = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]
        return runtime_folder() / key

    @property
    def socket(self) -> Path:
        """The socket that it listens on."""
        return self.folder / "socket"

    @property
    def shared(self) -> Path:
        """What its trials share."""
        return self.folder / "shared"

    @property
    def log(self) -> Path:
        """What it printed itself, outside of any trial."""
        return self.folder / "log.txt"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WarmSpec:
        """Rebuild what `to_json` returned."""
        tuples = ("names", "env", "unknown")
        preload = tuple(Import(**{**item, **{name: tuple(item[name]) for name in tuples}}) for item in data["preload"])
        return cls(**{**data, "preload": preload, "sys_path": tuple(data["sys_path"])})


@dataclass
class TrialSpec(TrialOptions):
    """Specification of one trial for the warm process.

    Attributes
    ----------
    mode
        See `raycompress.script.context.Trial`.
    script
        The script, absolute or relative to `workingdir`.
    module
        The script's name as a module, where it is run as one: ``pkg.train``; empty for a file.
    script_args
        The script's arguments; see `raycompress.script.config.command_line`.
    config
        What the script finds in that file.
    workingdir
        Where the script runs.
    folder
        The trial's own folder: ``config.json``, ``log.txt``, ``candidate/``.
    env
        Environment variables of this trial alone; None removes one.
    timeout_s
        Seconds after which the trial is killed; None for never.
    seed
        Seeds random, numpy and torch; None takes fresh entropy for the first two and leaves torch's default.
    threads
        Threads of torch; None leaves its default.
    bundle, shared
        See `raycompress.script.context.Trial`.
    plugins
        What the trial needs of other distributions; see `raycompress.catalog.plugins.require`.
    parameters
        The hyperparameters that are searched, which the script finds in `config`.
    own_folder
        Whether a trial runs in a folder of its own; see `raycompress.runtime.folder`.
    prescript, postscript
        Shell commands around the script; see `raycompress.runtime.shell`.
    log_limit
        Bytes of output that the log keeps at most.
    appends_config
        Whether the path of the trial's configuration follows `script_args` where they do not say where it goes.
    rank, workers
        Which of how many workers of the trial this is; each has a `folder` of its own.
    code
        What the script and the modules of its own are known by; empty for a trial that keeps no checkpoint.
    """

    mode: Mode
    script: str | Path
    config: Mapping[str, Any]
    workingdir: str | Path
    folder: str | Path
    script_args: tuple[str, ...] = ()
    module: str = ""
    env: Mapping[str, str | None] = field(default_factory=dict)
    timeout_s: float | None = None
    seed: int | None = None
    threads: int | None = None
    bundle: str | Path | None = None
    shared: str | Path | None = None
    plugins: tuple[tuple[str, str, str], ...] = ()
    parameters: tuple[str, ...] = ()
    own_folder: bool = False
    prescript: str = ""
    postscript: str = ""
    log_limit: int = 20 << 20
    appends_config: bool = True
    rank: int = 0
    workers: int = 1
    code: str = ""

    @property
    def script_path(self) -> Path:
        """The script's absolute path."""
        return Path(self.workingdir, self.script)

    @property
    def config_path(self) -> Path:
        """The file that the script gets its configuration from."""
        return Path(self.folder, "config.json")

    @property
    def log_path(self) -> Path:
        """What the script and the processes that it started printed."""
        return Path(self.folder, "log.txt")

    @property
    def files_path(self) -> Path:
        """Where the script runs and what it writes stays, of a trial that has a folder of its own."""
        return Path(self.folder, "files")

    @property
    def candidate_path(self) -> Path:
        """Where the script saves its model."""
        return Path(self.folder, "candidate")

    @property
    def checkpoint_path(self) -> Path | None:
        """What the trial goes on from if it is lost; None where it keeps nothing of the kind."""
        if not self.code or self.mode not in ("trial", "baseline"):
            return None
        return (Path(self.folder).parent.parent if self.rank else Path(self.folder)) / "checkpoint"

    @property
    def agreed_path(self) -> Path | None:
        """Where the workers of the trial agree; None where it has but one."""
        return Path(self.folder, "agreed") if self.workers > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialSpec:
        """Rebuild what `to_json` returned."""
        tuples = {name: tuple(data[name]) for name in ("script_args", "result_labels", "exports", "parameters")}
        nested = {name: tuple(tuple(one) for one in data[name]) for name in ("budget", "plugins")}
        return cls(**{**data, **tuples, **nested})


@dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Attributes
    ----------
    state, cause
        What became of it, and why in one line; the cause is empty for a finished trial.
    exit_code, signal
        Of the script's process; None where it did not end that way.
    frame
        The last frame of the user's own code, e.g. ``train.py:42 in fine_tune``; empty when there is none.
    log
        The trial's log.
    seconds
        From the fork to the end.
    values
        The last result: numbers by name, the objective first.
    candidate
        The last ``candidate`` message.
    files
        What the script wrote into the folder that it ran in, where that was the trial's own.
    left
        The last ``left`` message: what the script did beside its results.
    tail
        The last lines of the log, once `with_tail` has read them.
    """

    state: TrialState
    cause: str
    log: Path
    seconds: float
    exit_code: int | None = None
    signal: int | None = None
    frame: str = ""
    values: dict[str, int | float] | None = None
    candidate: Message | None = None
    left: Message | None = None
    files: tuple[str, ...] = ()
    tail: str = ""

    def with_tail(self, lines: int = 20) -> Ending:
        """Return the same with the last lines of the log, for when the log will not stay."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:  # the trial could not be started
            return self
        return replace(self, tail="\n".join(text.splitlines()[-lines:]))

    def to_message(self) -> Message:
        """Return the ``end`` message; `from_message` is its inverse."""
        return {"type": "end", **asdict(self), "log": str(self.log)}

    @classmethod
    def from_message(cls, message: Message) -> Ending:
        """Rebuild what `to_message` returned."""
        data = {item.name: message[item.name] for item in fields(cls)}
        values = message["values"]
        return cls(
            **{
                **data,
                "state": TrialState(message["state"]),
                "log": Path(message["log"]),
                "files": tuple(message["files"]),
                "values": None if values is None else numbers(values),
            }
        )


@dataclass(frozen=True)
class PreloadProblem:
    """A required import that failed in the warm process; the script may still mend it, e.g. through sys.path."""

    module: str
    where: str
    error: str
    traceback: str


@dataclass(frozen=True)
class Hello:
    """First message of the warm process, sent when it is ready.

    Attributes
    ----------
    pid
        Of the warm process.
    modules
        How many of the imports it holds.
    seconds
        What the imports took.
    problems
        The required imports that failed.
    probe
        Why forked children would not work; empty when the probe child found nothing.
    """

    pid: int
    modules: int
    seconds: float
    problems: tuple[PreloadProblem, ...]
    probe: str

    def to_message(self) -> Message:
        """Return the ``hello`` message; `from_message` is its inverse."""
        return {"type": "hello", **asdict(self)}

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Rebuild what `to_message` returned."""
        data = {item.name: message[item.name] for item in fields(cls)}
        return cls(**{**data, "problems": tuple(PreloadProblem(**problem) for problem in message["problems"])})


def encode(message: Mapping[str, Any]) -> bytes:
    """Return `message` as one line."""
    return json.dumps(message, separators=(",", ":"), default=os.fspath).encode() + b"\n"


def numbers(values: Mapping[str, Any]) -> dict[str, int | float]:
    """Return the values of a result, the words "nan", "inf" and "-inf" as the floats that they stand for."""
    return {name: float(value) if isinstance(value, str) else value for name, value in values.items()}
