"""A search that is followed: each line once, whatever becomes of the connection."""

import json
from pathlib import Path

import pytest

from raycompress.clusters.run.following import Lines
from raycompress.clusters.run.mirror import Mirror, Submitted, note
from raycompress.errors import StorageError
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal import journal

SUBMITTED = Submitted(job="tiny-1", cluster="/home/x/cluster.yaml", storage="/srv/r/", keep=False, search="tiny-1-2")


def test_a_line_is_told_once_though_every_connection_begins_at_the_first() -> None:
    lines = Lines()
    assert list(lines.new("one\ntw")) == ["one"]
    assert list(lines.new("o\nthr")) == ["two"]
    lines.again()
    assert list(lines.new("one\ntwo\nth")) == []
    assert list(lines.new("ree\nfour\n")) == ["three", "four"]


def test_the_copy_has_each_event_once_and_is_held_while_it_is_written(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path / "tiny-1-2")
    events = [{"t": 1.0, "event": "note", "text": "a"}, {"t": 2.0, "event": "note", "text": "b"}]
    for _ in range(2):
        mirror = Mirror(folder, SUBMITTED, "{}")
        for event in events:
            mirror.add(event)
        assert journal.is_written(folder.journal)
        mirror.close()
    assert list(journal.read(folder.journal)) == events
    assert not journal.is_written(folder.journal)
    assert Submitted.of(folder) == SUBMITTED and SUBMITTED.folder == "/srv/r/tiny-1-2"


@pytest.mark.parametrize("text", ["", "[]", '{"job": 1}', "{"])
def test_a_foreign_note_is_refused(tmp_path: Path, text: str) -> None:
    folder = ExperimentFolder(tmp_path)
    assert Submitted.of(folder) is None
    note(folder).write_text(text)
    with pytest.raises(StorageError):
        Submitted.of(folder)


def test_a_note_is_plain_json(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path)
    Mirror(folder, SUBMITTED).close()
    assert json.loads(note(folder).read_text())["cluster"] == SUBMITTED.cluster
