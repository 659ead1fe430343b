"""A search whose results go to S3, moto's: launched, read, fetched, gone on with elsewhere."""

import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from raycompress.bundle import bundle
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import command, digits_experiment, number_experiment, raycompress
from tests.support.outside.s3server import BUCKET, ENVIRONMENT
from tests.support.shared_ray import run_here

STORAGE = f"s3://{BUCKET}/team/x"


def test_a_search_is_kept_on_s3_and_read_fetched_and_extended_elsewhere(tmp_path, s3, monkeypatch):
    path = digits_experiment(tmp_path, n_samples=2, proposer="random", random_seed=3, storage=STORAGE)
    done = run_here(tmp_path, "launch", path)
    assert done.code == 0, done.err
    assert not (tmp_path / "raycompress_results").exists()
    (found,) = json.loads(run_here(tmp_path, "ls", "--storage", STORAGE, "--json").out)
    reference = found["folder"]
    assert f"next:   raycompress best {reference}" in done.err + done.out
    assert (found["state"], found["trials"]) == ("complete", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    best = json.loads(run_here(tmp_path, "best", reference, "--json").out)
    number = best["best"]["trial"]
    assert best["bundle"] == f"{reference}/trials/{number:04d}/candidate"
    kept = {name.split("/")[4] for name in s3.names() if "/candidate/" in name}
    assert kept == {f"{number:04d}"}
    assert not list((tmp_path / "elsewhere").rglob("*.safetensors"))  # not needed so far
    log = run_here(tmp_path, "logs", reference, "--trial", "1")
    assert log.code == 0 and s3.body(f"team/x/{found['id']}/trials/0001/log.txt").decode() == log.out
    assert run_here(tmp_path, "report", reference, "-o", "page.html").code == 0
    assert run_here(tmp_path, "plan", path).code == 0
    fetched = run_here(tmp_path, "fetch", found["id"], "--storage", STORAGE, "--to", "model", "--json")
    assert fetched.code == 0, fetched.err
    bundle.check_hashes(json.loads(fetched.out)["bundle"])
    assert run_here(tmp_path, "fetch", reference, "--to", "model").code == 2  # it is there
    verified = run_here(tmp_path, "best", reference, "--verify", "--json")
    assert verified.code == 0, verified.err
    assert json.loads(verified.out)["verified"]["relative_difference"] < bundle.TOLERANCE
    moved = path.rename(tmp_path / "moved.json")
    more = run_here(tmp_path, "resume", reference, "--n-samples", "3", "--file", moved)
    assert more.code == 0, more.err
    record = SearchRecord.open(reference)
    assert record.header["file"] == str(moved)
    assert [trial.number for trial in record.searched] == [1, 2, 3]
    assert record.folder.candidates() == [record.best.number]
    bundle.check_hashes(record.bundle)


HANGS = """
import pathlib, sys, time
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
print("x is", config.x)
while pathlib.Path("hold").exists() and config.x != 0.5:  # which is the inspection's
    pathlib.Path("begun").touch()
    time.sleep(0.05)
rc.report(score=config.x)
"""


def scratch(status):
    """Return the folders that trials of an experiment have on this machine's disk."""
    experiment = status.out.partition(":")[0]
    return list(Path(tempfile.gettempdir()).glob(f"raycompress-*/{experiment}"))


@pytest.mark.night
def test_two_drivers_at_once_and_what_a_kill_leaves(tmp_path, s3, monkeypatch):
    dimension = [{"name": "x", "type": "float", "range": [0, 1]}]
    path = number_experiment(
        tmp_path, HANGS, parameter_config=dimension, n_samples=2, storage=STORAGE, runtime_args={"own_folder": False}
    )
    (tmp_path / "hold").touch()
    output = (tmp_path / "output").open("wb")
    driver = subprocess.Popen(command("launch", path), cwd=tmp_path, stdout=output, stderr=output)
    try:
        while not (tmp_path / "begun").exists():
            assert driver.poll() is None, (tmp_path / "output").read_text()
        for cache in ("cache", "elsewhere"):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
            status = json.loads(run_here(tmp_path, "status", "--storage", STORAGE, "--json").out)
            assert status["state"] == "running"
            second = run_here(tmp_path, "resume", "--storage", STORAGE)
            assert second.code == 1
            assert "another raycompress writes this experiment" in second.err
            assert "Traceback" not in second.err
    finally:
        driver.kill()
        driver.wait()
        output.close()
        (tmp_path / "hold").unlink()
    status = run_here(tmp_path, "status", "--storage", STORAGE)
    assert "interrupted (`raycompress resume` goes on with it)" in status.out
    (left,) = scratch(status)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # from elsewhere: test_s3_killed.py
    done = run_here(tmp_path, "resume", "--storage", STORAGE)
    assert done.code == 0, done.err
    assert not left.exists() and not scratch(status)
    record = SearchRecord.open(json.loads(run_here(tmp_path, "ls", "--storage", STORAGE, "--json").out)[0]["folder"])
    assert {trial.state for trial in record.searched} == {TrialState.FINISHED}
    assert record.folder.fetch_log(1).read_text() == f"x is {record.records[1].sample['x']}\n"


@pytest.mark.parametrize(
    ("storage", "change", "what"),
    [
        ("s3://no-such-bucket/x", {}, "there is no such bucket"),
        (STORAGE, {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "there are no credentials for S3"),
        ("s3://B/x", {}, "an address on S3 is s3://bucket/prefix"),
    ],
)
def test_a_mistake_costs_no_trial_and_has_a_fix(tmp_path, s3, monkeypatch, storage, change, what):
    for name in change:
        monkeypatch.delenv(name)
    path = number_experiment(tmp_path, HANGS, n_samples=1, storage=storage)
    done = run_here(tmp_path, "launch", path)
    assert done.code in (1, 2)
    assert what in done.err
    assert "fix:" in done.err
    assert "Traceback" not in done.err
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in done.err
    assert not (tmp_path / "begun").exists()
    assert s3.names() == []


@pytest.mark.night
def test_s3_that_stumbles_costs_no_trial(tmp_path, s3):
    asked = iter(range(10**6))
    s3.fault = lambda method, path: ("SlowDown", None, None, "InternalError", None, "lost", None)[next(asked) % 7]
    path = digits_experiment(tmp_path, n_samples=2, proposer="random", random_seed=3, storage=STORAGE)
    done = run_here(tmp_path, "launch", path)
    assert done.code == 0, done.err
    s3.fault = None
    assert min(s3.counts[code] for code in ("SlowDown", "InternalError", "lost")) > 3
    record = SearchRecord.open(json.loads(run_here(tmp_path, "ls", "--storage", STORAGE, "--json").out)[0]["folder"])
    assert {trial.state for trial in record.searched} == {TrialState.FINISHED}
    assert [trial.starts for trial in record.searched] == [1, 1]
    bundle.check_hashes(record.bundle)


def test_a_passive_trial_is_kept_there_too(tmp_path, s3):
    path = digits_experiment(tmp_path, proposer="passive", storage=STORAGE)
    done = raycompress(tmp_path, "launch", path, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out[done.out.index("{\n") :])
    record = SearchRecord.open(found["bundle"].rpartition("/trials/")[0])
    assert record.state == "complete"
    bundle.check_hashes(record.bundle)
    assert not list(Path(tempfile.gettempdir()).glob(f"raycompress-*/{record.id}"))
