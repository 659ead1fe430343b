"""The Python door: `launch` and `resume`, for notebooks and for other tools."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raycompress.backend.ray.process import ray_of_this_process
from raycompress.config.checks.preflight import check_files, load_checked
from raycompress.config.experiment import Experiment
from raycompress.config.keywords import (
    absolute,
    as_json,
    by_keyword,
    experiment_data,
    mistakes_by_keyword,
    with_folders,
)
from raycompress.config.places import S3Address, is_remote
from raycompress.config.text.reader import read
from raycompress.disk import translate_os_errors, write_whole
from raycompress.errors import ExperimentError, UsageError
from raycompress.results import store
from raycompress.results.folder import new_id
from raycompress.results.record import SearchRecord
from raycompress.runtime.processes import open_standard_streams
from raycompress.script import context
from raycompress.search.watch.lines import LineView
from raycompress.session.ending import failure
from raycompress.session.shipping import name_of, ship

_CALLER = "rc.launch"
_SCRIPTS = "scripts"
"""The folder, among the results, of what was launched from Python: its experiment files and functions."""

_one_at_a_time = threading.Lock()

What = str | Path | Mapping[str, Any] | Experiment | Callable[..., Any]


def launch(what: What, /, *, quiet: bool = False, **keywords: Any) -> SearchRecord:
    """Run an experiment to its end, and return its record.

    Parameters
    ----------
    what
        The experiment: a file, the same as a dict (its paths start from the current folder), or an `Experiment` that
        was loaded. Or its script: a function of the trial's configuration, which is sent to the trials by value, with
        what it uses of the notebook.
    quiet
        Print nothing.
    **keywords
        Keys of the experiment file: for a function all of it, otherwise what is to be another than `what` says. Those
        of ``compression`` (``compressor``, ``config_list``, ``arguments``, ``slice``) are given as they are; in place
        of ``config_list`` ``sparsity``, a number, ``(low, high)`` or a dict of layers to such, with ``op_types`` or
        ``op_names``. ``seed`` stands for ``random_seed``.

    Raises
    ------
    ExperimentError
        All mistakes at once, each with its keyword; nothing was run and nothing is left.
    ScriptError
        The function, or the script, cannot be run as it is.
    NoValidTrialError, StoppedError
        The search ended without a trial that counts, or was interrupted: its ``record`` is the record all the same.

    Examples
    --------
    >>> record = rc.launch(main, compressor="group_l1", sparsity=(0.1, 0.9), n_samples=16)  # doctest: +SKIP
    >>> small = record.load(Net())  # doctest: +SKIP
    """
    with _alone(_CALLER):
        if not keywords and isinstance(what, str | Path):
            return _run(load_checked(what), quiet)
        if not keywords and isinstance(what, Experiment):
            if problems := check_files(what):
                raise ExperimentError.of(problems)
            return _run(what, quiet)
        data, home = _data_of(what, keywords)
        return _launch_written(what if callable(what) else None, data, home, keywords, quiet)


def resume(
    experiment: str | Path | SearchRecord | None = None,
    /,
    *,
    n_samples: int | None = None,
    file: str | Path | None = None,
    storage: str | Path = "raycompress_results",
    quiet: bool = False,
) -> SearchRecord:
    """Go on with an experiment that was stopped or killed, or add trials to it, and return its record.

    Parameters
    ----------
    experiment
        Its record, its folder, its id or the beginning of one; the newest by default.
    n_samples
        How many samples it has in all from now on; as many as before by default.
    file
        The experiment file, where it is no longer where it was launched from.
    storage
        The results folder that an id is looked for in, or ``s3://bucket/prefix``.
    quiet
        Print nothing.

    Raises
    ------
    UsageError
        There is no such experiment, it cannot be resumed, or it has more than `n_samples` samples already.
    ExperimentError
        The experiment file, or the model of its script, is no longer what was launched.
    StorageError
        Another process runs this experiment.
    NoValidTrialError, StoppedError
        As in `launch`.
    """
    from raycompress.session.launch import resume as resume_search

    with _alone("rc.resume"):
        if isinstance(experiment, SearchRecord):
            folder = experiment.folder
        else:
            place = S3Address.parse(str(storage)) if is_remote(str(storage)) else Path(storage)
            folder = store.find(None if experiment is None else str(experiment), place)
        view = LineView(quiet=quiet)
        path = None if file is None else Path(file)
        record = resume_search(folder, view, file=path, n_samples=n_samples, ray=ray_of_this_process())
        return _concluded(record)


@contextmanager
def _alone(caller: str) -> Iterator[None]:
    """Refuse a search inside a trial, which would launch itself for ever, and a second one at the same time."""
    if context.current() is not None:
        raise UsageError(
            "this is a trial: a search cannot be launched inside one",
            where=caller,
            fix='call it under `if __name__ == "__main__":` of another file than the experiment\'s script',
        )
    if not _one_at_a_time.acquire(blocking=False):
        raise UsageError(
            "a search runs in this process already, and Ray Tune runs one in a process at a time",
            where=caller,
            fix="wait for it, or launch from another process",
        )
    open_standard_streams()
    try:
        yield
    finally:
        _one_at_a_time.release()


def _data_of(what: What, keywords: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """Return the keys of the experiment, and the folder that its paths start from."""
    home = Path.cwd()
    if isinstance(what, Mapping):
        data = dict(what)
    elif isinstance(what, str | Path | Experiment):
        experiment = what if isinstance(what, Experiment) else Experiment.load(what)
        home, data = experiment.path.parent, read(experiment.text).value
    elif callable(what):
        data = {"name": name_of(what)}
    else:
        raise UsageError(
            f"rc.launch takes an experiment file, a dict, an Experiment or a function first, not {type(what).__name__}",
            where=_CALLER,
            fix='rc.launch("exp.json"), or rc.launch(main, compressor="group_l1", sparsity=(0.1, 0.9))',
        )
    known = data.get("compression")
    asked = experiment_data(keywords, _CALLER, known)
    return {**absolute(data, home), **absolute(asked, Path.cwd())}, home


def _launch_written(
    function: Callable[..., Any] | None,
    data: dict[str, Any],
    home: Path,
    keywords: Mapping[str, Any],
    quiet: bool,
) -> SearchRecord:
    """Write the experiment as a file, so that it can be resumed and launched again from anywhere, and run it."""
    data = with_folders(data, home)
    folder = _folder_for(data, as_json(data, _CALLER))
    file = folder / "experiment.json"
    view = LineView(quiet=quiet, rename=lambda text: by_keyword(text, file, keywords, _CALLER))
    try:
        if function is not None:
            data["script"] = str(ship(function, folder))
        with mistakes_by_keyword(file, keywords, _CALLER):
            write_whole(file, as_json(data, _CALLER))
            return _run(load_checked(file), quiet, view)
    finally:
        if not view.has_begun:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # something else is in one of them
                folder.parent.rmdir()
                folder.parent.parent.rmdir()


def _folder_for(data: Mapping[str, Any], text: str) -> Path:
    """Make a folder for what is launched, among the results."""
    storage = str(data["storage"])
    results = Path("raycompress_results").resolve() if is_remote(storage) else Path(storage)
    stem = new_id(str(data.get("name", "experiment")))
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    with translate_os_errors("cannot write", results):
        for attempt in range(1, 1000):
            folder = results / _SCRIPTS / (f"{stem}-{digest}" if attempt == 1 else f"{stem}-{digest}-{attempt}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
    raise AssertionError("a thousand launches in a second")


def _run(experiment: Experiment, quiet: bool, view: LineView | None = None) -> SearchRecord:
    from raycompress.session.launch import launch as launch_search

    ray = None if experiment.proposer == "passive" else ray_of_this_process()
    return _concluded(launch_search(experiment, view or LineView(quiet=quiet), ray=ray))


def _concluded(record: SearchRecord) -> SearchRecord:
    """Return the record; raise what kept the search from its end."""
    error = failure(record, f"rc.resume({record.folder.reference!r})")
    if error is not None:
        error.record = record
        raise error
    return record
