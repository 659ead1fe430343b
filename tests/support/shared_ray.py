"""Searches launched in this process on one Ray, which lives as long as the tests do.

A command of its own costs a start of Python, Ray and Tune; many tests ask what a search does, not how it starts. What
ends a process, reads a terminal, looks at Ray's own processes, or sets an environment that Ray's workers must see (they
have that of Ray's start) keeps `launching.raycompress`.

The process that the trials of an experiment are forked from is kept as well, until another experiment needs one: a
search and its resumption, or two tests of one experiment, load torch and the engine once.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raycompress.backend.ray.guard import MARK
from raycompress.backend.ray.local import ENVIRONMENT, LocalRay
from raycompress.config.experiment import Experiment
from raycompress.results.s3 import objects
from raycompress.runtime.client import WarmProcess, WarmSpec
from raycompress.session import analyze, from_script, prepare, script_run, verify
from tests.support.launching import Launched
from tests.support.outside import s3server

# Ray reads how it authenticates when it is imported, which other tests do as well, and without this
with pytest.MonkeyPatch.context() as patch:
    for name, value in ENVIRONMENT.items():
        patch.setenv(name, value)
    import ray

_enter, _exit = LocalRay.__enter__, LocalRay.__exit__
_running: list[LocalRay] = []
_warm: dict[str, WarmProcess] = {}
_ASK_FOR_WARM = (analyze, from_script, prepare, verify)
_OF_A_TEST = ("PYTEST_CURRENT_TEST", "XDG_CACHE_HOME")
"""Variables that no trial reads."""


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
    for module in _ASK_FOR_WARM:
        module.warm_spec = _kept_warm  # type: ignore[attr-defined]
    try:
        yield
    finally:
        LocalRay.__enter__, LocalRay.__exit__ = _enter, _exit
        for module in _ASK_FOR_WARM:
            module.warm_spec = script_run.warm_spec  # type: ignore[attr-defined]


def _kept_warm(experiment: Experiment) -> WarmSpec:
    """Return the specification of a process that this one keeps, and that differs where script or environment do."""
    spec = script_run.warm_spec(experiment)
    environment = {name: value for name, value in os.environ.items() if name not in _OF_A_TEST}
    data = [experiment.script_path.read_text(), environment, {**spec.to_json(), "name": experiment.name}]
    name = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    spec = replace(spec, name=name)
    if name not in _warm:
        _let_go()
        _warm[name] = WarmProcess.start(spec)
    return spec


@atexit.register
def _let_go() -> None:
    while _warm:
        _warm.popitem()[1].close()


def _join(self: LocalRay) -> LocalRay:
    if not ray.is_initialized():
        LocalRay.__enter__, LocalRay.__exit__ = _enter, _exit
        with pytest.MonkeyPatch.context() as patch:  # its workers find the S3 of whichever test has one
            for name, value in s3server.environment().items():
                patch.setenv(name, value)
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
