"""The trial actor without Ray: what it tells, and what it leaves behind when a trial is ended between two results."""

import pytest

from raycompress.backend.tune.trainable import TrialActor
from raycompress.results.folder import ExperimentFolder
from raycompress.search.trials import TrialPlan
from tests.support.trials import left, pids

PROCESSES = """
import json, subprocess, sys, time
import raycompress as rc
children = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(30)]
with open("pids", "w") as file:
    file.write("".join(f"{child.pid}\\n" for child in children))
rc.report(score=0.5)
time.sleep(600)
"""

FAILS_ONCE = """
import pathlib
import raycompress as rc
again = pathlib.Path("again").exists()
pathlib.Path("again").touch()
for step in range(1, 4):
    rc.report(score=step)
    if step == 2 and not again:
        raise ValueError
"""


@pytest.fixture
def actor(tmp_path, warm_spec, worker):
    """Make an actor for a trial of this script; as in a search, the warm process is another's (`worker`)."""
    made = []

    def actor(source, **config):
        (tmp_path / "script.py").write_text(source)
        template = {"script": "script.py", "workingdir": str(tmp_path), "env": {}, "save_model": True}
        folder = ExperimentFolder(tmp_path)
        shared = {name: config.pop(name, default) for name, default in (("retries", 0), ("judged", False))}
        plan = TrialPlan(warm_spec, folder, template, compression={}, stream=True, **shared)

        class Actor(TrialActor):
            def setup(self, config):
                super().setup(config, plan=plan)

        trial = {"number": 1, "sample": {}, "baseline": False, "seed": None, "budgets": (), "config": {}, **config}
        made.append(Actor(trial))
        return made[-1]

    yield actor
    for one in made:
        one.cleanup()


def test_a_trial_that_is_abandoned_has_no_process_left_to_write_into_its_folder(tmp_path, actor):
    running = actor(PROCESSES)
    assert running.step()["score"] == 0.5
    running.abandon()
    assert left(*pids(tmp_path / "pids"), seconds=0) == []


def test_an_actor_whose_trial_was_abandoned_takes_the_next(actor):
    running = actor(PROCESSES)
    running.step()
    running.abandon()
    assert running.step()["score"] == 0.5


def test_an_attempt_tells_no_step_that_the_one_before_has_told(tmp_path, actor):
    running = actor(FAILS_ONCE, retries=1)
    results = [running.step() for _ in range(4)]
    assert [result["iterations"] for result in results] == [1, 2, 3, 3]
    assert [result["values"] for result in results[:3]] == [{"score": 1}, {"score": 2}, {"score": 3}]
    assert results[3]["done"]
    assert [attempt["state"] for attempt in results[3]["attempts"]] == ["failed"]


def test_a_result_that_could_end_the_trial_is_told_when_the_next_has_come(actor):
    running = actor("import raycompress as rc\nfor step in range(1, 4):\n    rc.report(score=step)\n", judged=True)
    results = [running.step() for _ in range(3)]
    assert [(result["iterations"], result["score"], result["done"]) for result in results] == [
        (1, 1, False),
        (2, 2, False),
        (3, 3, True),
    ]
    assert [result["held"] for result in results] == [False, False, True]


def test_an_attempt_that_fails_takes_the_result_that_it_held_with_it(actor):
    running = actor(FAILS_ONCE, retries=1, judged=True)
    results = [running.step() for _ in range(3)]
    assert [result["iterations"] for result in results] == [1, 2, 3]
    assert [result["score"] for result in results] == [1, 2, 3]
    assert results[2]["done"]
