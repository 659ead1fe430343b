"""What the tests of trials start from: a folder for sockets, a warm process, specifications made from a script."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from raycompress.runtime.client import TrialSpec, WarmSpec, connect_or_start
from tests.support.trials import STDLIB


@pytest.fixture(scope="session", autouse=True)
def _sockets():
    """Keep sockets, whose paths must be short, out of the folder that this user's own runs share."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    folder = tempfile.mkdtemp(prefix="rc")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    yield
    tempfile.tempdir = before[1]
    if before[0] is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before[0]
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def warm_spec(tmp_path_factory):
    return WarmSpec(name="tests", workingdir=str(tmp_path_factory.mktemp("warm")), preload=STDLIB)


@pytest.fixture(scope="module")
def worker(warm_spec):
    worker = connect_or_start(warm_spec)
    yield worker
    worker.close()


@pytest.fixture
def kills_lock():
    """Hold, shared with other tests of trials, what a test takes alone that has the kernel kill for want of memory.

    The kernel counts what it kills for the whole machine, and a trial that fails meanwhile says so.
    """
    with Path(f"/tmp/raycompress-tests-{os.getuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield lock


@pytest.fixture
def spec(tmp_path, kills_lock):
    """Make the specification of a trial from the text of its script."""

    def spec(source, *, name="train.py", folder="trial", **more):
        (tmp_path / name).write_text("import raycompress as rc\n" + source)
        given = {"mode": "trial", "config": {"a": 1}, **more}
        return TrialSpec(script=name, workingdir=str(tmp_path), folder=str(tmp_path / folder), **given)

    return spec
