"""What a machine may be like: its folders, its home, its standard streams and its terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycompress.backend.ray import local
from raycompress.backend.ray.machine import ensure_token, session_logs, session_root
from raycompress.errors import ClusterError, StorageError
from raycompress.script import node
from raycompress.search.switch import StopSwitch, thrown_by_signals


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let a test choose the folder for temporary files, by `tempfile.tempdir`."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    yield monkeypatch


def _made(folder: Path) -> str:
    folder.mkdir(parents=True)
    return str(folder)


@pytest.mark.parametrize("name", ["x" * 45, "été", "a b"])
def test_ray_gets_a_folder_with_a_short_and_plain_path(
    name: str, tmp_path: Path, temporary: pytest.MonkeyPatch
) -> None:
    temporary.setattr(tempfile, "tempdir", _made(tmp_path / name))
    assert str(session_root().parent) in node._OTHERS
    assert session_logs() == f"{session_root()}/session_latest/logs"


def test_a_short_folder_is_used_as_it_is(temporary: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="rc") as folder:
        temporary.setattr(tempfile, "tempdir", folder)
        assert session_root() == Path(folder, "ray")
        assert node.runtime_folder().parent == Path(folder)
        temporary.setenv("RAY_TMPDIR", "/somewhere")
        assert session_root() == Path("/somewhere/ray")


def test_sockets_of_ours_fit_wherever_temporary_files_are(tmp_path: Path, temporary: pytest.MonkeyPatch) -> None:
    temporary.setattr(tempfile, "tempdir", _made(tmp_path / ("x" * 120)))
    assert len(str(node.runtime_folder())) < 40


def test_no_folder_for_sockets_says_what_to_set(tmp_path: Path, temporary: pytest.MonkeyPatch) -> None:
    temporary.setattr(node, "_OTHERS", ())
    temporary.setattr(tempfile, "tempdir", _made(tmp_path / ("x" * 120)))
    with pytest.raises(StorageError, match="short enough") as caught:
        node.runtime_folder()
    assert "set TMPDIR" in caught.value.problems[0].fix


def test_a_token_is_made_where_the_home_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.delenv("RAY_AUTH_TOKEN")  # so that what is set below is taken back
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_token()
    assert "RAY_AUTH_TOKEN" not in os.environ  # Ray writes its own
    monkeypatch.setenv("HOME", "/proc/nohome")
    ensure_token()
    made = os.environ["RAY_AUTH_TOKEN"]
    assert len(made) == 64
    ensure_token()
    assert os.environ["RAY_AUTH_TOKEN"] == made


def test_a_ray_that_is_not_up_in_time_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(failures: list[Exception]) -> list[str]:
        seen: list[str] = []

        def begin(self: local.LocalRay, root: str) -> None:
            seen.append(root)
            if failures:
                raise failures.pop(0)

        monkeypatch.setattr(local.LocalRay, "_start", begin)
        local.LocalRay(1).__enter__()
        return seen

    monkeypatch.setattr(local, "_set_environment", lambda: None)
    late = "The current node timed out during startup."
    assert len(start([Exception(late)])) == 2
    with pytest.raises(ClusterError, match="timed out") as caught:
        start([Exception(late), Exception(late)])
    assert caught.value.problems[0].where.endswith("session_latest/logs")
    again: list[Exception] = [OSError(28, "No space left on device"), Exception("never")]
    with pytest.raises(ClusterError, match="No space left"):
        start(again)
    assert len(again) == 1  # nothing that a second start would change


CLOSED = """
import os, sys
from raycompress.runtime.processes import open_standard_streams
open_standard_streams()
print("printed")
print("complained", file=sys.stderr)
assert sys.stdin.read() == ""
fresh = os.open(os.devnull, os.O_RDONLY)
with open(sys.argv[1], "w") as file:
    file.write(f"{fresh > 2} {all(os.get_inheritable(number) for number in (0, 1, 2))}")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed_are_opened(closed: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = f'"{sys.executable}" -c "$0" "{told}" {closed}'
    subprocess.run(["sh", "-c", command, CLOSED], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert told.read_text() == "True True"


def test_a_hangup_that_nohup_ignores_does_not_stop_a_search() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        switch = StopSwitch(None)
        with thrown_by_signals(switch):
            os.kill(os.getpid(), signal.SIGHUP)
        assert switch.reason is None
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with thrown_by_signals(switch):
            os.kill(os.getpid(), signal.SIGHUP)
        assert (switch.reason, switch.detail) == ("stopped", "stopped by SIGHUP")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_file_is_written_to_after_a_hangup(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        kept = os.dup(1)
        os.dup2(log.fileno(), 1)
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            with thrown_by_signals(StopSwitch(None)):
                os.kill(os.getpid(), signal.SIGHUP)
                os.write(1, b"the end")
        finally:
            signal.signal(signal.SIGHUP, before)
            os.dup2(kept, 1)
            os.close(kept)
    assert (tmp_path / "log").read_text() == "the end"
