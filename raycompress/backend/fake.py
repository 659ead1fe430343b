"""Trials that are a function of their sample, run at once and in one order: no Ray, no process, no script, no torch.

For tests: of proposals, early stopping, budgets, resuming and the journal, ours and those of plug-ins.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycompress.backend.protocol import Ended, Event, Lost, Result, Started, TrialPlan, TrialRequest
from raycompress.bundle.manifest import FORMAT, MANIFEST, MASKS, PLAN, REFERENCE, WEIGHTS, listed, others
from raycompress.config.objective import metrics_of
from raycompress.runtime.protocol import Ending
from raycompress.search.outcome import delivered, facts_of, sealed
from raycompress.search.trials import Sample
from raycompress.states import TrialState

_LIVES = 3
"""How often a trial whose process is lost is begun again."""


class LostProcessError(Exception):
    """Raised by the function of a fake trial: the process that ran it is gone."""


@dataclass(frozen=True)
class FakeRun:
    """What the script of a fake trial does.

    Attributes
    ----------
    results
        What it reports, one after another: a number is its ``score``. None of them is a trial without a result.
    before, after
        ``params``, ``flops`` and ``bytes`` of the dense and of the saved model; without them no model is saved.
    rung0
        The score of its model before it trains; None where none is taken.
    """

    results: Sequence[float | Mapping[str, float]]
    before: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)
    rung0: float | None = None

    @property
    def values(self) -> list[dict[str, float]]:
        """Each result by the names of its numbers."""
        return [dict(one) if isinstance(one, Mapping) else {"score": float(one)} for one in self.results]


Function = Callable[[Sample], FakeRun | float | Sequence[float | Mapping[str, float]]]
"""Sample -> what the trial does; an exception that it raises is the script's."""


class FakeBackend:
    """Runs trials as a function.

    Those that run at a time take turns, in the order in which they were started, an event each.

    Parameters
    ----------
    function
        Called once a trial, or once an attempt.
    plan
        What the trials share.
    n_slots
        How many run at a time.
    """

    def __init__(self, function: Function, plan: TrialPlan, n_slots: int = 1) -> None:
        self._function = function
        self._plan = plan
        self._free = deque(range(n_slots))
        self._running: deque[tuple[TrialRequest, int, Iterator[Event]]] = deque()

    def room(self) -> int:
        """How many slots are free."""
        return len(self._free)

    def start(self, trial: TrialRequest) -> None:
        """Take a slot."""
        slot = self._free.popleft()
        self._running.append((trial, slot, self._events(trial, slot)))

    def poll(self) -> Sequence[Event]:
        """Return the next event of the trial whose turn it is."""
        if not self._running:
            return []
        trial, slot, events = self._running.popleft()
        event = next(events)
        is_over = isinstance(event, Ended) or (isinstance(event, Lost) and not event.begins_again)
        if is_over:
            self._free.append(slot)
        else:
            self._running.append((trial, slot, events))
        return [event]

    def stop(self, number: int) -> None:
        """Give the slot back."""
        (stopped,) = [one for one in self._running if one[0].number == number]
        self._running.remove(stopped)
        self._free.append(stopped[1])

    def close(self) -> None:
        """Forget what runs."""
        self._free.extend(slot for _, slot, _ in self._running)
        self._running.clear()

    def _events(self, trial: TrialRequest, slot: int) -> Iterator[Event]:
        for life in range(_LIVES + 1):
            yield Started(trial.number, slot)
            try:
                yield from self._life(trial)
            except LostProcessError as error:
                yield Lost(trial.number, TrialState.KILLED, f"the trial's process died: {error}", life < _LIVES)
            else:
                return

    def _life(self, trial: TrialRequest) -> Iterator[Event]:
        self._plan.folder.put_aside_earlier_start(trial.number)
        attempts: list[dict[str, Any]] = []
        while True:
            log = self._plan.folder.log(trial.number)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(f"{trial.sample}\n", encoding="utf-8")
            try:
                run = _as_run(self._function(trial.sample))
            except LostProcessError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a script raises, its trial has failed
                ending = Ending(TrialState.FAILED, f"{type(error).__name__}: {error}", log, 0.0)
                if len(attempts) == self._plan.retries:
                    yield Ended(trial.number, self._facts(trial, ending), attempts=attempts)
                    return
                attempt = len(attempts) + 1
                attempts.append({"attempt": attempt, "state": ending.state, "cause": ending.cause})
                self._plan.folder.put_aside(trial.number, f"attempt-{attempt}")
                continue
            yield from self._run(trial, run, attempts)
            return

    def _run(self, trial: TrialRequest, run: FakeRun, attempts: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
        if run.rung0 is not None and not trial.baseline:
            yield Result(trial.number, 0, {}, run.rung0, rung0=True)
        values = run.values
        for budget in trial.budgets[:-1] if values else ():
            facts = self._finish(trial, run, values[:budget])
            yield Result(trial.number, budget, facts["values"], facts["score"], facts=facts, attempts=attempts)
            self._plan.folder.put_aside(trial.number, f"iterations-{budget}")
        streamed = self._plan.stream and not trial.budgets
        held = streamed and self._plan.judged and bool(values)
        if streamed:
            for step, one in enumerate(values[:-1] if held else values, start=1):
                yield Result(trial.number, step, one, self._plan.objective.score(metrics_of(one, None)))
        step = trial.budgets[-1] if trial.budgets else len(values) if streamed else 0
        facts = self._finish(trial, run, values[:step] if trial.budgets else values)
        yield Ended(trial.number, facts, step, attempts, held=held)

    def _finish(self, trial: TrialRequest, run: FakeRun, values: Sequence[dict[str, float]]) -> dict[str, Any]:
        """Return the facts of a run that has reported `values`, its model saved."""
        log, candidate = self._plan.folder.log(trial.number), None
        into = self._plan.saves_into(trial.number)
        if run.after and into is not None:
            save_fake_model(into, run.before, run.after)
            candidate = {"type": "candidate", "before": run.before, "after": run.after, "removed": {}, "notes": []}
        state = TrialState.FINISHED if values else TrialState.NO_RESULT
        cause = "" if values else "the script reported no result"
        last = values[-1] if values else None
        return self._facts(trial, Ending(state, cause, log, 0.0, values=last, candidate=candidate))

    def _facts(self, trial: TrialRequest, ending: Ending) -> dict[str, Any]:
        facts = facts_of(ending, self._plan.objective, baseline=trial.baseline, seconds=ending.seconds)
        if facts["saved"]:
            about = {"number": trial.number, "sample": trial.sample, "seed": trial.seed}
            facts = sealed(self._plan.folder, about, facts)
        return delivered(self._plan.folder, trial.number, facts)


def _as_run(done: FakeRun | float | Sequence[float | Mapping[str, float]]) -> FakeRun:
    if isinstance(done, FakeRun):
        return done
    return FakeRun(done if isinstance(done, Sequence) else [done])


def save_fake_model(folder: Path, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Write a bundle whose files are empty, but whose manifest is whole, so that it is kept and sealed as any other."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PLAN, WEIGHTS, MASKS, REFERENCE):
        (folder / name).write_bytes(b"")
    manifest = {
        "format": FORMAT,
        "versions": {},
        "model": "Fake",
        "compressor": {},
        "before": dict(before),
        "after": dict(after),
        "removed": {},
        "aliases": {},
        "inputs": {},
        "files": listed(folder, others(folder, (MANIFEST,))),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
