"""Every backend does what the seam asks of it, and a search is the same search on each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raycompress.backend.fake import FakeBackend
from raycompress.backend.here import HereBackend
from raycompress.backend.protocol import Backend, TrialPlan
from raycompress.backend.ray.local import LocalRay
from raycompress.config.options import Resources
from raycompress.runtime.client import WarmProcess, WarmSpec
from raycompress.states import TrialState
from raycompress.testing.backends import BackendSuite, Behaviour
from tests.support.fake_search import X, search
from tests.support.launching import number_experiment
from tests.support.shared_ray import run_here, shared


@pytest.mark.unit
class TestFake(BackendSuite):
    most_slots = 3

    def make(self, plan: TrialPlan, n_slots: int, behaviour: Behaviour) -> Backend:
        return FakeBackend(behaviour.function, plan, n_slots)


@pytest.mark.unit
class TestHere(BackendSuite):
    tells_results = False
    most_slots = 1

    def make(self, plan: TrialPlan, n_slots: int, behaviour: Behaviour) -> Backend:
        return HereBackend(plan)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmSpec]:
    """Start the warm process that trials are forked from, and Ray."""
    spec = WarmSpec(name="suite", workingdir=str(tmp_path_factory.mktemp("warm")))
    process = WarmProcess.start(spec)
    with shared(), LocalRay(2):
        yield spec
    process.close()


class TestTune(BackendSuite):
    @pytest.fixture(autouse=True)
    def _on_ray(self, warm: WarmSpec) -> None:
        self._warm = warm

    def make(self, plan: TrialPlan, n_slots: int, behaviour: Behaviour) -> Backend:
        from raycompress.backend.tune.backend import TuneBackend

        return TuneBackend(replace(plan, warm=self._warm), n_slots, Resources(cpu=1))


SCRIPT = """
import sys
import raycompress as rc
x = rc.BasicConfig().load(sys.argv[1]).x
for step in range(1, 7):
    rc.report(score=x * step)
"""
KEYS = {
    "parameter_config": X,
    "proposer": "optuna",
    "n_samples": 6,
    "random_seed": 3,
    "resource_args": {"early_stop": {"aup_policy": "bandit", "aup_policy_steps": 2}},
}


def test_a_search_is_the_same_on_ray_tune_and_on_the_fake(tmp_path: Path) -> None:
    """One trial at a time, so that early stopping sees the same; the proposer learns from what it decides."""
    fake = search(tmp_path / "fake", lambda sample: [sample["x"] * step for step in range(1, 7)], **KEYS)
    (tmp_path / "ray").mkdir()
    done = run_here(tmp_path / "ray", "launch", number_experiment(tmp_path / "ray", SCRIPT, **KEYS))
    assert done.code == 0, done.err
    assert [trial.sample for trial in done.record.searched] == [trial.sample for trial in fake.searched]
    assert [(trial.state, trial.cause) for trial in done.record.searched] == [
        (trial.state, trial.cause) for trial in fake.searched
    ]
    assert [trial.intermediate for trial in done.record.searched] == [trial.intermediate for trial in fake.searched]
    assert any(trial.state is TrialState.ENDED_EARLY for trial in fake.searched)
