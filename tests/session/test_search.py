"""Searches with real Ray, real engines and real processes, from the command line to the files that are left."""

import json
import os
import signal
import subprocess
import time

import psutil
import pytest

from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import command, digits_experiment, number_experiment, raycompress
from tests.support.shared_ray import run_here

NUMBERS = """
import sys
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
rc.report(score=config.x)
"""

EVERY_ENDING = """
import ctypes, os, signal, sys, time
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
how = config.how
if how == "raise":
    raise ValueError("on purpose")
if how == "exit":
    sys.exit(3)
if how == "hard exit":
    os._exit(3)
if how == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if how == "hang":
    time.sleep(1000)
if how == "nothing":
    sys.exit(0)
rc.print_result({"nan": float("nan"), "dict": {"accuracy": 1}}.get(how, 0.5))
"""

ENDINGS = {
    "good": TrialState.FINISHED,
    "raise": TrialState.FAILED,
    "exit": TrialState.FAILED,
    "hard exit": TrialState.FAILED,
    "crash": TrialState.KILLED,
    "hang": TrialState.TIMED_OUT,
    "nothing": TrialState.NO_RESULT,
    "nan": TrialState.NOT_A_NUMBER,
    "dict": TrialState.BAD_RESULT,
}


def x_range(**more):
    return {"parameter_config": [{"name": "x", "type": "float", "range": [0, 1]}], "random_seed": 5, **more}


def test_every_ending_has_its_state_and_the_search_goes_on_when_asked(tmp_path, launch):
    path = number_experiment(
        tmp_path,
        EVERY_ENDING,
        parameter_config=[{"name": "how", "type": "choice", "range": list(ENDINGS)}],
        proposer="sequence",
        n_parallel=2,
        trial_timeout_s=3,
        job_failure={"ignore_fail": True},
    )
    done = launch(path)
    assert done.code == 0, done.err
    record = done.record
    assert {trial.sample["how"]: trial.state for trial in record.searched} == ENDINGS
    causes = {trial.sample["how"]: trial.cause for trial in record.searched}
    assert causes["raise"] == "ValueError: on purpose (script.py:7)"
    assert "exit code 3" in causes["exit"]
    assert "SIGSEGV" in causes["crash"]
    assert "Traceback" in record.folder.log(2).read_text()
    assert "Traceback" not in done.err


def test_the_first_failure_ends_the_search_by_default(tmp_path, launch):
    script = NUMBERS + "\nif config.x > 0.5: raise RuntimeError('too large')\n"
    done = launch(number_experiment(tmp_path, script, **x_range(n_samples=40)))
    record = done.record
    assert done.code == 1
    assert record.state == "failure"
    assert len(record.searched) < 40
    assert sum(trial.state is TrialState.FAILED for trial in record.searched) == 1
    assert "RuntimeError: too large" in done.err
    assert "ignore_fail" in done.err


def test_retries_are_made_and_written_down(tmp_path, launch):
    # inspection runs the script too, with x in the middle of its range
    fails_once = (
        "import pathlib\nmark = pathlib.Path('mark')\n"
        "if config.x != 0.5 and not mark.exists():\n    mark.touch()\n    raise OSError('the first time')\n"
    )
    script = NUMBERS.replace("rc.report", fails_once + "rc.report")
    done = launch(number_experiment(tmp_path, script, **x_range(n_samples=2, job_failure={"job_retries": 2})))
    assert done.code == 0, done.err
    assert [trial.attempts for trial in done.record.searched] == [2, 2]
    assert "OSError: the first time" in done.err
    assert "the first time" in (done.record.folder.trial(1) / "log.attempt-1.txt").read_text()


def test_more_at_a_time_than_the_machine_has_still_ends(tmp_path, launch):
    done = launch(number_experiment(tmp_path, NUMBERS, **x_range(n_samples=7, n_parallel=6)))
    assert done.code == 0, done.err
    assert len(done.record.searched) == 7
    assert "at a time" in done.err


@pytest.mark.parametrize("resource", [{"cpu": 1, "memory_gb": 90000}, {"cpu": 4096}, {"cpu": 1, "gpu": 77}])
def test_a_trial_that_fits_nowhere_is_refused_before_anything_runs(tmp_path, launch, resource):
    done = launch(number_experiment(tmp_path, NUMBERS, **x_range(resource=resource)))
    assert done.code == 2
    assert "a trial asks for" in done.err
    assert not (tmp_path / "raycompress_results").exists()


def test_ray_of_somebody_else_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
    done = raycompress(tmp_path, "launch", number_experiment(tmp_path, NUMBERS, **x_range(n_samples=1)))
    assert done.code == 0, done.err


def test_nothing_valid_is_exit_code_1(tmp_path, launch):
    script = NUMBERS.replace("rc.report(score=config.x)", "rc.report(score=float('nan'))")
    done = launch(number_experiment(tmp_path, script, **x_range(n_samples=2, job_failure={"ignore_fail": True})))
    assert done.code == 1
    assert "no trial finished with a result" in done.err
    assert {trial.state for trial in done.record.searched} == {TrialState.NOT_A_NUMBER}


def test_the_time_budget_ends_a_hung_trial(tmp_path, launch):
    script = NUMBERS + "\nimport time\nif config.x > 0.3: time.sleep(1000)\n"
    done = launch(number_experiment(tmp_path, script, **x_range(n_samples=50, time_budget_s=8)))
    assert done.record.state == "time budget"
    assert {trial.state for trial in done.record.searched} <= {TrialState.FINISHED, TrialState.STOPPED}
    assert any(trial.state is TrialState.STOPPED for trial in done.record.searched)


def test_one_seed_one_search(tmp_path):
    samples = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        # trials of unequal length, so that they end in another order
        script = NUMBERS + "\nimport os, time\ntime.sleep(0.2 * (os.getpid() % 3))\n"
        path = number_experiment(folder, script, **x_range(n_samples=12, n_parallel=2, proposer="optuna"))
        record = run_here(folder, "launch", path).record
        samples.append([trial.sample for trial in record.searched])
        assert record.best.score == max(trial.score for trial in record.searched)
    assert samples[0] == samples[1]


def descendants_of(marker):
    """All processes whose environment or command line speaks of `marker`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                marker in " ".join(process.cmdline()) or marker in str(process.environ().get("PWD", ""))
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_search_keeps_the_best_and_leaves_no_process(tmp_path, number):
    script = NUMBERS + (
        "\nimport pathlib, subprocess, sys, time\n"
        "if config.x > 0.6:\n"
        f"    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', {str(tmp_path)!r}])\n"
        "    pathlib.Path('hung').touch()\n    time.sleep(600)\n"
    )
    path = number_experiment(tmp_path, script, **x_range(n_samples=50, runtime_args={"own_folder": False}))
    # the first trial's x is .22, so inspection (at .5) and some trials end before one hangs
    driver = subprocess.Popen(command("launch", path), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ours = psutil.Process(driver.pid)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "hung").exists():
            assert driver.poll() is None, driver.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        tree = [ours, *ours.children(recursive=True), *descendants_of(str(tmp_path))]
        driver.send_signal(number)
        _, err = driver.communicate(timeout=60)
    finally:
        driver.kill()
    _, alive = psutil.wait_procs(tree, timeout=5)
    alive += descendants_of(str(tmp_path))
    assert not [process.cmdline() for process in alive]
    (folder,) = tmp_path.glob("raycompress_results/*/")
    record = SearchRecord.open(folder)
    if number == signal.SIGKILL:
        assert record.state == "interrupted"
        return
    assert driver.returncode == 4, err
    assert record.state == "stopped"
    assert record.best is not None
    assert b"Traceback" not in err


def test_exactly_the_best_model_is_left(tmp_path, launch):
    path = digits_experiment(tmp_path, n_samples=3, proposer="random", random_seed=3)
    done = launch(path)
    assert done.code == 0, done.err
    record = done.record
    assert len(record.searched) == 3
    assert record.folder.candidates() == [record.best.number]
    assert record.best.score == max(trial.score for trial in record.searched)
    pointer = json.loads(record.folder.best_pointer.read_text())
    assert pointer["trial"] == record.best.number
    assert (record.folder.best_link / "model.pth").exists()
    assert (record.folder.best_link / "mask.pth").exists()
    assert record.verified["relative_difference"] <= 1e-6
    assert record.verified["after"]["flops"] < record.verified["before"]["flops"]
    assert record.baseline.values["accuracy"] > 0.95
