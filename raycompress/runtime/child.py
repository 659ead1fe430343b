"""The forked child of a trial: runs the user's script as if Python had been started for it."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import site
import socket
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from raycompress.catalog.plugins import require
from raycompress.errors import BudgetError, RaycompressError, ResultError, ScriptError
from raycompress.runtime import processes as memory
from raycompress.runtime import shell as commands
from raycompress.runtime.folder import audit
from raycompress.runtime.folder.system_calls import hand_over
from raycompress.runtime.folder.workfolder import WorkFolder
from raycompress.runtime.processes import die_with_parent
from raycompress.runtime.protocol import SET_BY_SCRIPT, TrialSpec, encode
from raycompress.script import aup, context
from raycompress.script.config import command_line
from raycompress.script.packages import place_of
from raycompress.script.running import fresh_main
from raycompress.states import TrialState

_HERE = __file__
_STATES = {ResultError: TrialState.BAD_RESULT, BudgetError: TrialState.OVER_BUDGET}
_OWN_PACKAGE = str(Path(__file__).resolve().parent.parent)


def run(spec: TrialSpec, parent: int, output: int, messages: int, channel: socket.socket | None) -> NoReturn:
    """Run the trial's script in this process, which was just forked, and end the process.

    Parameters
    ----------
    spec
        The trial.
    parent
        The process that forked this one; this one dies with it.
    output, messages
        Descriptors to write what is printed, and messages, to.
    channel
        See `run_script`.
    """
    code = 70
    try:
        os.setsid()
        die_with_parent(parent)
        memory.offer_this_process()
        _reset_signals()
        _redirect(output)
        send = _sender(messages)
        code = run_script(spec, send, channel)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, executors included, as Python does at its end
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - a fault of ours; what it is belongs in the log, and nothing may leave here
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _reset_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _redirect(output: int) -> None:
    """Point the standard streams elsewhere; the objects stay, since loggers made at import hold on to them."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    os.close(output)


def _sender(descriptor: int) -> Callable[[Mapping[str, Any]], None]:
    lock = threading.Lock()

    def send(message: Mapping[str, Any]) -> None:
        data = encode(message)
        with lock:
            while data:
                data = data[os.write(descriptor, data) :]

    return send


def run_script(spec: TrialSpec, send: Callable[[Mapping[str, Any]], None], channel: socket.socket | None = None) -> int:
    """Run the trial's script in this process, and return the exit code that it would end with.

    Parameters
    ----------
    send
        Takes the messages; the last is ``done`` or ``failure``.
    channel
        To the supervisor, which makes files that the trial writes its own; see `raycompress.runtime.folder`.
    """
    trial = context.Trial(
        mode=spec.mode,
        candidate=spec.candidate_path,
        send=send,
        bundle=Path(spec.bundle) if spec.bundle else None,
        shared=Path(spec.shared) if spec.shared else None,
        config=spec.config,
        config_path=spec.config_path,
        checkpoint=spec.checkpoint_path,
        code=spec.code,
        rank=spec.rank,
        workers=spec.workers,
        agreed=spec.agreed_path,
        **spec.options(),
    )
    has_own = spec.own_folder and spec.mode in ("trial", "baseline")
    own = WorkFolder(spec.files_path, Path(spec.workingdir)) if has_own else None
    code = 0
    try:
        _run_script(spec, trial, own, channel)
    except BaseException as error:  # noqa: BLE001 - the script's own endings, SystemExit and Ctrl-C among them
        failure = _failure(error, spec)
        if failure is not None:
            send(failure)
            code = failure["exit_code"]
    shared = [] if own is None else own.shared()
    if spec.parameters or shared:
        send({"type": "left", "reads": _reads(trial), "unread": _unread(spec, trial), "shared": shared})
    if code == 0:
        send({"type": "done"})
    if trial.saves:
        with contextlib.suppress(OSError):  # there is something in it
            trial.candidate.rmdir()
    return code


def _reads(trial: context.Trial) -> list[str] | None:
    """Return the keys that the script has read of its configuration; None where that is not known."""
    reads = trial.reads
    return sorted(reads.names) if reads.is_loaded and not reads.is_whole else None


def _unread(spec: TrialSpec, trial: context.Trial) -> list[str]:
    """Return the hyperparameters that the script has certainly not read."""
    known = _reads(trial)
    return [] if known is None else [name for name in spec.parameters if name not in known]


def _run_script(spec: TrialSpec, trial: context.Trial, own: WorkFolder | None, channel: socket.socket | None) -> None:
    require(spec.plugins)
    for name, value in spec.env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    script = spec.script_path.resolve()
    try:
        source = script.read_bytes()
        if own is not None:
            own.make()
        os.chdir(spec.workingdir if own is None else own.root)
    except OSError as error:
        raise ScriptError(f"cannot run the script: {error.strerror}: {error.filename}") from None
    if channel is not None:
        hand_over(channel, own)
    with commands.around(spec.prescript, spec.postscript):
        if own is not None:
            audit.guard(own)
        _execute(spec, trial, script, source, place=script if own is None else own.copy_of(script))


def _execute(spec: TrialSpec, trial: context.Trial, script: Path, source: bytes, place: Path) -> None:
    """Run the script, whose ``__file__`` is `place`: what it writes beside itself is then its own."""
    context.enter(trial)  # values of the trial on its command line count as read
    arguments = command_line(spec.script_args, spec.config_path, spec.config, appends=spec.appends_config)
    sys.argv = [str(place), *arguments]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra tells an error of ours in its own way, and exits
    home, package = place_of(script, source, spec.module)
    if sys.path[0] != str(home):
        sys.path.insert(0, str(home))
    if trial.saves:
        # the script may write into it by itself; what a run that was killed left there is not this one's
        shutil.rmtree(trial.candidate, ignore_errors=True)
        trial.candidate.mkdir(parents=True)
    aup.install()
    _seed(spec)
    main = fresh_main(place, package)
    try:
        exec(compile(source, str(script), "exec", dont_inherit=True), main.__dict__)
    except SystemExit as leaving:
        if leaving.code not in (None, 0):
            raise
    except context.EndOfInspection:
        return
    for hook in trial.on_finish:
        hook()


def _seed(spec: TrialSpec) -> None:
    """Give this child random numbers of its own: all of them are forked from one state."""
    random.seed(spec.seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(None if spec.seed is None else spec.seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        if spec.seed is not None:
            _seed_torch(torch, spec.seed)
        # a script that says OMP_NUM_THREADS before it imports torch has chosen by that
        if spec.threads is not None and "OMP_NUM_THREADS" not in SET_BY_SCRIPT:
            torch.set_num_threads(spec.threads)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and spec.seed is not None:
        tensorflow.random.set_seed(spec.seed)


def _seed_torch(torch: Any, seed: int) -> None:
    """Do what ``torch.manual_seed`` does; of a build for CPUs alone without the 3 ms that notes for others take."""
    accelerators = getattr(torch, "accelerator", None)  # torch 2.6 and newer
    if accelerators is None or accelerators.current_accelerator() is not None:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _failure(error: BaseException, spec: TrialSpec) -> dict[str, Any] | None:
    """Print the traceback and return the ``failure`` message; None when leaving was no failure."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == _HERE:
        trace = trace.tb_next
    frame = _last_own_frame(error, trace, spec)
    failure: dict[str, Any] = {"type": "failure", "state": TrialState.FAILED, "frame": frame, "exit_code": 1}
    if isinstance(error, context.EndOfInspection):  # out of a hook
        return None
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            exit_code = error.code & 0xFF  # what the system keeps of it
            return {**failure, "error": "SystemExit", "message": f"exit code {exit_code}", "exit_code": exit_code or 1}
        print(error.code, file=sys.stderr)
        return {**failure, "error": "SystemExit", "message": str(error.code)}
    if isinstance(error, RaycompressError):  # the trial's config_list is the expanded one, which lies beside its log
        error.problems = tuple(
            replace(one, where=f"{spec.config_path}  {one.where}") if one.where.startswith("config_list[") else one
            for one in error.problems
        )
    traceback.print_exception(type(error), error, trace)
    if isinstance(error, RaycompressError):
        messages = [f"{problem.what}; {problem.fix}" if problem.fix else problem.what for problem in error.problems]
        state = _STATES.get(type(error), TrialState.FAILED)
        return {**failure, "error": type(error).__name__, "message": "; ".join(messages), "state": state}
    name = type(error).__name__
    message = f"{name}: {error}" if str(error) else name
    if memory.is_exhausted(error):
        failure["state"], message = TrialState.OUT_OF_MEMORY, f"memory is exhausted: {message}"
    return {**failure, "error": name, "message": message}


def _last_own_frame(error: BaseException, trace: TracebackType | None, spec: TrialSpec) -> str:
    """Return the last frame that lies in the user's files, e.g. ``train.py:42 in fine_tune``."""
    homes = (spec.script_path.resolve().parent, Path(spec.workingdir).resolve())
    found = ""
    for frame, line in traceback.walk_tb(trace):
        file = _within(frame.f_code.co_filename, homes)
        if file:
            name = frame.f_code.co_name
            found = f"{file}:{line}" if name == "<module>" else f"{file}:{line} in {name}"
    if not found and isinstance(error, SyntaxError) and error.filename:
        file = _within(error.filename, homes)
        found = f"{file}:{error.lineno}" if file else ""
    return found


def _within(filename: str, homes: tuple[Path, ...]) -> str:
    """Return `filename` relative to the first of `homes` that holds it; empty for others and for libraries."""
    path = Path(filename)
    libraries = (_OWN_PACKAGE, *site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib"))
    if any(path.is_relative_to(library) for library in libraries):
        return ""
    return next((str(path.relative_to(home)) for home in homes if path.is_relative_to(home)), "")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the script closed it
            continue
