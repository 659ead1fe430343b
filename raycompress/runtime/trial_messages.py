"""The messages of a trial's script, and the state of the trial that they give when its process ends."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from raycompress.runtime.protocol import Message, numbers
from raycompress.script.context import Mode
from raycompress.states import TrialState


@dataclass
class TrialMessages:
    """The messages of one script that decide how its trial ended.

    Attributes
    ----------
    mode
        The trial's.
    values
        The last result.
    candidate, failure, left
        The last message of that type.
    done
        Whether the script came to its end.
    """

    mode: Mode
    values: dict[str, int | float] | None = None
    candidate: Message | None = None
    failure: Message | None = None
    left: Message | None = None
    done: bool = False

    def add(self, message: Message) -> None:
        """Add the script's next message."""
        kind = message["type"]
        if kind == "done":
            self.done = True
        elif kind == "result" or (kind == "continued" and message["values"] and not message["unused"]):
            self.values = numbers(message["values"])
        elif kind == "candidate":
            self.candidate = message
        elif kind == "failure":
            self.failure = message
        elif kind == "left":
            self.left = message

    def verdict(self, code: int) -> tuple[TrialState, str]:
        """Return (state, cause) of the trial; `code` is its exit code, or the negative number of its signal."""
        if code < 0:
            names: Iterable[str] = (number.name for number in signal.Signals if number == -code)
            return TrialState.KILLED, f"killed by signal {-code} ({next(iter(names), 'real-time')})"
        if self.failure is not None:
            frame = _line(self.failure["frame"])  # a file's name may have a line break
            return TrialState(self.failure["state"]), _line(self.failure["message"]) + (f" ({frame})" if frame else "")
        if code != 0:
            return TrialState.FAILED, f"exit code {code}"
        if not self.done:
            return TrialState.FAILED, "exit code 0 by os._exit or exec, before its result and model could be checked"
        if self.mode not in ("trial", "baseline"):
            return TrialState.FINISHED, ""
        if self.values is None:
            return TrialState.NO_RESULT, "the script reported no result"
        wrong = [f"{name} is {value}" for name, value in self.values.items() if not math.isfinite(value)]
        return (TrialState.NOT_A_NUMBER, _line(", ".join(wrong))) if wrong else (TrialState.FINISHED, "")


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else line[:499] + "…"
