import fcntl
import json
import multiprocessing
import subprocess
import sys
import threading

import pytest

from raycompress.errors import StorageError
from raycompress.results.journal import journal
from raycompress.results.journal.journal import Journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def test_events_come_back_in_order(path):
    writer = Journal(path)
    heard = []
    writer.listen(heard.append)
    for number in range(5):
        writer.append("started", trial=number, sample={"conv1.sparsity": 0.1 * number})
    writer.close()
    events = list(journal.read(path))
    assert events == heard
    assert [event["trial"] for event in events] == list(range(5))


def test_what_json_cannot_hold_is_null(path):
    writer = Journal(path)
    writer.append("ended", trial=1, values={"loss": float("nan"), "all": [float("inf"), 1.0]})
    writer.close()
    assert "NaN" not in path.read_text()
    (event,) = journal.read(path)
    assert event["values"] == {"loss": None, "all": [None, 1.0]}


def test_the_journals_of_older_versions_name_the_size_as_it_is_named_now(path):
    old = {"params": 2, "flops": None, "bytes": 8, "latency_ms": 1.5}
    path.write_text(json.dumps({"t": 1.0, "event": "ended", "trial": 1, "before": old, "after": None}) + "\n")
    (event,) = journal.read(path)
    assert event["before"] == {"params": 2, "flops": None, "size_bytes": 8, "latency_ms": 1.5}
    assert event["after"] is None


def test_a_torn_last_line_is_left_out(path):
    writer = Journal(path)
    writer.append("started", trial=1)
    writer.append("ended", trial=1, cause="é" * 50)
    writer.close()
    whole = path.read_bytes()
    last = whole.index(b"\n") + 1
    for cut in range(last, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [event["event"] for event in journal.read(path)] == ["started"]


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(path):
    path.write_text('{"t": 1, "event": "started"}\nrubbish\n{"t": 2, "event": "ended"}\n')
    with pytest.raises(StorageError) as caught:
        list(journal.read(path))
    assert f"{path}:2" in str(caught.value)


def test_one_process_at_a_time_writes(path):
    writer = Journal(path)
    assert journal.is_written(path)
    imports = "from pathlib import Path; from raycompress.results.journal.journal import Journal"
    code = f"{imports}; Journal(Path({str(path)!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode != 0
    assert "another raycompress writes this experiment" in other.stderr
    writer.close()
    assert not journal.is_written(path)
    Journal(path).close()


def ask_for_ever(path, asked):
    while True:
        journal.is_written(path)
        asked.set()


def test_who_asks_whether_a_search_runs_keeps_nobody_from_running_it(path):
    path.touch()
    fork = multiprocessing.get_context("fork")
    asked = fork.Event()
    readers = [fork.Process(target=ask_for_ever, args=(path, asked), daemon=True) for _ in range(2)]
    try:
        for reader in readers:
            reader.start()
        assert asked.wait(60)
        for _ in range(300):
            writer = Journal(path)
            assert journal.is_written(path)
            writer.close()
    finally:
        for reader in readers:
            reader.kill()
            reader.join()


def test_a_reader_that_holds_the_lock_is_waited_for(path):
    path.touch()
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        threading.Timer(0.3, fcntl.flock, (reader, fcntl.LOCK_UN)).start()
        writer = Journal(path)
    writer.append("started", trial=1)
    writer.close()
    assert [event["trial"] for event in journal.read(path)] == [1]


def test_an_event_is_on_disk_when_its_listener_hears_of_it(path):
    writer = Journal(path)
    on_disk = []
    writer.listen(lambda event: on_disk.append(json.loads(path.read_text().splitlines()[-1]) == event))
    writer.append("started", trial=1)
    writer.append("ended", trial=1)
    writer.close()
    assert on_disk == [True, True]


def test_who_goes_on_with_a_torn_journal_begins_a_line_of_its_own(path):
    path.write_bytes(b'{"t": 1, "event": "experiment"}\n{"t": 2, "event": "sta')
    writer = Journal(path)
    writer.append("resumed", n_trials=3)
    writer.close()
    assert [event["event"] for event in journal.read(path)] == ["experiment", "resumed"]
