"""A clock that was put back: what is shown bears a journal whose times fall."""

import json
import re

import pytest

from raycompress.cli.view.live import LiveView, Progress
from raycompress.results.journal import journal as journals
from raycompress.results.record import SearchRecord
from tests.support.launching import raycompress
from tests.support.searches import searched, without_waiting

HOUR = 3600.0


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A search of 12 trials whose clock was put back by an hour after the first five events, and again later."""
    without_waiting(monkeypatch)
    folder = searched(tmp_path, 12, finished=False).folder
    events = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    for place, event in enumerate(events):
        event["t"] -= HOUR * ((place >= 5) + (place >= 15))
    del events[-1]  # so that one trial has not ended
    folder.journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    return SearchRecord.open(folder.root)


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("ls",), ("best",), ("report",)])
def test_what_reads_a_journal(tmp_path, record, words):
    done = raycompress(tmp_path, *words, "--storage", record.folder.root.parent)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert not re.search(r"-\d+(:\d\d|\.\d s)", done.out)


def test_the_page_tells_no_time_below_zero(record):
    from raycompress.results.report import page
    from raycompress.results.report.lanes import spans

    assert all(span.begin >= 0 and span.end >= span.begin for span in spans(record))
    assert not re.search(r">-\d+(:\d\d|\.\d s)", page.render(record))


def test_the_live_table_tells_no_time_below_zero(record, capsys):
    events = list(journals.read(record.folder.journal))
    progress = Progress(events[0])
    for event in events[1:]:
        progress.add(event)
    put_back = min(event["t"] for event in events) - HOUR
    mean = sum(trial.seconds for trial in record.records.values() if trial.seconds) / 12
    assert 0 <= progress.seconds_left(put_back) <= 2 * mean
    view = LiveView(live=False)
    view.history(events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: put_back)
        view._console.print(view._render())
    shown = capsys.readouterr().err
    assert "running" in shown
    assert not re.search(r"-\d", shown)
