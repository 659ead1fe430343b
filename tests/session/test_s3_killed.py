"""A search on S3 that is killed anywhere is resumed, from this machine or another, until it is done."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter

import pytest

from raycompress.config.places import S3Address
from raycompress.results import store
from raycompress.results.journal import journal
from raycompress.results.record import SearchRecord
from raycompress.results.s3 import segments
from raycompress.results.s3.folder import S3Folder
from raycompress.states import TrialState
from tests.session.test_killed import Shot, begin, experiment, promote
from tests.support.outside.s3server import BUCKET
from tests.support.shared_ray import run_here

STORAGE = f"s3://{BUCKET}/killed"
TRIALS, KILLS = 6, 1
MORE_TRIALS, MORE_KILLS = 16, 6
"""In the night."""


class FarShot(Shot):
    """One that looks at the journal where it is written first."""

    def __init__(self, folder, seed, s3):
        super().__init__(folder, seed)
        self.s3 = s3

    def journal_size(self):
        listed = self.s3.client.list_objects_v2(Bucket=BUCKET, Prefix="killed/").get("Contents", ())
        return sum(entry["Size"] for entry in listed if "/journal/" in entry["Key"])


def on(storage, folder, trials):
    """Write the experiment of the other kill test, to end in `storage`."""
    path = experiment(folder, "random", trials) / "exp.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "storage": storage}))
    return folder


@pytest.mark.timeout(1200)
def test_a_search_on_s3_is_done_by_resuming_from_here_and_from_elsewhere(tmp_path, s3, monkeypatch, is_nightly):
    trials, kills = (MORE_TRIALS, MORE_KILLS) if is_nightly else (TRIALS, KILLS)
    unkilled = run_here(on("raycompress_results", tmp_path / "unkilled", trials), "launch", "exp.json")
    assert unkilled.code == 0, unkilled.err
    shot = FarShot(on(STORAGE, tmp_path / "killed", trials), 3, s3)
    shot("launch", "exp.json")
    while shot.kills < kills:
        if shot.kills % 2:  # from another machine: nothing of the mirror is there
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{shot.kills}"))
        assert shot("resume", "--storage", STORAGE), (shot.folder / "output").read_text()
        record = SearchRecord(store.find(None, S3Address.parse(STORAGE)))
        assert {trial.state for trial in record.searched} <= {TrialState.FINISHED, TrialState.RUNNING}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-of-another"))
    done = run_here(shot.folder, "resume", "--storage", STORAGE)
    assert done.code == 0, done.err
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a reader's"))
    record, expected = SearchRecord(store.find(None, S3Address.parse(STORAGE))), unkilled.record
    assert record.state == "complete"
    assert {trial.state for trial in record.searched} == {TrialState.FINISHED}
    assert [trial.sample for trial in record.searched] == [trial.sample for trial in expected.searched]
    assert [trial.score for trial in record.searched] == [trial.score for trial in expected.searched]
    ends = Counter(event["trial"] for event in journal.read(record.folder.journal) if event["event"] == "ended")
    assert ends == dict.fromkeys(range(trials + 1), 1)  # none lost, none twice
    assert record.best.number == expected.best.number
    assert record.folder.candidates() == [record.best.number]
    assert {key.split("/")[3] for key in s3.names() if "/candidate/" in key} == {f"{record.best.number:04d}"}
    fetched = run_here(tmp_path, "fetch", record.folder.reference, "--to", "model")
    assert fetched.code == 0, fetched.err
    verified = run_here(tmp_path, "best", record.folder.reference, "--verify")
    assert verified.code == 0, verified.err


@pytest.mark.night
@pytest.mark.timeout(600)
def test_a_kill_at_any_moment_of_promotion_leaves_the_old_or_the_new_best_whole_on_s3(
    tmp_path, s3, monkeypatch, is_nightly
):
    monkeypatch.setattr(segments, "FULL", 4000)
    folder = S3Folder.at(S3Address.parse(f"{STORAGE}/x-1"))
    writer = folder.open_journal()
    begin(writer)
    writer.close()
    moments = random.Random(5)
    pointed, left = [], 0
    fork = multiprocessing.get_context("fork")
    for _ in range(24 if is_nightly else 12):
        shutil.rmtree(tmp_path / "cache")
        begun = fork.Event()
        process = fork.Process(target=promote, args=(S3Folder.at(folder.address), begun))
        process.start()
        assert begun.wait(60)
        further = s3.counts["asked"] + moments.randrange(1, 45)  # a trial and its promotion are some fifteen requests
        while s3.counts["asked"] < further:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        folder.refresh()
        left = max(left, len({key.split("/")[3] for key in s3.names("killed/x-1/trials/") if "/candidate/" in key}))
        if folder.best_number() is None:
            continue
        record = SearchRecord(folder)
        best = record.best
        pointed.append(best.number)
        folder.check_candidate(best.number)
        ended = [trial.score for trial in record.searched if trial.state is TrialState.FINISHED]
        later = [score for score in ended if score > best.score]
        assert len(later) <= 1  # the one whose promotion the kill was in the middle of
    assert pointed == sorted(pointed)
    assert len(set(pointed)) > 4
    assert left <= 3
    assert len([key for key in s3.names() if "/journal/" in key]) > 1
    shutil.rmtree(tmp_path / "cache")
    folder.fetch_candidate(pointed[-1])  # compares the hashes
