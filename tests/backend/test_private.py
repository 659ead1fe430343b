"""Names of Ray that are not public: each is replaced and put back, and where it is gone a search runs all the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private import parameter
from ray._private.node import Node
from ray.air._internal import usage
from ray.tune.execution import tune_controller as _tune_controller

from raycompress.backend.ray import private
from raycompress.states import TrialState
from tests.support.fake_search import X
from tests.support.launching import number_experiment
from tests.support.shared_ray import run_here

tune_controller: Any = _tune_controller  # its private names, too


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every private name of Ray from us; Ray itself keeps them."""
    monkeypatch.setattr(private, "_attribute", lambda *_names: None)


def test_each_name_is_one_of_this_ray_and_is_put_back() -> None:
    controller = tune_controller.TuneController
    before = (
        [vars(Node)[name] for name in private._SERVERS],
        usage.tag_callbacks,
        tune_controller._ObjectCache,
        controller._process_trial_failure,
        controller._schedule_trial_task,
        tune_controller._ActorClassCache,
        tune_controller._get_trainable_kwargs,
        parameter.RayParams,
    )
    made = object()
    with (
        private.without_dashboard(),
        private.agent_on_a_free_port(),
        private.without_telemetry_of_callbacks(),
        private.actor_cache(lambda: made),
        private.trials_of_dead_actors_begun_again(lambda _error: False),
        private.actors_without_tune(SimpleNamespace, {}),
    ):
        assert all(vars(Node)[name] is not start for name, start in zip(private._SERVERS, before[0], strict=True))
        assert usage.tag_callbacks([]) is False
        assert parameter.RayParams().dashboard_agent_listen_port == 0
        assert tune_controller._ObjectCache(may_keep_one=True) is made
        assert controller._process_trial_failure is not before[3]
        assert controller._schedule_trial_task is not before[4]
        assert tune_controller._ActorClassCache().get(object).__ray_metadata__.class_name == "SimpleNamespace"
        assert tune_controller._get_trainable_kwargs is not before[6]
    assert [vars(Node)[name] for name in private._SERVERS] == before[0]
    after = (
        *(usage.tag_callbacks, tune_controller._ObjectCache, controller._process_trial_failure),
        *(controller._schedule_trial_task, tune_controller._ActorClassCache, tune_controller._get_trainable_kwargs),
        parameter.RayParams,
    )
    assert after == before[1:]


@pytest.mark.parametrize("name", private._SERVERS)
def test_a_server_that_ray_no_longer_knows_is_not_made_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Node, name)
    with private.without_dashboard():
        assert not hasattr(Node, name)
        others = [getattr(Node, other) for other in private._SERVERS if other != name]
        assert others == [private._start_nothing] * 2
    assert not hasattr(Node, name)


@pytest.mark.parametrize(
    ("owner", "name", "replaced"),
    [
        (parameter, "RayParams", private.agent_on_a_free_port),
        (usage, "tag_callbacks", private.without_telemetry_of_callbacks),
        (tune_controller, "_ObjectCache", lambda: private.actor_cache(object)),
        (
            tune_controller.TuneController,
            "_process_trial_failure",
            lambda: private.trials_of_dead_actors_begun_again(bool),
        ),
        (tune_controller, "_ActorClassCache", lambda: private.actors_without_tune(object, {})),
        (tune_controller, "_get_trainable_kwargs", lambda: private.actors_without_tune(object, {})),
        (tune_controller.TuneController, "_schedule_trial_task", lambda: private.actors_without_tune(object, {})),
    ],
)
def test_a_name_that_is_gone_is_not_made_up(
    owner: Any, name: str, replaced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(owner, name)
    with replaced():
        assert not hasattr(owner, name)
    assert not hasattr(owner, name)


def test_a_module_that_is_gone_has_no_names() -> None:
    assert private._attribute("ray.no_such_module", "name") is None
    assert private._attribute("ray._private.node", "Node", "no_such_name") is None


def test_an_actor_that_is_not_known_and_a_process_that_cannot_be_named(gone: None) -> None:
    assert private.actor_of(SimpleNamespace()) is None
    assert private.actor_of(SimpleNamespace(temporary_state=SimpleNamespace(ray_actor=7))) == 7
    private.name_process("ray::trial-0001")


SCRIPT = """
import sys
import raycompress as rc
x = rc.BasicConfig().load(sys.argv[1]).x
for step in range(1, 5):
    rc.report(score=x * step)
"""


def test_a_search_runs_without_any_of_them(gone: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(private, "actor_of", lambda _trial: None)
    stop = {"early_stop": {"aup_policy": "bandit", "aup_policy_steps": 2}}
    keys = {"parameter_config": X, "n_samples": 5, "n_parallel": 2, "random_seed": 1, "resource_args": stop}
    done = run_here(tmp_path, "launch", number_experiment(tmp_path, SCRIPT, **keys))
    assert done.code == 0, done.err
    assert len(done.record.searched) == 5
    states = {trial.state for trial in done.record.searched}
    assert states <= {TrialState.FINISHED, TrialState.ENDED_EARLY}
    assert done.record.state == "complete"
