"""Trials in this very process, one at a time, where a debugger, a profiler or a print reaches them.

No Ray, no fork, no log: the script prints to the terminal and reads from it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raycompress.backend.protocol import Ended, Event, Started, TrialPlan, TrialRequest
from raycompress.runtime import child
from raycompress.runtime.protocol import Ending, TrialSpec
from raycompress.runtime.trial_messages import TrialMessages
from raycompress.script import context
from raycompress.search.outcome import delivered, facts_of, sealed
from raycompress.states import TrialState


class HereBackend:
    """Runs the script of a trial while it is polled; what it reports on the way is not told before its end."""

    def __init__(self, plan: TrialPlan) -> None:
        self._plan = plan
        self._waiting: deque[TrialRequest] = deque()
        self._running: TrialRequest | None = None

    def room(self) -> int:
        """One, where nothing runs."""
        return 0 if self._waiting or self._running is not None else 1

    def start(self, trial: TrialRequest) -> None:
        """Run a trial at the next `poll`."""
        self._waiting.append(trial)

    def poll(self) -> Sequence[Event]:
        """Return that a trial has started; at the next call, how it ended."""
        if self._running is not None:
            trial, self._running = self._running, None
            return [Ended(trial.number, self._facts(trial))]
        if not self._waiting:
            return []
        self._running = self._waiting.popleft()
        return [Started(self._running.number, slot=0)]

    def stop(self, number: int) -> None:
        """Nothing: no trial waits at a result."""
        raise AssertionError("a trial in this process is over by the time that anything is known of it")

    def close(self) -> None:
        """Forget what has not run."""
        self._waiting.clear()
        self._running = None

    def _facts(self, trial: TrialRequest) -> dict[str, object]:
        folder, objective = self._plan.folder, self._plan.objective
        ending = _run(self._plan.spec(trial, own_folder=False, code=""))
        facts = facts_of(ending, objective, baseline=trial.baseline, seconds=ending.seconds)
        if facts["saved"]:
            facts = sealed(folder, {"number": trial.number, "sample": trial.sample, "seed": trial.seed}, facts)
        return delivered(folder, trial.number, facts)


def _run(spec: TrialSpec) -> Ending:
    """Run the script here, as a forked child would, and return how it ended."""
    spec.config_path.parent.mkdir(parents=True, exist_ok=True)
    spec.config_path.write_text(json.dumps(spec.config, indent=2) + "\n", encoding="utf-8")
    spec.log_path.write_text("a passive trial: what it printed went to the terminal\n", encoding="utf-8")
    messages = TrialMessages(spec.mode)
    started = time.monotonic()
    with _process_left_as_it_was():
        code = child.run_script(spec, lambda message: messages.add(dict(message)))
    failure = messages.failure or {"frame": "", "error": ""}
    state, cause = messages.verdict(code)
    if failure["error"] == "KeyboardInterrupt":
        state, cause = TrialState.STOPPED, "stopped by SIGINT"
    return Ending(
        state=state,
        cause=cause,
        log=spec.log_path,
        seconds=time.monotonic() - started,
        exit_code=code,
        frame=failure["frame"],
        values=messages.values,
        candidate=messages.candidate,
        left=messages.left,
    )


@contextmanager
def _process_left_as_it_was() -> Iterator[None]:
    folder, arguments, path, environment = Path.cwd(), sys.argv, list(sys.path), dict(os.environ)
    main, modules = sys.modules["__main__"], set(sys.modules)
    try:
        yield
    finally:
        context.enter(None)
        sys.modules["__main__"] = main
        for name in [name for name in set(sys.modules) - modules if name.partition(".")[0] == "aup"]:
            del sys.modules[name]
        sys.argv, sys.path[:] = arguments, path
        os.chdir(folder)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
