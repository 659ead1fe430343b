"""Run the command line in this process, as a terminal would see it."""

from __future__ import annotations

import contextlib
import io

import pytest

from raycompress.cli.main import main


def run(*words: str) -> tuple[int, str, str]:
    """Return the exit code and what was printed on stdout and on stderr, which must be fit for a terminal."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as leaving:
        main(list(words))
    code = leaving.value.code
    assert isinstance(code, int)
    told = []
    for stream in (out, err):
        stream.flush()
        told.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    assert not [char for char in "".join(told) if char < " " and char not in "\n\t"]
    return code, told[0], told[1]
