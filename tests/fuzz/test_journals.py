"""Journals that went wrong: what is left of a torn line is left out, all else is an error of ours that says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycompress.errors import StorageError
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal import journal
from raycompress.results.record import SearchRecord
from tests.support.commands import run
from tests.support.mutating import changed_bytes, changed_texts, changed_values

SIZES = {"params": 100, "flops": 1000, "size_bytes": 400}
EVENTS: list[dict[str, Any]] = [
    {
        **{"event": "experiment", "version": 1, "id": "x-1", "name": "x", "file": "exp.json", "script": "train.py"},
        **{
            "compressor": "l1_filter",
            "seed": None,
            "proposer": "random",
            "n_trials": 4,
            "n_parallel": 1,
            "goal": "max",
        },
        **{"dimensions": ["conv1.sparsity"], "host": "h", "pid": 1},
    },
    *(
        {
            "event": "started",
            "trial": trial,
            "attempt": 1,
            "sample": {"conv1.sparsity": 0.5},
            "config": {},
            "baseline": not trial,
        }
        for trial in (0, 1, 2)
    ),
    {"event": "intermediate", "trial": 1, "values": {"accuracy": 0.5}, "step": 1},
    {"event": "retried", "trial": 1, "attempt": 1, "state": "failed", "cause": "no"},
    *(
        {
            **{
                "event": "ended",
                "trial": trial,
                "state": "finished",
                "cause": "",
                "values": {"accuracy": 0.9},
                "score": 0.9,
            },
            **{
                "seconds": 1.0,
                "before": SIZES,
                "after": SIZES,
                "removed": {"conv1": [2, 8]},
                "notes": [],
                "log": "log.txt",
            },
            "saved": trial == 1,
        }
        for trial in (0, 1)
    ),
    {"event": "promoted", "trial": 1, "score": 0.9},
    {"event": "pruned", "trial": 2},
    {"event": "resumed", "n_trials": 5, "n_parallel": 1, "host": "h", "pid": 2},
    {
        **{"event": "verified", "trial": 1, "relative_difference": 0.0, "before": {**SIZES, "latency_ms": 1.0}},
        "after": {**SIZES, "latency_ms": None},
    },
    {"event": "finished", "reason": "complete", "detail": ""},
]
EVENTS = [{"t": 1.7e9 - place, **event} for place, event in enumerate(EVENTS)]  # a clock that goes backwards
WHOLE = "".join(json.dumps(event) + "\n" for event in EVENTS)


@st.composite
def journals(draw: Any) -> bytes:
    how = draw(st.sampled_from(["events", "events", "events", "text", "bytes", "lines", "torn"]))
    if how == "events":
        place = draw(st.integers(0, len(EVENTS) - 1))
        changed = [draw(changed_values(event)) if at == place else event for at, event in enumerate(EVENTS)]
        return "".join(json.dumps(event) + "\n" for event in changed).encode()
    if how == "lines":
        return "".join(line + "\n" for line in draw(st.permutations(WHOLE.splitlines()))).encode()
    if how == "torn":
        return WHOLE.encode()[: draw(st.integers(0, len(WHOLE)))]
    if how == "text":
        return draw(changed_texts(WHOLE)).encode(errors="surrogatepass")
    return draw(changed_bytes(WHOLE.encode()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ExperimentFolder:
    root = tmp_path_factory.mktemp("results") / "x-1"
    root.mkdir()
    return ExperimentFolder(root)


POINTERS = st.sampled_from(
    [
        *(
            None,
            b'{"trial": 1}',
            b'{"trial": 2}',
            b'{"trial": 7}',
            b'{"trial": "1"}',
            b'{"trial": 1e999}',
            b"{}",
            b"",
            b"\xff",
        ),
        *(b"[" * 100_000, b"[1]", b'{"trial": -1}', b'{"trial": true}', b'{"trial": ' + b"9" * 5000 + b"}"),
    ]
)


@given(journals(), POINTERS)
def test_a_journal_is_read_or_told_to_be_wrong(folder: ExperimentFolder, data: bytes, pointer: bytes | None) -> None:
    folder.journal.write_bytes(data)
    folder.best_pointer.unlink(missing_ok=True)
    if pointer is not None:
        folder.best_pointer.write_bytes(pointer)
    root = str(folder.root)
    try:
        record = SearchRecord.open(root)
    except StorageError as error:
        (problem,) = error.problems
        assert problem.fix
        assert Path(problem.where.rpartition(":")[0] or problem.where).parent == folder.root or root in problem.where
        for words in (["status", root], ["best", root], ["logs", root]):
            assert run(*words)[0] in (1, 2)
    else:
        assert len(record.trials) == len(record.records)
        assert record.best is None or record.best.number in record.records
        for words in (["status", root], ["status", root, "--json"], ["best", root], ["best", root, "--json"]):
            code, out, _ = run(*words)
            assert code in ((0, 1) if words[0] == "best" else (0,))
            if "--json" in words and not code:
                json.loads(out)
    assert run("ls", "--storage", str(folder.root.parent))[0] == 0


@given(st.integers(0, len(WHOLE)))
def test_a_journal_cut_off_anywhere_holds_the_events_before(folder: ExperimentFolder, length: int) -> None:
    folder.journal.write_text(WHOLE[:length])
    assert list(journal.read(folder.journal)) == EVENTS[: WHOLE[:length].count("\n")]
