"""The warm process, ``python -m raycompress.runtime.warm``: imports the script's libraries once, then is forked.

Its specification comes as JSON on stdin, its listening socket as a descriptor. It starts no thread, never touches CUDA
and never runs a line of the user's script. Libraries do start threads at import (OpenBLAS, jemalloc): those know how to
be forked, and a probe child makes sure. For each client it forks a `Supervisor`; with the last one it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raycompress.runtime.processes import (
    ChildWatch,
    become_subreaper,
    die_with_parent,
    join_pages,
    kill_descendants,
)
from raycompress.runtime.protocol import SET_BY_SCRIPT, Hello, Import, PreloadProblem, WarmSpec
from raycompress.runtime.supervisor import Supervisor
from raycompress.script.node import runtime_folder


def main() -> None:
    """Read the specification, preload, serve."""
    for stream in (sys.stdout, sys.stderr):
        # the trials' too; by lines, so that what was printed before a crash is in the log
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    spec = WarmSpec.from_json(json.load(sys.stdin))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    become_subreaper()
    sys.path[:0] = spec.sys_path
    server = _Server(spec, socket.socket(fileno=int(sys.argv[1])))
    started = time.monotonic()
    with server.leaving_with_all_clients(int(sys.argv[2])):
        problems = preload(spec.preload)
    seconds = time.monotonic() - started
    probe_result = probe(spec.preload, problems, spec.probe_s)
    _leave_finalizers_out()
    gc.collect()
    gc.freeze()  # so that a child's collector does not touch, and thereby copy, these pages
    if spec.many_forks:
        join_pages()
    modules = sum(item.module in sys.modules for item in spec.preload)
    server.serve(Hello(os.getpid(), modules, round(seconds, 3), tuple(problems), probe_result))


def preload(imports: Sequence[Import]) -> list[PreloadProblem]:
    """Run `imports` in turn; return what became of the required ones that failed."""
    problems = []
    for item in imports:
        if not item.module:
            _set_variable(item.env)
            continue
        try:
            module = importlib.import_module(item.module)
            for name in item.names:
                if not hasattr(module, name):
                    importlib.import_module(f"{item.module}.{name}")
            if item.call:
                getattr(module, item.call, lambda: None)()
        except BaseException as error:  # noqa: BLE001 - a library may raise anything, SystemExit too; it is told
            if item.required:
                message = f"{type(error).__name__}: {error}"
                problems.append(PreloadProblem(item.module, item.where, message, traceback.format_exc()))
    return problems


def _set_variable(env: Sequence[str | None]) -> None:
    """Set a variable as the script will: the libraries that come after it may read it."""
    if not env or env[0] is None:
        return
    name, value, *kind = env
    assert name is not None
    SET_BY_SCRIPT.add(name)
    if value is None:
        os.environ.pop(name, None)
    elif "default" not in kind or name not in os.environ:
        os.environ[name] = value


def probe(imports: Sequence[Import], problems: Sequence[PreloadProblem], limit_s: float) -> str:
    """Fork a child that tries what trials will do; return what is wrong, or an empty string."""
    failed = {problem.module for problem in problems}
    expected = [item.module for item in imports if item.required and item.module not in failed]
    answer, answer_end = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(parent)
        outcome = _try_out(expected)
        os.write(answer_end, outcome.encode()[:4000])
        os._exit(0)
    os.close(answer_end)
    ready, _, _ = select.select([answer], [], [], limit_s)
    outcome = os.read(answer, 4096).decode(errors="replace") if ready else f"a forked child hung for {limit_s:g} s"
    os.close(answer)
    kill_descendants()
    return "" if outcome == "ok" else outcome or "a forked child crashed"


def _try_out(expected: Sequence[str]) -> str:
    missing = [name for name in expected if name not in sys.modules]
    if missing:
        return f"not loaded in a forked child: {', '.join(missing)}"
    return _try_torch() or _try_tensorflow() or "ok"


def _try_torch() -> str:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return ""
    if torch.cuda.is_initialized():
        return "an import of the script initialised CUDA, which no forked child can use"
    try:
        torch.set_num_threads(2)
        product = torch.ones(64, 64) @ torch.ones(64, 64)
        images = torch.ones(2, 3, 8, 8, requires_grad=True)
        torch.nn.functional.conv2d(images, torch.ones(4, 3, 3, 3)).sum().backward()
    except RuntimeError as error:
        return f"torch does not work in a forked child: {error}"
    return "" if float(product[0, 0]) == 64 else "torch computes wrongly in a forked child"


def _try_tensorflow() -> str:
    """Tell whether an operation ran before the fork: its threads are gone in a child, which then hangs."""
    tensorflow: Any = sys.modules.get("tensorflow")
    if tensorflow is None:
        return ""
    threading = tensorflow.config.threading
    try:
        # TensorFlow refuses this once it has begun to compute
        threading.set_inter_op_parallelism_threads(threading.get_inter_op_parallelism_threads() + 1)
    except RuntimeError:
        return "an import of the script ran an operation of TensorFlow, after which no forked child can use it"
    return ""


def _leave_finalizers_out() -> None:
    """Keep children from taking down at their exit what the imports set up here; for torch that takes 30 ms."""
    registry: dict[weakref.finalize[Any, Any], Any] = getattr(weakref.finalize, "_registry", {})
    for finalizer in list(registry):
        finalizer.atexit = False


class _Server:
    """Accepts clients, forks a supervisor for each, and ends with the last of them."""

    def __init__(self, spec: WarmSpec, listener: socket.socket) -> None:
        self._spec = spec
        self._listener = listener
        self._listener.setblocking(False)
        self._early: list[socket.socket] = []
        self._came = False  # whether there ever was a client
        self._supervisors: set[int] = set()
        self._failed = False  # whether a client was turned away, or lost its supervisor: the log says why
        self._life_read, self._life_write = os.pipe()

    @contextlib.contextmanager
    def leaving_with_all_clients(self, starter: int) -> Iterator[None]:
        """End this process in the middle of its imports when its clients, or `starter` before it was one, have left."""

        def check(*_: object) -> None:
            self._accept()
            self._early = [client for client in self._early if not _has_left(client)]
            if not self._early and (self._came or os.getppid() != starter):
                self._end_unless_wanted()

        signal.signal(signal.SIGALRM, check)
        signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def serve(self, hello: Hello) -> None:
        """Serve until no client is left, or none came."""
        watch = ChildWatch()
        give_up = time.monotonic() + self._spec.idle_s
        while True:
            self._accept()
            while self._early:
                self._fork_supervisor(self._early.pop(0), watch, hello)
            idle = not self._supervisors
            if idle and (self._came or time.monotonic() >= give_up):
                self._end_unless_wanted()
                continue
            timeout = max(0.0, give_up - time.monotonic()) if idle else None
            select.select([self._listener.fileno(), watch.fileno()], [], [], timeout)
            ended = watch.reap()
            while lost := self._supervisors & ended.keys():
                self._note_failures({pid: ended[pid] for pid in lost})
                self._supervisors -= ended.keys()
                ended = kill_descendants(spare=frozenset(self._supervisors))  # what a killed supervisor left behind

    def _note_failures(self, ended: Mapping[int, int]) -> None:
        for pid, status in ended.items():
            if status:
                print(f"the process that serves a client, {pid}, ended with {os.waitstatus_to_exitcode(status)}")
                self._failed = True

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._early.append(self._listener.accept()[0])
                self._came = True

    def _fork_supervisor(self, client: socket.socket, watch: ChildWatch, hello: Hello) -> None:
        try:
            pid = os.fork()
        except OSError:  # out of memory or processes: this client is turned away, the others go on
            traceback.print_exc()
            client.close()
            self._failed = True
            return
        if pid == 0:
            try:
                os.setsid()
                watch.close()
                self._listener.close()
                os.close(self._life_write)
                for other in self._early:
                    other.close()
                Supervisor(client, self._life_read, hello).serve()
            except BaseException:  # noqa: BLE001 - a fault of ours, told in our log; a fork must not go on as its parent
                traceback.print_exc()
                kill_descendants()
                os._exit(70)
        client.close()
        self._supervisors.add(pid)

    def _end_unless_wanted(self) -> None:
        """End, unless a client came meanwhile; the lock keeps others from coming in between."""
        with (runtime_folder() / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._accept()
            if not self._early:
                kill_descendants()
                self._listener.close()  # before the lock is let go of, or the next client still gets in
                if not self._failed:  # who starts the next one removes what is left
                    shutil.rmtree(self._spec.folder, ignore_errors=True)
                os._exit(0)


def _has_left(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


if __name__ == "__main__":
    main()
