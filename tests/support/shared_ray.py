"""Searches launched in this process on one Ray, which lives as long as the tests do.

A command of its own costs a start of Python, Ray and Tune; many tests ask what a search does, not how it starts. What
ends a process, reads a terminal, looks at Ray's own processes, or sets an environment that trials must see (Ray's
workers have that of Ray's start) keeps `launching.raycompress`.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycompress.backend.ray.guard import MARK
from raycompress.backend.ray.local import ENVIRONMENT, LocalRay
from raycompress.results.s3 import objects
from tests.support.launching import Launched

# Ray reads how it authenticates when it is imported, which other tests do as well, and without this
with pytest.MonkeyPatch.context() as patch:
    for name, value in ENVIRONMENT.items():
        patch.setenv(name, value)
    import ray

_enter, _exit = LocalRay.__enter__, LocalRay.__exit__
_running: list[LocalRay] = []


def run_here(folder: Path, *words: str | Path) -> Launched:
    """Run the command line in this process, in `folder`, to its end; the first that needs Ray starts it for all."""
    from raycompress.cli.main import main

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code = 0
    with shared(), contextlib.chdir(folder), _unchanged():
        os.environ["COLUMNS"] = "80"
        objects.new_client()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main([str(word) for word in words])
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    return Launched(code, _printed(out), _printed(err), folder)


def _printed(stream: io.TextIOWrapper) -> str:
    stream.flush()
    written = stream.buffer
    assert isinstance(written, io.BytesIO)
    return written.getvalue().decode()


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Have every Ray on this machine that is entered inside be the one that runs."""
    LocalRay.__enter__, LocalRay.__exit__ = _join, _leave
    try:
        yield
    finally:
        LocalRay.__enter__, LocalRay.__exit__ = _enter, _exit


def _join(self: LocalRay) -> LocalRay:
    if not ray.is_initialized():
        LocalRay.__enter__, LocalRay.__exit__ = _enter, _exit
        _running[:] = [LocalRay(self._cpus).__enter__()]
        LocalRay.__enter__, LocalRay.__exit__ = _join, _leave
        os.environ.pop(MARK)  # what other tests start is not to die with this Ray
        atexit.register(stop)
    else:
        os.environ.update(ENVIRONMENT)
    self.address = _running[0].address if _running else {}
    return self


def _leave(self: LocalRay, *error: object) -> None:
    """Leave Ray to the next search."""


def stop() -> None:
    """Stop the Ray that tests shared."""
    os.environ.setdefault(MARK, "")
    while _running:
        _exit(_running.pop(), None, None, None)


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    """Leave environment and path as they were."""
    environment, path = dict(os.environ), list(sys.path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
