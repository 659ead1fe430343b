"""Whatever a script reports or writes to its pipe: a state, an error of ours, a journal that can be read again."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycompress.config.objective import Objective
from raycompress.errors import ResultError
from raycompress.results.journal import journal
from raycompress.results.journal.journal import Journal
from raycompress.runtime.messages import SHAPES, Lines, parse_message
from raycompress.runtime.protocol import Ending, encode
from raycompress.runtime.trial_messages import TrialMessages
from raycompress.script import context, report
from raycompress.script.context import Mode, Trial
from raycompress.search.outcome import facts_of
from raycompress.states import TrialState
from raycompress.text import printable
from tests.support.mutating import changed_bytes, changed_values

SIZES = {"params": 100, "flops": 1000, "size_bytes": 400}
MEASURED = {**SIZES, "latency_ms": 1.5, "cpu_ms": 1.0}
LAYER = {"name": "conv", "type": "Conv2d", "channels": 8, "parameters": 80, "flops": None, "weight_shape": [8, 1, 3, 3]}
MESSAGES: list[dict[str, Any]] = [
    {"type": "done"},
    {"type": "result", "values": {"accuracy": 0.5, "loss": "nan", "n": 3}},
    {"type": "candidate", "before": SIZES, "after": SIZES, "removed": {"conv": [2, 8]}, "notes": ["small"]},
    {"type": "failure", "state": "failed", "error": "E", "message": "E: no", "frame": "a.py:1", "exit_code": 1},
    {
        "type": "model",
        "model": {
            **{"layers": [LAYER], "ties": [["a", "b"]], "output_layers": ["fc"], "parameters": 80, "flops": None},
            **{"size_bytes": 320, "input_shapes": [[1, 1, 8, 8]]},
        },
    },
    {"type": "verified", "relative_difference": 0.0, "before": MEASURED, "after": MEASURED},
    {"type": "progress", "done": 1, "total": 2, "layer": "conv"},
    {"type": "refused", "problems": [{"what": "a", "where": "", "fix": ""}]},
]
NOT_OURS = st.sampled_from(
    [
        *(
            b"garbage",
            b"",
            b"[" * 100_000,
            b'{"type": "result", "values": ' + b"9" * 5000 + b"}",
            b"\xff\xfe",
            b"null",
            b"NaN",
        ),
        *(b'{"type": "end", "state": "finished"}', b'{"type": ["result"]}', b'{"type": "hello"}', b'{"a":' * 50_000),
    ]
)
NAMES = st.sampled_from(
    ["accuracy", "", " ", "a\nb", "\x1b[2J", "\ud800", "\u202e", "x" * 5000, "type", "trial", "\x00", "é"]
)
LINES = st.one_of(
    st.sampled_from(MESSAGES).flatmap(changed_values).map(json.dumps).map(str.encode),
    st.sampled_from(MESSAGES).map(json.dumps).map(str.encode).flatmap(changed_bytes),
    st.sampled_from(MESSAGES).map(json.dumps).map(str.encode),
    NOT_OURS,
)
SEEDED = np.random.RandomState(0)
REPORTED = st.one_of(
    st.floats(),
    st.integers(),
    st.text(max_size=10),
    st.binary(max_size=4),
    st.booleans() | st.none(),
    st.floats(width=32).map(np.float32),
    st.integers(-(2**31), 2**31).map(np.int64),
    st.floats().map(torch.tensor),
    st.lists(st.floats(), max_size=3).map(np.array),
    st.decimals() | st.fractions() | st.complex_numbers(),
    st.sampled_from(
        [
            *(
                10**400,
                -(10**5000),
                "9" * 5000,
                "1e999",
                np.bool_(True),
                np.datetime64("nat"),
                np.array("x"),
                np.zeros((0,)),
            ),
            *(
                torch.ones(2, requires_grad=True),
                torch.tensor(1.0, dtype=torch.bfloat16),
                torch.tensor(1j),
                Decimal("sNaN"),
            ),
            *(Fraction(10**400, 3), object(), float, {"a": 1}, range(3), iter([1]), Ellipsis, np.ma.masked),
        ]
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


def check(sent: list[bytes], code: int, mode: Mode, folder: Path) -> None:
    """Hear what a script sent, as its supervisor does, and write down what became of it."""
    heard, lines = TrialMessages(mode), Lines(1 << 20)
    for line in lines.feed(b"\n".join([*sent, b""])):
        message = parse_message(line)
        if message is not None:
            assert message["type"] in SHAPES
            heard.add(message)
            assert json.loads(encode(message)) is not None
    state, cause = heard.verdict(code)
    assert "\n" not in cause
    ending = Ending(state, cause, folder / "log.txt", 1.0, values=heard.values, candidate=heard.candidate)
    ending = Ending.from_message(json.loads(encode(ending.to_message())))
    if mode == "inspect":  # it has no result: nothing of it is judged or written down
        return
    facts = facts_of(ending, Objective.of_score("max"), baseline=mode == "baseline", seconds=1.0)
    if state == TrialState.FINISHED:
        assert facts["score"] is not None
        assert math.isfinite(facts["score"])
    else:
        assert facts["score"] is None
    path = folder / "journal.jsonl"
    path.unlink(missing_ok=True)
    written = Journal(path)
    written.append("ended", trial=1, log="log.txt", **facts)
    written.close()
    (event,) = journal.read(path)
    assert event["state"] == state
    assert list(event["values"] or {}) == list(ending.values or {})


@given(
    st.lists(LINES, max_size=6), st.sampled_from([0, 1, 70, -9, -64]), st.sampled_from(["trial", "baseline", "inspect"])
)
def test_whatever_is_written_to_the_pipe_ends_in_a_state(
    folder: Path, sent: list[bytes], code: int, mode: Mode
) -> None:
    check(sent, code, mode, folder)


@given(st.dictionaries(NAMES, REPORTED, max_size=3), st.lists(REPORTED, max_size=3), st.booleans())
def test_whatever_is_reported_is_a_number_or_an_error_of_ours(
    folder: Path, named: dict[str, Any], listed: list[Any], by_name: bool
) -> None:
    sent: list[bytes] = []
    context.enter(Trial("trial", folder, lambda message: sent.append(encode(message).rstrip(b"\n"))))
    try:
        report.report(**named) if by_name else report.print_result(listed)
    except ResultError as error:
        assert printable(str(error), lines=True) == str(error)
        assert not sent
        return
    finally:
        context.enter(None)
    assert parse_message(sent[0]) == json.loads(sent[0])
    check([*sent, b'{"type": "done"}'], 0, "trial", folder)
