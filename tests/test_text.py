import pytest

from raycompress.errors import Problem
from raycompress.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 💥", "plain, ünïcode, 💥"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\rb\x00\x7f\x9b", r"a\rb\x00\x7f\x9b"),
        ("ab\u202ecd", r"ab\u202ecd"),
        ("\ud800", r"\ud800"),
        ("two\nlines", r"two\nlines"),
    ],
)
def test_what_a_terminal_should_not_be_sent_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_lines_may_stay() -> None:
    assert printable("a\n\tb\r\n", lines=True) == "a\n\tb\\r\n"


def test_an_error_is_three_lines_whatever_stands_in_it() -> None:
    told = str(
        Problem("no layer \x1b]0;x\x07\nerror: all is well", "exp\n.json:1", "its last lines were\n  \x1b[31mred")
    )
    assert told.splitlines() == [
        r"error: no layer \x1b]0;x\x07\nerror: all is well",
        r" where: exp\n.json:1",
        "   fix: its last lines were",
        r"  \x1b[31mred",
    ]
