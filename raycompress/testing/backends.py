"""What a backend must do, whoever runs trials there; subclass `BackendSuite`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from raycompress.backend.fake import Function
from raycompress.backend.protocol import Backend, Ended, Event, Lost, Result, Started, TrialPlan, TrialRequest
from raycompress.config.objective import Objective
from raycompress.results.folder import ExperimentFolder
from raycompress.search.outcome import FACTS
from raycompress.states import TrialState

_PATIENCE_S = 120.0
"""How long one event may take to come: starting Ray's processes takes seconds on a busy machine."""


@dataclass(frozen=True)
class Behaviour:
    """What trials do, as a script and as a function of their sample; both find ``x``."""

    script: str
    function: Function


def _fail(sample: dict[str, Any]) -> float:
    raise ValueError("on purpose")


def _three(sample: dict[str, Any]) -> Sequence[float]:
    return [sample["x"] * step for step in (1, 2, 3)]


_CONFIG = "import sys\nimport raycompress as rc\nx = rc.BasicConfig().load(sys.argv[1]).x\n"
THREE_RESULTS = Behaviour(_CONFIG + "for step in (1, 2, 3):\n    rc.report(score=x * step)\n", _three)
FAILURE = Behaviour("raise ValueError('on purpose')\n", _fail)
SILENCE = Behaviour("print('nothing to report')\n", lambda sample: [])


class BackendSuite:
    """Tests of a backend.

    Attributes
    ----------
    tells_results
        Whether results are polled before a trial's end.
    most_slots
        How many trials it can run at a time.
    """

    tells_results: ClassVar[bool] = True
    most_slots: ClassVar[int] = 2

    def make(self, plan: TrialPlan, n_slots: int, behaviour: Behaviour) -> Backend:
        """Return a new backend, whose trials do what `behaviour` says; `plan` names a file with its script."""
        raise NotImplementedError

    @pytest.fixture
    def started(self, tmp_path: Path) -> Callable[..., AbstractContextManager[Backend]]:
        """Make a backend that is closed at the end of a ``with`` statement."""

        def started(behaviour: Behaviour, n_slots: int = 1, **more: Any) -> AbstractContextManager[Backend]:
            return closing(self.make(plan_in(tmp_path, behaviour, **more), n_slots, behaviour))

        return started

    def test_a_trial_starts_reports_and_ends(self, started: Any, tmp_path: Path) -> None:
        """Its events come in order, with what the script reported of its own sample."""
        with started(THREE_RESULTS) as backend:
            assert backend.room() == 1
            for number, x in ((1, 0.25), (2, 0.5)):
                backend.start(request(number, x))
                assert backend.room() == 0
                events = poll_until(backend, Ended)
                assert isinstance(events[0], Started)
                assert {event.number for event in events} == {number}
                ended = events[-1]
                assert isinstance(ended, Ended)
                assert set(FACTS) <= set(ended.facts)
                assert ended.facts["state"] == TrialState.FINISHED
                assert ended.facts["score"] == pytest.approx(3 * x)
                results = [event for event in events if isinstance(event, Result)]
                if self.tells_results:
                    assert [(one.step, one.score) for one in results] == [(step, step * x) for step in (1, 2, 3)]
                else:
                    assert results == []
                assert ExperimentFolder(tmp_path).log(number).exists()
                wait_for_room(backend, 1)

    def test_what_a_script_does_wrong_is_an_end_and_not_an_error(self, started: Any) -> None:
        """The next trial runs all the same."""
        with started(FAILURE) as backend:
            for number in (1, 2):
                backend.start(request(number, 0.5))
                ended = poll_until(backend, Ended)[-1]
                assert isinstance(ended, Ended)
                assert ended.facts["state"] == TrialState.FAILED
                assert "on purpose" in ended.facts["cause"]
                assert ended.facts["score"] is None
                wait_for_room(backend, 1)

    def test_a_script_without_a_result_is_told_as_one(self, started: Any) -> None:
        """No result is made up."""
        with started(SILENCE) as backend:
            backend.start(request(1, 0.5))
            ended = poll_until(backend, Ended)[-1]
            assert isinstance(ended, Ended)
            assert ended.facts["state"] == TrialState.NO_RESULT
            assert ended.facts["values"] is None

    def test_a_trial_that_is_stopped_is_not_heard_of_again(self, started: Any) -> None:
        """Its room is free, and the next trial takes it."""
        if not self.tells_results:
            pytest.skip("no trial of it waits at a result")
        with started(THREE_RESULTS) as backend:
            backend.start(request(1, 0.5))
            poll_until(backend, Result)
            backend.stop(1)
            wait_for_room(backend, 1)
            backend.start(request(2, 0.5))
            events = poll_until(backend, Ended)
            assert {event.number for event in events} == {2}

    def test_trials_run_at_a_time_and_no_more_than_there_is_room_for(self, started: Any) -> None:
        """Each has a slot of its own."""
        n = self.most_slots
        with started(THREE_RESULTS, n) as backend:
            assert backend.room() == n
            for number in range(1, n + 1):
                backend.start(request(number, 0.5))
            assert backend.room() == 0
            events: list[Event] = []
            while sum(isinstance(event, Ended) for event in events) < n:
                events += poll_until(backend, Ended)
            slots = [event.slot for event in events if isinstance(event, Started)]
            assert len(set(slots)) == n
            wait_for_room(backend, n)

    def test_closing_ends_what_runs(self, started: Any) -> None:
        """At once, and again."""
        with started(THREE_RESULTS) as backend:
            backend.start(request(1, 0.5))
            poll_until(backend, Started)
            backend.close()
            backend.close()


def request(number: int, x: float) -> TrialRequest:
    """Return a trial whose script, or function, finds `x`."""
    return TrialRequest(number, {"x": x}, {"x": x, "save_model": False}, seed=number)


def plan_in(folder: Path, behaviour: Behaviour, **more: Any) -> TrialPlan:
    """Return what the trials of a search in `folder` share; the script of `behaviour` lies there."""
    script = folder / "script.py"
    script.write_text(behaviour.script, encoding="utf-8")
    (folder / "logs").mkdir(exist_ok=True)
    template = {"script": str(script), "workingdir": str(folder), "env": {}, "save_model": False}
    parts = {"retries": 0, "stream": True, "objective": Objective.of_score("max"), **more}
    return TrialPlan(warm=None, folder=ExperimentFolder(folder), template=template, compression={}, **parts)


def poll_until(backend: Backend, kind: type[Started | Result | Ended]) -> list[Event]:
    """Poll until an event of `kind` comes; return all events up to it. A `Lost` fails the test."""
    events: list[Event] = []
    end = time.monotonic() + _PATIENCE_S
    while not any(isinstance(event, kind) for event in events):
        assert time.monotonic() < end, f"no {kind.__name__} came; what came: {events}"
        events += backend.poll()
        assert not any(isinstance(event, Lost) for event in events), events
    return events


def wait_for_room(backend: Backend, n: int) -> None:
    """Poll until there is room for `n` trials; nothing else may happen meanwhile."""
    end = time.monotonic() + _PATIENCE_S
    while backend.room() < n:
        assert time.monotonic() < end, f"there is no room for {n}"
        assert not backend.poll()
