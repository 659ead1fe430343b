import pytest

from raycompress import disk
from raycompress.errors import StorageError
from raycompress.results import store
from raycompress.results.journal import journal as journals
from raycompress.results.journal.journal import VERSION, Journal
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState

HEADER = {
    **{
        "version": VERSION,
        "id": "x-1",
        "name": "x",
        "goal": "max",
        "n_trials": 4,
        "n_parallel": 1,
        "host": "h",
        "pid": 1,
    },
    **{"file": "exp.json", "script": "train.py", "compressor": "l1_filter", "proposer": "random", "seed": None},
    "dimensions": ["a.sparsity"],
}
ENDED = {"cause": "", "before": None, "after": None, "removed": {}, "seconds": 1.0, "saved": True}


@pytest.fixture
def folder(tmp_path):
    return store.create(tmp_path, "x")


def write(folder, *events):
    journal = Journal(folder.journal)
    for name, fields in events:
        journal.append(name, **fields)
    journal.close()


def started(number, **more):
    return "started", {"trial": number, "sample": {"a.sparsity": 0.5}, "config": {}, "baseline": number == 0, **more}


def ended(number, state, score):
    values = None if score is None else {"accuracy": score}
    return "ended", {"trial": number, "state": state, "score": score, "values": values, **ENDED}


def test_a_search_as_its_journal_tells_it(folder):
    write(
        folder,
        ("experiment", HEADER),
        started(0),
        started(1),
        ended(0, "finished", 0.99),
        ended(1, "finished", 0.9),
        ("promoted", {"trial": 1, "score": 0.9}),
        started(2),
        started(3),
        ended(2, "failed", None),
        ended(3, "finished", 0.95),
        ("promoted", {"trial": 3, "score": 0.95}),
        ("pruned", {"trial": 1}),
        ("finished", {"reason": "complete", "detail": ""}),
    )
    disk.write_json(folder.best_pointer, {"trial": 3})
    record = SearchRecord.open(folder.root)
    assert record.state == "complete"
    assert record.baseline.values == {"accuracy": 0.99}
    assert [trial.number for trial in record.searched] == [1, 2, 3]
    assert record.best.number == 3
    assert record.bundle == folder.candidate(3)
    assert record.records[2].state is TrialState.FAILED
    assert not record.records[1].saved
    table = record.trials.set_index("trial")
    assert table.loc[3, "accuracy"] == 0.95
    assert table.loc[3, "a.sparsity"] == 0.5


def test_without_models_the_best_is_the_best_score_and_the_dense_model_does_not_count(folder):
    write(
        folder,
        ("experiment", {**HEADER, "goal": "min"}),
        started(0),
        ended(0, "finished", 0.0),
        started(1),
        ended(1, "finished", 0.3),
        started(2),
        ended(2, "finished", 0.2),
    )
    record = SearchRecord.open(folder.root)
    assert record.best.number == 2
    assert record.bundle is None


def test_a_killed_search_is_interrupted_and_one_under_way_is_running(folder):
    journal = Journal(folder.journal)
    journal.append("experiment", **HEADER)
    assert SearchRecord.open(folder.root).state == "running"
    journal.close()
    assert SearchRecord.open(folder.root).state == "interrupted"


def test_a_search_that_ends_while_it_is_read_is_not_called_interrupted(folder, monkeypatch):
    writer = Journal(folder.journal)
    writer.append("experiment", **HEADER)
    read = journals.read

    def read_slowly(path):
        yield from list(read(path))
        writer.append("finished", reason="complete", detail="")
        writer.close()

    monkeypatch.setattr(journals, "read", read_slowly)
    assert SearchRecord.open(folder.root).state == "running"
    monkeypatch.undo()
    assert SearchRecord.open(folder.root).state == "complete"


def test_a_journal_of_a_newer_version_is_refused(folder):
    write(folder, ("experiment", {**HEADER, "version": VERSION + 1}))
    with pytest.raises(StorageError, match="version"):
        SearchRecord.open(folder.root)


def test_an_event_of_another_version_is_refused(folder):
    write(folder, ("experiment", HEADER), ("teleported", {"trial": 1}))
    with pytest.raises(StorageError, match="teleported"):
        SearchRecord.open(folder.root)


def test_a_folder_without_journal_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="cannot read the journal"):
        SearchRecord.open(tmp_path)


def test_the_pointer_decides_where_a_kill_kept_the_journal_from_saying_so(folder):
    write(
        folder, ("experiment", HEADER), started(1), ended(1, "finished", 0.9), ("promoted", {"trial": 1, "score": 0.9})
    )
    disk.write_json(folder.best_pointer, {"trial": 2})
    journal = Journal(folder.journal)
    for name, fields in (started(2), ended(2, "finished", 0.95)):
        journal.append(name, **fields)
    journal.close()
    record = SearchRecord.open(folder.root)
    assert record.best.number == 2
    assert record.bundle == folder.candidate(2)
