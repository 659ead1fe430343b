"""S3 that is slow, wrong, refuses, or is gone: waited for, or told with what to do."""

import itertools

import pytest

from raycompress.config.places import S3Address
from raycompress.errors import StorageError
from raycompress.results import store
from raycompress.results.journal import journal
from raycompress.results.s3 import folder as folders
from raycompress.results.s3 import objects
from raycompress.results.s3.folder import S3Folder
from tests.results.test_s3_journal import HEADER, notes
from tests.session.test_killed import candidate
from tests.support.outside.s3server import BUCKET, ENVIRONMENT

STORAGE = S3Address.parse(f"s3://{BUCKET}/x")


@pytest.fixture
def quick(monkeypatch):
    """Let boto3 try but once, and the driver try again at once, so that no test waits for either."""
    monkeypatch.setattr(objects, "ATTEMPTS", 1)
    monkeypatch.setattr(objects, "_FIRST_PAUSE_S", 0.01)
    objects.new_client()


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "down", "lost"])
def test_what_passes_is_waited_for(s3, code):
    folder = store.create(STORAGE, "search")
    turn = itertools.count()
    s3.fault = lambda method, path: None if next(turn) % 3 else code
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    scratch = folder.scratch()
    candidate(scratch, 1)
    scratch.deliver(1, saved=True)
    folder.check_candidate(1)
    folder.point_to_best(1, 0.5)
    writer.append("note", text="through")
    writer.close()
    assert s3.counts[code] > 5
    folder.fetch_candidate(1)
    s3.fault = None
    assert s3.body(folder.address.key("journal/000001.jsonl")) == folder.journal.read_bytes()
    assert notes(folder) == ["through"]


@pytest.mark.parametrize("code", ["ExpiredToken", "SlowDown", "down"])
def test_a_driver_waits_for_new_credentials_and_for_s3_and_says_so(s3, quick, code):
    folder = store.create(STORAGE, "search")
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    said = []
    writer.listen(lambda event: said.append(event["text"]))
    left = iter(range(3))
    s3.fault = lambda method, path: code if "/journal/" in path and next(left, None) is not None else None
    writer.append("note", text="through")
    writer.close()
    assert said[-1] == "through"
    assert "waiting, for 600 s" in said[0]
    assert notes(folder) == ["through"]  # what could not be written then is not written later


def test_in_the_end_it_is_told_how_to_go_on(s3, quick, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE_S", 1.0)
    folder = store.create(STORAGE, "search")
    writer = folder.open_journal()
    writer.append("experiment", **HEADER)
    s3.fault = lambda method, path: "ExpiredToken" if "/journal/" in path else None
    with pytest.raises(StorageError) as caught:
        writer.append("note", text="lost")
    assert "the credentials have expired, for 1 s" in str(caught.value)
    assert f"`raycompress resume {folder.address}` goes on" in str(caught.value)
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    s3.fault = None
    writer.close()
    assert notes(folder) == []
    again = S3Folder.at(folder.address).open_journal()
    again.append("note", text="went on")
    again.close()
    assert [event["event"] for event in journal.read(folder.journal)] == ["experiment", "note"]


@pytest.mark.parametrize(
    ("storage", "fault", "what", "fix"),
    [
        ("s3://no-such-bucket/x", None, "there is no such bucket", "make it"),
        (str(STORAGE), "AccessDenied", "S3 refuses access", "s3:PutObject"),
        (str(STORAGE), "ExpiredToken", "the credentials have expired", "log in anew"),
        (str(STORAGE), "SlowDown", "S3 is too busy", ""),
        (str(STORAGE), "down", "S3 cannot be reached", "AWS_ENDPOINT_URL"),
    ],
)
def test_what_is_wrong_is_told_before_a_search(s3, quick, storage, fault, what, fix):
    s3.fault = lambda method, path: fault
    with pytest.raises(StorageError) as caught:
        store.check(S3Address.parse(storage))
    assert what in str(caught.value)
    assert fix in str(caught.value)
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_credentials_that_are_not_there_and_a_server_that_is_not_there_are_told(s3, quick, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    objects.new_client()
    with pytest.raises(StorageError, match="S3 cannot be reached"):
        store.check(STORAGE)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    objects.new_client()
    with pytest.raises(StorageError, match="there are no credentials for S3"):
        store.check(STORAGE)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    objects.new_client()
    with pytest.raises(StorageError, match="there are no credentials for S3"):
        store.check(STORAGE)


def test_the_probe_leaves_nothing(s3):
    store.check(STORAGE)
    assert s3.counts["asked"] >= 5
    assert s3.names() == []


def test_a_server_that_does_not_heed_conditions_is_refused(s3):
    s3.heedless = True
    with pytest.raises(StorageError, match="does not heed conditional writes"):
        store.check(STORAGE)
    assert s3.names() == []
