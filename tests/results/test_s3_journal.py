"""The journal on S3: a chain of segments with one writer, a lease, and a mirror that follows."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time

import pytest

from raycompress.config.places import S3Address
from raycompress.errors import StorageError, UsageError
from raycompress.results import store
from raycompress.results.journal import journal
from raycompress.results.record import SearchRecord
from raycompress.results.s3 import lease, segments
from raycompress.results.s3.folder import S3Folder
from raycompress.results.s3.objects import Objects
from raycompress.results.s3.segments import ReplicatedJournal
from tests.support.outside.s3server import BUCKET, ENVIRONMENT

STORAGE = S3Address.parse(f"s3://{BUCKET}/some/where")
HEADER = {
    **dict.fromkeys(("id", "name", "file", "script", "compressor", "proposer", "host"), "x"),
    **dict.fromkeys(("n_trials", "n_parallel", "pid"), 1),
    **{"version": 1, "goal": "max", "dimensions": []},
}


@pytest.fixture
def folder(s3):
    return store.create(STORAGE, "some name")


def elsewhere(folder, monkeypatch, tmp_path):
    """Return the same experiment as another machine sees it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    return S3Folder.at(folder.address)


def driver(folder, **times):
    """Open the journal as a driver does that another machine knows nothing of, and with other times."""
    objects = Objects(folder.address)
    held = lease.Lease(objects, folder.token, **times)
    data, chain = segments.fetch(objects, folder.root / "journal")
    folder.journal.parent.mkdir(parents=True, exist_ok=True)
    folder.journal.write_bytes(data)
    return ReplicatedJournal(folder.journal, objects, held, chain)


def notes(folder):
    return [event["text"] for event in journal.read(folder.journal) if event["event"] == "note"]


def test_events_are_on_s3_before_they_count_and_read_elsewhere(folder, s3, monkeypatch, tmp_path):
    monkeypatch.setattr(segments, "FULL", 300)
    seen = []
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    key = folder.address.key("journal/000001.jsonl")
    writer.listen(lambda event: seen.append(s3.body(key).endswith(b'"early"}\n')))
    writer.append("note", text="early")
    assert seen == [True]
    for number in range(20):
        writer.append("note", text=f"note {number} \ud800")
    keys = [key for key in s3.names() if "/journal/" in key]
    assert [key.rpartition("/")[2] for key in keys] == [f"{number:06d}.jsonl" for number in range(1, len(keys) + 1)]
    assert len(keys) > 3
    there = elsewhere(folder, monkeypatch, tmp_path)
    there.refresh()
    assert there.journal.read_bytes() == folder.journal.read_bytes() == b"".join(map(s3.body, keys))
    asked = s3.counts["asked"]
    writer.append("note", text="one more")
    there.refresh()
    assert there.journal.read_bytes() == folder.journal.read_bytes()
    assert s3.counts["asked"] - asked < 10  # what will not change is not read again
    assert SearchRecord(there).state == "running"
    writer.close()
    assert SearchRecord(there).state == "interrupted"


def test_a_driver_goes_on_where_another_one_elsewhere_has_ended(folder, monkeypatch, tmp_path, s3):
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    writer.close()
    there = elsewhere(folder, monkeypatch, tmp_path)
    writer = there.open_journal()
    writer.append("note", text="from there")
    writer.close()
    folder.refresh()
    assert notes(folder) == ["from there"]


def test_a_second_driver_is_refused_here_and_elsewhere(folder, monkeypatch, tmp_path):
    writer = folder.open_journal()
    for other in (S3Folder.at(folder.address), elsewhere(folder, monkeypatch, tmp_path)):
        with pytest.raises(StorageError, match="another raycompress writes this experiment"):
            other.open_journal()
    writer.append("experiment", **HEADER)
    writer.close()


def test_no_event_counts_of_a_driver_that_was_taken_for_dead(folder, monkeypatch, tmp_path):
    zombie = driver(folder, renewed_s=3600, expires_s=0.5)
    zombie.append("experiment", **HEADER)
    time.sleep(2.1)  # S3's clock has whole seconds
    there = elsewhere(folder, monkeypatch, tmp_path)
    writer = driver(there, renewed_s=3600, expires_s=0.5)
    with pytest.raises(StorageError, match="taken this experiment over"):
        zombie.append("note", text="of a zombie")
    writer.append("note", text="of the living")
    with pytest.raises(StorageError, match="taken this experiment over"):
        zombie.append("note", text="of a zombie")
    zombie.close()
    there.refresh()
    assert next(text.partition(" ended")[2] for text in notes(there)) == " without a word; taken over"
    assert notes(there)[1:] == ["of the living"]
    assert there.is_written()
    writer.close()
    assert not there.is_written()


def test_a_zombie_makes_no_next_segment_and_no_best(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(segments, "FULL", 1)
    zombie = driver(folder, renewed_s=3600, expires_s=0.5)
    zombie.append("experiment", **HEADER)
    folder.point_to_best(1, 0.5)
    time.sleep(2.1)
    there = elsewhere(folder, monkeypatch, tmp_path)
    writer = driver(there, renewed_s=3600, expires_s=0.5)
    there.refresh()
    there.best_pointer.write_bytes(folder.best_pointer.read_bytes())
    there.point_to_best(2, 0.6)
    with pytest.raises(StorageError, match="taken this experiment over"):
        zombie.append("note", text="of a zombie")
    with pytest.raises(StorageError, match="taken this experiment over"):
        folder.point_to_best(3, 0.7)
    zombie.close()
    writer.close()
    again = S3Folder.at(folder.address)
    again.refresh()
    assert again.best_number() == 2


def test_a_lease_is_renewed_and_told_to_be_lost(folder):
    objects = Objects(folder.address)
    held = lease.Lease(objects, "one", renewed_s=0.05)
    deadline = time.monotonic() + 20
    while lease.Holder.seen(objects.get(lease.KEY)).renewed < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not held.lost
    objects.put_anyhow(lease.KEY, lease.Holder.here("two").to_bytes())
    while not held.lost:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    held.close()
    assert lease.Holder.seen(objects.get(lease.KEY)).token == "two"  # and is not given back by the loser


def test_a_dead_driver_of_this_machine_is_not_waited_for_and_one_elsewhere_is(folder):
    objects = Objects(folder.address)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = dataclasses.replace(lease.Holder.here("dead"), pid=ended.pid)
    objects.put_anyhow(lease.KEY, dataclasses.replace(dead, machine="another").to_bytes())
    with pytest.raises(StorageError, match=r"last heard of [01] s ago"):
        lease.Lease(objects, "mine")
    objects.put_anyhow(lease.KEY, dead.to_bytes())
    held = lease.Lease(objects, "mine")
    assert held.predecessor.pid == ended.pid
    held.close()


def test_an_answer_that_was_lost_makes_no_event_twice_and_refuses_none(folder, s3):
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    lost = []

    def fault(method, path):
        if method == "PUT" and "/journal/" in path and len(lost) < 2:
            lost.append(path)
            return "lost"
        return None

    s3.fault = fault
    writer.append("note", text="once")
    s3.fault = None
    writer.append("note", text="twice")
    writer.close()
    assert s3.counts["lost"] == 2
    assert s3.body(folder.address.key("journal/000001.jsonl")) == folder.journal.read_bytes()
    assert notes(folder) == ["once", "twice"]


def test_a_part_of_the_journal_that_is_missing_is_told(folder, s3, monkeypatch):
    monkeypatch.setattr(segments, "FULL", 1)
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    for _ in range(3):
        writer.append("note", text="x")
    writer.close()
    s3.client.delete_object(Bucket=BUCKET, Key=folder.address.key("journal/000002.jsonl"))
    with pytest.raises(StorageError, match="a part of the journal is missing"):
        folder.refresh()


def test_names_that_are_none_of_ours_are_left_alone(folder, s3, tmp_path):
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    writer.close()
    for key in ("../../evil/journal/000001.jsonl", "a b/x", "not begun/x", f"{folder.id}/journal/../../x.jsonl"):
        s3.client.put_object(Bucket=BUCKET, Key=STORAGE.key(key), Body=b"x")
    assert [found.id for found in store.list_folders(STORAGE)] == [folder.id]
    assert store.find(None, STORAGE) == folder
    assert not list(tmp_path.rglob("*evil*"))


def test_find_takes_an_address_an_id_and_a_beginning(folder):
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    writer.close()
    shutil.rmtree(folder.root)
    for reference in (str(folder.address), str(folder.address)[:-3]):
        assert store.find(reference, STORAGE.parent) == folder
    assert store.find("some-name", STORAGE) == folder
    assert SearchRecord.open(str(folder.address)).header["name"] == "x"
    with pytest.raises(UsageError, match="no experiment"):
        store.find(f"{STORAGE}/none", STORAGE)
    with pytest.raises(UsageError, match="no experiment here yet"):
        store.find(None, S3Address.parse(f"s3://{BUCKET}/empty"))
    with pytest.raises(UsageError, match="an address on S3 is"):
        store.find("s3://", STORAGE)


def test_two_experiments_of_one_second_get_addresses_of_their_own(s3):
    assert len({store.create(STORAGE, "same").address for _ in range(3)}) == 3


def test_what_was_never_begun_leaves_nothing(folder, s3):
    folder.discard()
    assert s3.names() == []
    assert not folder.root.exists()


def test_no_key_is_written_anywhere(folder, s3, tmp_path):
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    writer.close()
    secret = ENVIRONMENT["AWS_SECRET_ACCESS_KEY"].encode()
    there = [s3.body(key) for key in s3.names()]
    here = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert there and here and not any(secret in text for text in (*there, *here))
    assert json.loads(s3.body(folder.address.key("lease.json"))).keys() == {
        "host",
        "pid",
        "machine",
        "token",
        "held",
        "renewed",
    }
