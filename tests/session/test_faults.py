"""What goes wrong outside of a search: each fault ends in a state or an error of ours, and resuming mends it."""

import subprocess

import pytest

from raycompress.bundle import bundle
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import Launched, command, number_experiment
from tests.support.outside.small_disk import can_mount, small_disk
from tests.support.shared_ray import run_here

needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, and a namespace to mount a small disk in")

MODELS = """
import os, sys, torch
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
torch.manual_seed(0)
layers = torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 400)
model, example = torch.nn.Sequential(*layers), torch.randn(1, 1, 8, 8)
compressor = rc.create_compressor(model, config, dummy_input=example)
model = compressor.compress()
model(example)
if config.tid == 3 and os.path.exists("fill"):
    with open("disk/filler", "ab", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            filler.truncate(filler.tell() - 200_000)  # what does not fit is the model
rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")
rc.report(score=config.x)
"""
OTHER_WORDS = """
if config.tid == 3 and os.path.exists("fill"):
    with open("disk/filler", "ab", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            filler.truncate(filler.tell() - 60_000)  # the journal needs some
    raise RuntimeError("file write failed")
"""
FILLS_THE_JOURNAL = """
import os, sys
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
if config.tid == 3 and os.path.exists("fill"):
    with open("disk/filler", "ab", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    for step in range(100):
        rc.report(score=config.x)
rc.report(score=config.x)
"""
GOES = """
import os, sys
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
if config.tid == 2:
    os.rename("script.py", "elsewhere.py")
rc.report(score=config.x)
"""


def search(folder, script, **more):
    script = script.replace('"disk/', f'"{folder}/disk/')  # a relative path would lead to the trial's own folder
    dimension = [{"name": "x", "type": "float", "range": [0, 1]}]
    return number_experiment(folder, script, parameter_config=dimension, random_seed=5, n_samples=5, **more)


def finished(record, count=5):
    assert record.state == "complete"
    assert {trial.state for trial in record.searched} == {TrialState.FINISHED}
    assert [trial.number for trial in record.searched] == list(range(1, count + 1))
    assert record.best.score == max(trial.score for trial in record.searched)
    return True


@needs_mount
@pytest.mark.parametrize(
    "script",
    [MODELS, pytest.param(MODELS.replace("rc.save_model", f"{OTHER_WORDS}\nrc.save_model"), marks=pytest.mark.night)],
)
def test_a_full_disk_ends_the_search_also_where_failures_are_ignored(tmp_path, script):
    path = search(tmp_path, script, storage="disk/results", job_failure={"ignore_fail": True})
    (tmp_path / "fill").touch()
    with small_disk(tmp_path, "5m") as disk:
        done = disk.raycompress("launch", path)
        assert done.code == 1
        assert "trial 3 failed: the disk is full: " in done.err
        assert "fix: free some space" in done.err
        assert "raycompress resume" in done.err
        record = disk.record()
        assert record.state in ("failure", "interrupted")  # that it has ended may not have gone to the disk any more
        assert {trial.number: trial.state for trial in record.searched} == {
            1: TrialState.FINISHED,
            2: TrialState.FINISHED,
            3: TrialState.FAILED,
        }
        assert record.best.number == 2
        bundle.check_hashes(record.bundle)
        (disk.seen / "filler").unlink()
        (tmp_path / "fill").unlink()
        done = disk.raycompress("resume", "--storage", "disk/results")
        assert done.code == 0, done.err
        record = disk.record()
        assert finished(record)
        bundle.check_hashes(record.bundle)
        assert record.folder.candidates() == [record.best.number]


@needs_mount
def test_a_journal_that_cannot_be_written_ends_the_search_and_loses_nothing(tmp_path):
    path = search(
        tmp_path, FILLS_THE_JOURNAL, storage="disk/results", resource_args={"track_intermediate_results": True}
    )
    (tmp_path / "fill").touch()
    with small_disk(tmp_path, "1m") as disk:
        done = disk.raycompress("launch", path)
        assert done.code == 1
        assert "error: cannot write the journal: No space left on device" in done.err
        assert "`raycompress resume`" in done.err
        record = disk.record()
        assert record.state == "interrupted"
        assert [trial.number for trial in record.searched if trial.state is TrialState.FINISHED] == [1, 2]
        again = disk.raycompress("resume", "--storage", "disk/results")
        assert again.code == 1
        assert "No space left on device" in again.err
        for verb in ("status", "ls", "best"):
            assert disk.raycompress(verb, "--storage", "disk/results").code == 0
        (disk.seen / "filler").unlink()
        (tmp_path / "fill").unlink()
        done = disk.raycompress("resume", "--storage", "disk/results")
        assert done.code == 0, done.err
        assert finished(disk.record())


@needs_mount
def test_storage_that_cannot_be_written_is_told_and_nothing_runs(tmp_path):
    path = search(tmp_path, MODELS, storage="disk/results")
    with small_disk(tmp_path, "1m", ",ro") as disk:
        done = disk.raycompress("launch", path)
    assert done.code == 2
    assert "error: results cannot go to" in done.err
    assert "storage" in done.err
    assert done.out == ""


def test_a_script_that_goes_while_trials_run_ends_the_search_and_is_put_back(tmp_path):
    # a relative path would lead to the trial's own copy
    goes = GOES.replace('"script.py"', f'"{tmp_path}/script.py"')
    path = search(tmp_path, goes, job_failure={"ignore_fail": True})
    done = run_here(tmp_path, "launch", path)
    assert done.code == 1
    assert "trial 3 failed: cannot run the script: No such file or directory" in done.err
    assert "put the script back, and raycompress resume" in done.err
    assert "Traceback" not in done.err
    assert len(done.record.searched) <= 4
    gone = run_here(tmp_path, "resume")
    assert gone.code == 2
    assert f"where: {path}" in gone.err
    assert "script.py" in gone.err
    assert "Traceback" not in gone.err
    (tmp_path / "script.py").write_text(GOES.replace("config.tid == 2", "False"))
    done = run_here(tmp_path, "resume")
    assert done.code == 0, done.err
    assert finished(done.record)


def test_two_launches_at_once_in_one_folder_are_two_searches(tmp_path):
    path = search(tmp_path, GOES.replace("config.tid == 2", "False"))
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command("launch", path), cwd=tmp_path, stdout=pipe, stderr=pipe) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err.decode()
    folders = sorted((tmp_path / "raycompress_results").iterdir())
    assert len(folders) == 2
    assert all(finished(SearchRecord.open(folder)) for folder in folders)
    assert len(run_here(tmp_path, "ls").out.splitlines()) >= 2


def test_a_search_resumed_after_a_failure_and_killed_at_once_makes_the_failed_trial_again(tmp_path):
    from raycompress.results.journal.journal import Journal

    path = search(tmp_path, GOES.replace("os.rename", "raise ValueError").replace("config.tid == 2", "config.x > 0.8"))
    failed: Launched = run_here(tmp_path, "launch", path)
    assert failed.code == 1
    header = failed.record.header
    journal = Journal(failed.record.folder.journal)
    journal.append("resumed", **{name: header[name] for name in ("n_trials", "n_parallel", "host", "pid")})
    journal.close()
    assert failed.record.state == "interrupted"
    (tmp_path / "script.py").write_text(GOES.replace("config.tid == 2", "False"))
    done = run_here(tmp_path, "resume")
    assert done.code == 0, done.err
    assert finished(done.record)
