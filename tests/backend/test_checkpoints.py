"""A trial that is lost goes on from its checkpoint: what is trained again, and what the journal says of it."""

import signal
import subprocess

import pytest

from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal import journal
from raycompress.results.journal.journal import Journal
from raycompress.results.record import SearchRecord
from raycompress.results.report.table import as_table
from raycompress.search.history import SearchHistory
from raycompress.search.outcome import NOTHING
from raycompress.states import TrialState
from tests.session.test_killed import begin
from tests.support.launching import Launched, command, number_experiment, raycompress

SCRIPT = """
import os, sys, time
import psutil, torch
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
compressor = rc.create_compressor(model, config, dummy_input=images[:1])
model = compressor.compress()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
state = rc.checkpoint.load(model=model, optimizer=optimizer)
for epoch in range(0 if state is None else state["epoch"] + 1, 10):
    print("epoch", epoch)
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rc.report(loss=loss.detach())
    if epoch < 8:
        rc.checkpoint(model=model, optimizer=optimizer, epoch=epoch)
    if epoch in (4, 8) and state is None and config.get("tid") == 1:
        LOSE
rc.report(loss=torch.nn.functional.cross_entropy(model(images), labels).detach())
rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")
"""
LOSE_ACTOR = """
        driver = psutil.Process(int(os.environ["RAYCOMPRESS_TEST_DRIVER"]))
        (actor,) = [one for one in driver.children(recursive=True) if one.name().lower().startswith("ray::trial")]
        if epoch == 4:
            actor.suspend()  # what it has not passed on yet is lost with it
        else:
            actor.kill()
            time.sleep(600)
"""


def search(folder, script, **more):
    dimension = {"sparsity": {"type": "choice", "range": [0.5, 0.25]}, "op_types": ["Conv2d"]}
    compression = {"framework": "torch", "type": "pruning", "compressor": "l1_filter", "config_list": [dimension]}
    changes = {"compression": compression, "target": "min", "proposer": "sequence", "n_samples": 1, **more}
    return number_experiment(folder, script, **changes)


def launch(folder, path):
    """Launch in a process that the script can find, on a Ray of its own: that of other tests hangs on no process."""
    words = ["sh", "-c", 'RAYCOMPRESS_TEST_DRIVER=$$ exec "$@"', "sh", *command("launch", path)]
    done = subprocess.run(words, cwd=folder, timeout=240, capture_output=True, text=True, check=False)
    return Launched(done.returncode, done.stdout, done.stderr, folder)


def epochs(path):
    return [int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("epoch")]


@pytest.mark.parametrize("more", [{}, {"early_stop": {"aup_policy": "median"}}])
def test_a_trial_whose_actor_is_killed_trains_what_came_after_its_checkpoint(tmp_path, more):
    path = search(
        tmp_path,
        SCRIPT.replace("LOSE", LOSE_ACTOR),
        resource_args={"track_intermediate_results": True, **more},
    )
    done = launch(tmp_path, path)
    assert done.code == 0, done.err
    record = done.record
    trial = record.records[1]
    assert (trial.state, trial.starts, trial.continued) == (TrialState.FINISHED, 2, 8)
    folder = record.folder.trial(1)
    assert epochs(folder / "log.start-1.txt") == [*range(9)]
    assert epochs(folder / "log.txt") == [8, 9]
    (event,) = [event for event in journal.read(record.folder.journal) if event["event"] == "continued"]
    assert (event["trial"], event["step"], event["at"]) == (1, 8, {"epoch": 7})
    assert trial.steps == [*range(1, 12)]  # those that the actor had not passed on yet, too
    assert trial.seconds == pytest.approx(event["seconds"] + trial.last_start_seconds)
    assert not record.folder.checkpoint(1).exists()
    assert "trial 1 goes on from its checkpoint: epoch 7" in done.err


LOSE_DRIVER = """
        if epoch == 8:
            psutil.Process(int(os.environ["RAYCOMPRESS_TEST_DRIVER"])).kill()
            time.sleep(600)
"""


@pytest.mark.night
def test_a_trial_of_a_search_whose_driver_is_killed_trains_what_came_after_its_checkpoint(tmp_path):
    script = SCRIPT.replace("LOSE", LOSE_DRIVER)
    path = search(tmp_path, script, resource_args={"early_stop": {"aup_policy": "median"}})
    lost = launch(tmp_path, path)
    assert lost.code == -signal.SIGKILL, lost.err
    done = raycompress(tmp_path, "resume")
    assert done.code == 0, done.err
    record = done.record
    trial = record.records[1]
    assert (trial.state, trial.starts, trial.continued) == (TrialState.FINISHED, 2, 8)
    assert epochs(record.folder.trial(1) / "log.txt") == [8, 9]
    assert trial.steps == [*range(1, 12)]


def test_the_record_keeps_what_came_before_the_checkpoint_and_nothing_after_it(tmp_path):
    writer = Journal(tmp_path / "journal.jsonl")
    begin(writer)
    start = {"attempt": 1, "sample": {}, "config": {}, "baseline": False}

    def report(*steps, worth):
        for step in steps:
            writer.append("intermediate", trial=1, step=step, values={"score": worth})

    writer.append("started", trial=1, **start)
    report(1, 2, 3, worth=0.1)
    for _ in range(2):  # the first of which is lost before its script says anything
        writer.append("started", trial=1, **start)
    writer.append("continued", trial=1, step=2, at={"epoch": 1}, seconds=3.5)
    report(3, worth=0.5)
    record = SearchRecord(ExperimentFolder(tmp_path))
    trial = record.records[1]
    assert (trial.starts, trial.continued, trial.steps) == (3, 2, [1, 2, 3])
    assert [values["score"] for values in trial.intermediate] == [0.1, 0.1, 0.5]
    writer.append("started", trial=1, **start)
    writer.close()
    (past,) = SearchHistory.of(SearchRecord(ExperimentFolder(tmp_path))).unfinished.values()
    assert past.step == 3


@pytest.mark.parametrize("seconds", [{"seconds": 1.5}, {"seconds": 5.0, "last_start_seconds": 1.5}])  # older, and now
def test_the_record_has_the_seconds_of_all_starts_and_those_of_the_last_one(tmp_path, seconds):
    writer = Journal(tmp_path / "journal.jsonl")
    begin(writer)
    for _ in range(2):
        writer.append("started", trial=1, attempt=1, sample={}, config={}, baseline=False)
    writer.append("continued", trial=1, step=8, at={"epoch": 7}, seconds=3.5)
    facts = {**NOTHING, "state": TrialState.FINISHED, "cause": "", **seconds}
    writer.append("ended", trial=1, log="", **facts)
    writer.close()
    record = SearchRecord(ExperimentFolder(tmp_path))
    trial = record.records[1]
    assert (trial.seconds, trial.last_start_seconds) == (5.0, 1.5)
    table = as_table(record, [], [])
    assert "since checkpoint" in table and '<td data-value="1.5">1.5 s</td>' in table
