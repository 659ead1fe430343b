"""The study that `raycompress report --optuna` writes, in the real optuna-dashboard."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.support.launching import raycompress
from tests.support.outside.browser import CHROMIUM, browser
from tests.support.searches import searched, without_waiting

_SERVE = """
import sys
from optuna_dashboard import run_server

run_server(sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]))
"""


@contextmanager
def dashboard(study):
    """Serve the SQLite file `study`; yields the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", _SERVE, f"sqlite:///{study}", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _answers(port):
            assert process.poll() is None
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port):
    try:
        urlopen(f"http://127.0.0.1:{port}/api/meta", timeout=10).close()
    except (URLError, ConnectionError):
        return False
    return True


def asked(address):
    with urlopen(address, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        without_waiting(patch)
        record = searched(folder, 24)
    study = folder / "study.db"
    done = raycompress(folder, "report", record.folder.root, "--optuna", study)
    assert (done.code, done.err) == (0, "")
    with dashboard(study) as address:
        yield record, address


def test_its_api_knows_the_study_and_every_trial(served):
    record, address = served
    (study,) = asked(f"{address}/api/studies")["study_summaries"]
    assert study["study_name"] == record.id
    assert study["directions"] == ["maximize"]
    detail = asked(f"{address}/api/studies/{study['study_id']}")
    found = {trial["number"]: trial for trial in detail["trials"]}
    words = {"finished": "Complete", "ended early": "Pruned"}
    told = Counter(words.get(str(trial.state), "Fail") for trial in record.searched)
    assert Counter(trial["state"] for trial in found.values()) == told
    for trial, ours in zip(found.values(), record.searched, strict=True):
        if ours.score is not None and str(ours.state) == "finished":
            assert trial["values"] == [ours.score]
        assert {each["name"] for each in trial["params"]} == set(ours.sample)


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_its_page_shows_the_study(served):
    record, address = served
    with browser() as tab:
        tab.open(f"{address}/dashboard")
        tab.wait_for_text(record.id)
