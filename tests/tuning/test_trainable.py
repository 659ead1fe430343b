"""The trial actor without Ray: what it leaves behind when a trial is ended between two results."""

import pytest
from trials import left, pids

from raycompress.results.store import ExperimentFolder
from raycompress.tuning.trainable import TrialActor, TrialPlan

PROCESSES = """
import json, subprocess, sys, time
import raycompress as rc
children = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(30)]
with open("pids", "w") as file:
    file.write("".join(f"{child.pid}\\n" for child in children))
rc.report(score=0.5)
time.sleep(600)
"""


@pytest.fixture
def actor(tmp_path, warm_spec, worker):
    """Make an actor for a trial of this script; as in a search, the warm process is another's (`worker`)."""
    made = []

    def actor(source, **config):
        (tmp_path / "script.py").write_text(source)
        template = {"script": "script.py", "workingdir": str(tmp_path), "env": {}, "save_model": True}
        folder = ExperimentFolder(tmp_path)
        plan = TrialPlan(warm_spec, folder, template, compression={}, retries=config.pop("retries", 0), stream=True)

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
