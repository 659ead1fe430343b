"""What a script writes to the pipe of its messages by itself, and names that no terminal should be sent."""

import pytest

from raycompress.states import TrialState
from tests.support.trials import run

PIPE = """
import json, os, stat
def pipe():
    for fd in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode): os.write(fd, b""); return fd
        except OSError: pass
fd = pipe()
def say(data):
    while data: data = data[os.write(fd, data):]
"""
UNREADABLE = "raycompress: unreadable message"


@pytest.mark.parametrize(
    "written",
    [
        '{"type": "end", "state": "finished", "values": {"result": 9}}',
        '{"type": "hello", "pid": 1}',
        '{"type": "failure", "state": "finished", "error": "", "message": "", "frame": "", "exit_code": 0}',
        '{"type": "result", "values": {"result": "high"}}',
        '{"type": "result", "values": {}}',
        '{"type": "candidate", "before": {}, "after": {}, "removed": {}, "notes": []}',
        '{"type": "candidate", "before": {"params": 1, "flops": 1, "size_bytes": 4, "latency_ms": "low"}, '
        '"after": {"params": 1, "flops": 1, "size_bytes": 4}, "removed": {}, "notes": []}',
        '{"type": ["result"]}',
        "[" * 100_000,
        '{"type": "result", "values": {"result": ' + "9" * 5000 + "}}",
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_message_of_a_script_is_left_out_and_logged(worker, spec, written):
    source = f"{PIPE}rc.print_result(1)\nsay({written!r}.encode() + b'\\n')"
    messages, ending = run(worker, spec(source))
    assert messages == [{"type": "result", "values": {"result": 1}}]
    assert (ending.state, ending.values) == (TrialState.FINISHED, {"result": 1})
    assert UNREADABLE in ending.log.read_text()


def test_a_line_without_end_fills_no_memory_and_holds_nothing_up(worker, spec):
    source = f"{PIPE}rc.print_result(1)\nfor _ in range(140): say(b'x' * (1 << 20))\nsay(b'\\n')\nrc.print_result(2)"
    messages, ending = run(worker, spec(source))
    assert (ending.state, ending.values) == (TrialState.FINISHED, {"result": 2})
    assert len(messages) == 2


@pytest.mark.parametrize(
    ("source", "state", "cause"),
    [
        ("raise ValueError('a\\udcffb\\x1b[2J')", TrialState.FAILED, "ValueError: a\udcffb\x1b[2J (train.py:2)"),
        ("import sys; sys.exit('\\x07\\udcff')", TrialState.FAILED, "\x07\udcff (train.py:2)"),
        ("rc.report(**{'a\\nb': float('nan')})", TrialState.NOT_A_NUMBER, "a b is nan"),
        ("rc.print_result(10**5000)", TrialState.BAD_RESULT, "result is no number but a int of 16610 bits"),
        ("rc.report(**{1: 2})", TrialState.FAILED, "TypeError: keywords must be strings"),
        ("rc.save_model(3)", TrialState.FAILED, "TypeError: 'int' object is not callable"),
        ("import aup; aup.aup_save_model(None)", TrialState.FAILED, "the first argument must be callable"),
        ("rc.print_result([[]])", TrialState.BAD_RESULT, "result is no number but a list"),
    ],
)
def test_odd_texts_and_arguments_end_in_a_state(worker, spec, source, state, cause):
    _, ending = run(worker, spec(source))
    assert ending.state == state
    assert cause in ending.cause
