"""optuna-dashboard, the real one, on the study that ``raycompress report --optuna`` writes."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from raycompress.results.states import TrialState
from tests.browser import CHROMIUM, browser
from tests.conftest import raycompress
from tests.results.searches import searched, without_waiting

DASHBOARD = shutil.which("optuna-dashboard", path=Path(sys.executable).parent)
pytestmark = pytest.mark.skipif(not DASHBOARD, reason="needs optuna-dashboard")


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_waiting(patch)
        return searched(tmp_path_factory.mktemp("storage"), 30)


@pytest.fixture(scope="module")
def url(record, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    done = raycompress(folder, "report", record.folder.root, "--optuna", "study.db")
    assert done.code == 0, done.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [DASHBOARD, "--host", "127.0.0.1", "--port", str(port), f"sqlite:///{folder}/study.db"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                get(f"http://127.0.0.1:{port}/api/studies")
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_its_api_gives_the_study_and_all_trials(record, url):
    (summary,) = get(f"{url}/api/studies")["study_summaries"]
    assert summary["study_name"] == record.id
    assert summary["directions"] == ["maximize"]
    study = get(f"{url}/api/studies/{summary['study_id']}")
    words = {TrialState.FINISHED: "Complete", TrialState.ENDED_EARLY: "Pruned"}
    told = [(trial["state"], trial.get("values")) for trial in study["trials"]]
    assert told == [
        (words.get(trial.state, "Fail"), None if trial.score is None else [trial.score]) for trial in record.searched
    ]
    assert len(told) == 30
    (best,) = study["best_trials"]
    assert best["values"] == [record.best.score]
    names = {param["name"] for trial in study["trials"] for param in trial["params"]}
    assert names == set(record.header["dimensions"])


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_person_sees_the_study(record, url, tmp_path):
    with browser() as page:
        page.open(f"{url}/dashboard")
        page.wait_for_text(record.id)
        (summary,) = get(f"{url}/api/studies")["study_summaries"]
        page.open(f"{url}/dashboard/studies/{summary['study_id']}/trials")
        page.wait_for_text("User Attributes")
        assert "Trial 0" in page.text()
        assert json.dumps(record.records[1].values)[1:-1] in page.text()
        assert not [asked for asked in page.requests if not asked.startswith((url, "data:", "blob:", "about:"))]
