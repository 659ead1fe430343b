"""Actors are kept: Tune by itself throws starting actors away in a search of short trials."""

from raycompress.backend.tune import slots
from raycompress.config.options import Resources
from tests.support.launching import number_experiment

SCRIPT = """
import os, sys
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
rc.report(score=config.x, actor=os.getppid())   # each actor has a supervisor of its own, and forks trials from it
"""


def test_a_search_of_short_trials_starts_one_actor_a_slot(tmp_path, launch):
    path = number_experiment(
        tmp_path,
        SCRIPT,
        parameter_config=[{"name": "x", "type": "float", "range": [0, 1]}],
        resource={"cpu": 0.25},
        n_samples=40,
        n_parallel=4,
    )
    done = launch(path)
    assert done.code == 0, done.err
    assert len({trial.values["actor"] for trial in done.record.searched}) == 4


def test_slots_ask_for_the_same_but_can_be_told_apart():
    resources = Resources(cpu=2, gpu=0.5, memory_gb=1, accelerator_type="A100")
    first, second = slots.request(resources, 0), slots.request(resources, 1)
    assert first != second
    assert first == slots.request(resources, 0)
    assert first.required_resources["CPU"] == 2
    assert first.required_resources["GPU"] == 0.5
    assert abs(first.required_resources["memory"] - 2**30) < 100
    assert first.required_resources["accelerator_type:A100"] == 0.001


def test_workers_are_bundles_of_one_group():
    group = slots.request(Resources(cpu=2, gpu=1, workers=3, placement="SPREAD"), 0)
    assert [bundle["CPU"] for bundle in group.bundles] == [2, 2, 2]
    assert (group.strategy, group.required_resources["GPU"]) == ("SPREAD", 3)
