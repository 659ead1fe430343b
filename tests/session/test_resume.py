"""``raycompress resume`` from the command line: what it goes on with, what it refuses, and what it says.

What a search that is resumed decides is tested on the fake backend, in test_decisions.py.
"""

import contextlib
import json
import signal
import subprocess
import time
from dataclasses import replace
from unittest.mock import ANY

import psutil
import pytest

from raycompress.config.search_space import SearchSpace
from raycompress.forecast.forecast import Forecast
from raycompress.forecast.projection import Projection
from raycompress.jsonc import as_json
from raycompress.model.costs import CostModel
from raycompress.model.file_bytes import FileBytes
from raycompress.results.journal import journal
from raycompress.results.record import SearchRecord
from raycompress.session.prepare import Prepared
from raycompress.session.resume import _shape, experiment_of, with_file_bytes
from raycompress.states import TrialState
from tests.support.experiments import experiment_with, layer, network
from tests.support.fake_search import killed_at
from tests.support.launching import command, digits_experiment, number_experiment, raycompress
from tests.support.shared_ray import run_here

NUMBERS = """
import os, pathlib, sys, time
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
print("x is", config.x)
while pathlib.Path("hold").exists() and config.x > 0.6:
    pathlib.Path("held").touch()
    time.sleep(0.05)
rc.report(score=config.x)
"""


SHARED = {"own_folder": False}


def search(folder, script=NUMBERS, **more):
    """One whose trials above 0.6 hang while there is a file called hold; the first is not among them."""
    dimension = [{"name": "x", "type": "float", "range": [0, 1]}]
    return number_experiment(folder, script, parameter_config=dimension, random_seed=5, runtime_args=SHARED, **more)


def killed(folder, path, number=signal.SIGKILL, kill=None):
    """Launch, and end the driver, or what `kill` ends, while a trial hangs; return the record and what was printed."""
    (folder / "hold").touch()
    driver = subprocess.Popen(command("launch", path), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "held").exists():
            assert driver.poll() is None, driver.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if kill is None:
            driver.send_signal(number)
        else:
            assert kill(driver)
            (folder / "hold").unlink()
        _, err = driver.communicate(timeout=60)
    finally:
        driver.kill()
        (folder / "hold").unlink(missing_ok=True)
    (only,) = folder.glob("raycompress_results/*/")
    return SearchRecord.open(only), err.decode()


def test_what_was_running_is_begun_once_more_and_what_has_ended_is_not(tmp_path):
    before, _ = killed(tmp_path, search(tmp_path, n_samples=8))
    assert before.state == "interrupted"
    done = run_here(tmp_path, "resume")
    assert done.code == 0, done.err
    record = done.record
    assert record.state == "complete"
    assert len(record.searched) == 8
    running = [trial.number for trial in before.searched if trial.state is TrialState.RUNNING]
    assert {trial.number: trial.starts for trial in record.searched if trial.starts > 1} == dict.fromkeys(running, 2)
    for number in running:
        assert record.folder.log(number).read_text() == f"x is {record.records[number].sample['x']}\n"
        assert (record.folder.trial(number) / "log.start-1.txt").exists()
    assert f"resumed, {len(before.searched) - len(running)} of 8 trials had ended" in done.err


def test_ctrl_c_says_how_to_resume_and_that_works(tmp_path):
    before, err = killed(tmp_path, search(tmp_path, n_samples=6), signal.SIGINT)
    assert before.state == "stopped"
    words = next(line for line in err.splitlines() if "raycompress resume" in line).partition("raycompress ")[2].split()
    done = run_here(tmp_path, *words[:2])
    assert done.code == 0, done.err
    assert {trial.state for trial in done.record.searched} == {TrialState.FINISHED}
    assert len(done.record.searched) == 6


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A search that is complete, in a folder of its own; each test leaves it complete."""
    folder = tmp_path_factory.mktemp("digits")
    first = run_here(folder, "launch", digits_experiment(folder, n_samples=2, proposer="random", random_seed=3))
    assert first.code == 0, first.err
    return first


def test_a_complete_search_is_extended_unless_its_model_is_another(digits):
    tmp_path, before = digits.folder, digits.record
    trials = len(before.searched)
    nothing = run_here(tmp_path, "resume", before.id)
    assert nothing.code == 0, nothing.err
    assert "--n-samples adds some" in nothing.err
    assert before.folder.journal.read_bytes() == nothing.record.folder.journal.read_bytes()
    model = before.folder.model.read_text()
    before.folder.model.write_text(json.dumps(another(json.loads(model))))
    refused = run_here(tmp_path, "resume", "--n-samples", str(trials + 1))
    assert refused.code == 2
    assert "the script's model is not the one that the search was launched with: conv1 is other than" in refused.err
    before.folder.model.write_text(model)
    done = run_here(tmp_path, "resume", before.id, "--n-samples", str(trials + 1))
    assert done.code == 0, done.err
    record = done.record
    assert [trial.number for trial in record.searched] == list(range(1, trials + 2))
    assert record.header["n_trials"] == trials + 2
    assert [trial.seconds for trial in record.searched[:trials]] == [trial.seconds for trial in before.searched]
    assert record.best.score == max(trial.score for trial in record.searched)
    assert record.folder.candidates() == [record.best.number]
    assert record.verified["trial"] == record.best.number
    fewer = run_here(tmp_path, "resume", "--n-samples", str(trials))
    assert fewer.code == 2
    assert f"the search has {trials + 1} samples" in fewer.err


def another(model):
    """Return what is known of a model, as if one of its layers had a channel more."""
    first, *rest = model["layers"]
    return {**model, "layers": [{**first, "channels": first["channels"] + 1}, *rest]}


def test_a_best_model_that_is_lost_is_made_again(digits):
    tmp_path, record = digits.folder, digits.record
    (record.bundle / "weights.safetensors").write_bytes(b"rotten")
    found = run_here(tmp_path, "best", "--verify")
    assert (found.code, "Traceback" in found.err) == (1, False)
    assert "weights.safetensors" in found.err
    done = run_here(tmp_path, "resume")
    assert done.code == 0, done.err
    assert f"the model of trial {record.best.number} is no longer whole" in done.err
    after = done.record
    assert after.records[record.best.number].score == record.best.score
    assert after.best.score == max(trial.score for trial in after.searched)
    assert after.verified["relative_difference"] < 1e-4


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A search that was killed, and its folder; its file has a comment and a trailing comma."""
    folder = tmp_path_factory.mktemp("stopped")
    path = search(folder, n_samples=8)
    path.write_text("// of the paper\n" + path.read_text().replace("\n}", ",\n}"))
    with contextlib.chdir(folder):
        record = killed_at(path, 3, lambda sample: sample["x"])
    return folder, record


def test_a_changed_file_is_refused_with_the_difference(stopped):
    folder, record = stopped
    path = folder / "exp.json"
    text = path.read_text()
    try:
        path.write_text(text.replace('"random_seed": 5', '"random_seed": 6'))
        done = run_here(folder, "resume")
        assert done.code == 2
        assert '-  "random_seed": 5' in done.err
        assert '+  "random_seed": 6' in done.err
        assert f"cp {record.folder.experiment} {path}" in done.err
        assert "Traceback" not in done.err
        path.write_text(json.dumps(json.loads(as_json(text)), indent=8))  # laid out otherwise, it says the same
        path.with_name("script.py").rename(folder / "elsewhere.py")
        done = run_here(folder, "resume")
        assert done.code == 2
        assert "script.py" in done.err
        assert "changed" not in done.err
    finally:
        (folder / "script.py").write_text(NUMBERS)
        path.write_text(text)
    assert SearchRecord(record.folder).state == "interrupted"


def test_the_copy_of_a_file_with_comments_stands_for_it(stopped):
    folder, record = stopped
    path = folder / "exp.json"
    assert record.folder.experiment.read_text() == path.read_text()
    known = experiment_of(record, None)
    path.rename(folder / "moved.json")
    try:
        assert experiment_of(record, None) == replace(known, path=record.folder.experiment, display_path=ANY)
    finally:
        (folder / "moved.json").rename(path)


def test_two_at_once_are_refused(stopped):
    folder, record = stopped
    holder = journal.Journal(record.folder.journal)
    try:
        done = raycompress(folder, "resume")
    finally:
        holder.close()
    assert done.code == 1
    assert "another raycompress writes this experiment" in done.err


def test_a_file_that_is_gone_is_replaced_by_its_copy(tmp_path):
    path = search(tmp_path, n_samples=2)
    assert run_here(tmp_path, "launch", path).code == 0
    path.unlink()
    done = run_here(tmp_path, "resume", "--n-samples", "3")
    assert done.code == 0, done.err
    assert len(done.record.searched) == 3


def test_bytes_of_files_are_predicted_as_at_the_first_launch(tmp_path):
    stage = {"framework": "torch", "type": "quantization", "compressor": "ptq_static"}
    entry = {"op_names": ["conv1"], "quant_bits": {"type": "choice", "range": [32, 8]}}
    experiment = experiment_with(tmp_path, [entry], compression={**stage, "config_list": [entry]}, proposer="guided")
    costs = CostModel((), (), (), 100, 100, 400)
    plain = replace(network(layer("conv1")), costs=costs)
    known, now = (replace(plain, file_bytes=FileBytes("ptq_static", (), {"file": one}, 0.01)) for one in (50.0, 60.0))
    assert _shape(known) == _shape(now) == _shape(plain)

    space = SearchSpace.of(experiment, now)
    projection = Projection.of(experiment, space, Forecast.of(experiment, now, costs))
    ready = Prepared(experiment, now, space, projection, None, None)
    for before, expected in ((known, 450), (plain, 460)):
        found = with_file_bytes(before, ready)
        assert found.projection.sizes({"conv1.quant_bits": 8})["size_bytes"] == expected
        assert found.model.file_bytes.parts["file"] == expected - 400


def test_passive_has_nothing_to_go_on_with(tmp_path):
    path = search(tmp_path, proposer="passive")
    assert raycompress(tmp_path, "launch", path).code == 0
    done = run_here(tmp_path, "resume")
    assert done.code == 2
    assert "passive" in done.err


def kill_actors(driver):
    """Kill the processes of Ray that trials run in."""
    children = psutil.Process(driver.pid).children(recursive=True)
    actors = [child for child in children if child.name().lower().startswith("ray::trial")]
    for actor in actors:
        actor.kill()
    return len(actors)


def test_an_actor_that_is_killed_costs_no_trial(tmp_path):
    path = search(tmp_path, n_samples=6)
    before, err = killed(tmp_path, path, kill=kill_actors)
    assert before.state == "complete", err
    assert {trial.state for trial in before.searched} == {TrialState.FINISHED}
    assert len(before.searched) == 6
    assert sum(trial.starts for trial in before.searched) > 6
    assert "the trial's actor died" in err
    assert "Traceback" not in err
