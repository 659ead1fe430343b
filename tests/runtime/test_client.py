"""The warm process and its clients: who stops whom, and no process left behind by any end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from raycompress.errors import ScriptError, StorageError
from raycompress.runtime.client import Ending, TrialSpec, WarmProcess, WarmSpec, connect_or_start
from raycompress.runtime.protocol import Import
from raycompress.script.node import runtime_folder
from raycompress.states import TrialState
from tests.support.trials import DAEMON, LEAVES, STDLIB, UNTIL_NOTED, left, pids, run, wait_for


@pytest.mark.parametrize("how", LEAVES)
@pytest.mark.parametrize("end", ["", "os._exit(3)", "os.kill(os.getpid(), 11)", "time.sleep(600)"])
def test_nothing_that_a_trial_started_outlives_it(worker, spec, tmp_path, how, end):
    source = DAEMON + LEAVES[how] + UNTIL_NOTED + "rc.print_result(1)\n" + end
    _, ending = run(worker, spec(source, timeout_s=1 if "sleep" in end else 30))
    expected = {"": "finished", "os._exit(3)": "failed", "time.sleep(600)": "timed out"}.get(end, "killed")
    assert ending.state == expected
    assert left(*pids(tmp_path / "pids")) == []


def test_trials_of_a_process_with_large_pages_compute_as_those_of_any_other(warm_spec, spec):
    preload = (*warm_spec.preload, Import("numpy"))
    many = connect_or_start(replace(warm_spec, name="many forks", many_forks=True, preload=preload))
    endings = [run(many, spec("import raycompress as rc, numpy\nrc.report(x=float(numpy.arange(1000).sum()))\n"))[1]]
    endings.append(run(many, spec(DAEMON + "import os\nos.kill(os.getpid(), 11)"))[1])
    endings.append(run(many, spec("import raycompress as rc\nrc.report(x=sum(bytearray(4 << 20)))\n"))[1])
    many.close()
    assert [ending.state for ending in endings] == ["finished", "killed", "finished"]
    assert [ending.values for ending in endings if ending.values] == [{"x": 499500.0}, {"x": 0}]


def test_two_clients_do_not_touch_each_other(warm_spec, worker, spec, tmp_path):
    """One trial is stopped, with daemons; the other, with daemons of its own, goes on to its end."""
    other = connect_or_start(warm_spec)
    first = tmp_path / "first"
    second = tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "train.py").write_text(
            "import raycompress as rc\n" + DAEMON + LEAVES["a daemon's children"] + UNTIL_NOTED
            + "while not os.path.exists('go'): time.sleep(0.01)\nrc.print_result(1)\n"
            "open('alive', 'w').write(str([os.path.exists(f'/proc/{p}') for p in open('pids').read().split()]))\n"
        )  # fmt: skip
    trials = [TrialSpec("trial", "train.py", {}, str(folder), str(folder / "t")) for folder in (first, second)]
    endings: list[Ending] = []
    thread = threading.Thread(target=lambda: endings.append(run(other, trials[1])[1]))
    thread.start()
    stopper = threading.Thread(target=lambda: (wait_for(first / "pids"), wait_for(second / "pids"), worker.stop()))
    stopper.start()
    _, ending = run(worker, trials[0])
    stopper.join()
    assert ending.state == TrialState.STOPPED
    assert left(*pids(first / "pids")) == []
    (second / "go").touch()
    thread.join()
    assert endings[0].state == TrialState.FINISHED
    assert "False" not in (second / "alive").read_text()
    assert left(*pids(second / "pids")) == []
    other.close()


def test_the_client_stops_a_trial_and_runs_the_next(worker, spec, tmp_path):
    trial = spec(DAEMON + "daemon()\nnote()\nrc.print_result(1)\ntime.sleep(600)")
    stream = worker.run(trial)
    assert next(stream)["type"] == "result"
    worker.stop()
    (ending,) = stream
    assert (ending.state, ending.cause, ending.values) == (TrialState.STOPPED, "stopped", {"result": 1})
    assert left(*pids(tmp_path / "pids")) == []
    worker.stop()  # nothing runs: of no effect on what comes
    assert run(worker, spec("rc.print_result(2)"))[1].values == {"result": 2}


def test_leaving_the_messages_early_stops_the_trial(worker, spec, tmp_path):
    stream = worker.run(spec(DAEMON + "note()\nrc.print_result(1)\ntime.sleep(600)"))
    next(stream)
    stream.close()
    assert left(*pids(tmp_path / "pids")) == []
    assert run(worker, spec("rc.print_result(2)"))[1].values == {"result": 2}


CLIENT = """
import json, sys
from raycompress.runtime.protocol import TrialSpec, WarmSpec
from raycompress.runtime.client import connect_or_start
warm, trial = (kind.from_json(json.loads(text)) for kind, text in zip((WarmSpec, TrialSpec), sys.argv[1:3]))
worker = connect_or_start(warm)
print(worker.wait_ready().pid, flush=True)
for message in worker.run(trial):
    print(message, flush=True)
"""


def start_client(warm, trial):
    """Run a trial from a process of its own; return it and the warm process's id."""
    arguments = [json.dumps(warm.to_json()), json.dumps(trial.to_json())]
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE, text=True)
    return client, int(client.stdout.readline())


def family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_client_that_is_killed_takes_all_with_it(spec, tmp_path, number):
    warm = WarmSpec(name=f"client-{number}", workingdir=str(tmp_path), preload=STDLIB)
    client, pid = start_client(warm, spec(DAEMON + "daemon()\nnote()\ntime.sleep(600)"))
    assert len(wait_for(tmp_path / "pids").split()) >= 1
    all_of_them = {*family(pid), *pids(tmp_path / "pids")}
    client.send_signal(number)
    client.communicate()
    assert left(*all_of_them) == []
    assert not warm.folder.exists()


def test_a_warm_process_that_is_killed_ends_its_trials(spec, tmp_path):
    warm = WarmSpec(name="killed", workingdir=str(tmp_path), preload=STDLIB)
    worker = connect_or_start(warm)
    pid = worker.wait_ready().pid
    stream = worker.run(spec(DAEMON + "daemon()\nnote()\nrc.print_result(1)\ntime.sleep(600)"))
    next(stream)
    all_of_them = {*family(pid), *pids(tmp_path / "pids")}
    os.kill(pid, signal.SIGKILL)
    (ending,) = stream
    assert ending.state == TrialState.KILLED
    assert ending.cause == "the warm process, which it was forked from, was killed"
    assert left(*all_of_them) == []
    again = connect_or_start(warm)  # over what the killed one left
    assert again.wait_ready().pid != pid
    assert run(again, spec("rc.print_result(3)"))[1].values == {"result": 3}
    again.close()
    worker.close()


def test_a_supervisor_that_is_killed_is_cleaned_up_after(warm_spec, worker, spec, tmp_path):
    """The process between the warm one and the child dies: the client is told, the others go on."""
    other = connect_or_start(warm_spec)
    stream = other.run(spec(DAEMON + "daemon()\nopen('parent', 'w').write(f'{os.getppid()}\\n')\n"
                            "rc.print_result(1)\ntime.sleep(600)"))  # fmt: skip
    next(stream)
    os.kill(*pids(tmp_path / "parent"), signal.SIGKILL)
    (ending,) = stream
    assert (ending.state, ending.cause) == (
        TrialState.KILLED,
        "the process that watched over it, or the warm process, is gone",
    )
    assert left(*pids(tmp_path / "pids")) == []
    assert other.is_closed
    assert run(worker, spec("rc.print_result(2)"))[1].values == {"result": 2}


def test_it_ends_with_its_last_client(tmp_path):
    warm = WarmSpec(name="last", workingdir=str(tmp_path), preload=STDLIB)
    first, second = connect_or_start(warm), connect_or_start(warm)
    pid = first.wait_ready().pid
    assert second.wait_ready().pid == pid
    first.close()
    assert run(second, TrialSpec("trial", "none.py", {}, str(tmp_path), str(tmp_path / "t")))[1].state == "failed"
    second.close()
    assert left(pid) == []
    assert not warm.folder.exists()


def test_many_clients_at_once_start_one_process(tmp_path):
    warm = WarmSpec(name="many", workingdir=str(tmp_path), preload=STDLIB)
    workers = []
    threads = [threading.Thread(target=lambda: workers.append(connect_or_start(warm))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({worker.wait_ready().pid for worker in workers}) == 1
    pid = workers[0].wait_ready().pid
    for worker in workers:
        worker.close()
    assert left(pid) == []


def test_a_process_whose_starter_dies_during_the_imports_ends(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, time\nopen('pid', 'w').write(f'{os.getpid()}\\n')\nfor _ in range(6000): time.sleep(0.1)\n"
    )
    warm = WarmSpec("slow", str(tmp_path), preload=(Import("slow"),), sys_path=(str(tmp_path),))
    code = (
        "import json, sys, time\nfrom raycompress.runtime.client import *\n"
        "w = WarmProcess.start(WarmSpec.from_json(json.loads(sys.argv[1])))\ntime.sleep(600)"
    )
    client = subprocess.Popen([sys.executable, "-c", code, json.dumps(warm.to_json())])
    (pid,) = pids(tmp_path / "pid")
    client.kill()
    client.wait()
    assert left(pid) == []


def test_what_killed_processes_left_goes_with_the_next_start(tmp_path):
    old, new = (WarmSpec(name, str(tmp_path)).folder for name in ("old", "new"))
    for folder, age in ((old, 4000), (new, 10)):
        folder.mkdir()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / "socket"))
        os.utime(folder, (time.time() - age,) * 2)
    connect_or_start(WarmSpec("next", str(tmp_path))).close()
    assert (old.exists(), new.exists()) == (False, True)


def test_the_sockets_folder_is_this_users_alone(worker, warm_spec):
    assert runtime_folder().stat().st_mode & 0o777 == 0o700
    assert warm_spec.folder.stat().st_mode & 0o777 == 0o700


def test_an_import_that_fails_is_told_with_its_module(tmp_path, spec):
    (tmp_path / "called.py").write_text("def fails():\n    raise OSError('no library')\n")
    (tmp_path / "broken.py").write_text("def f():\n    raise RuntimeError('no licence')\nf()\n")
    preload = (
        Import("json"),
        Import("broken", where="train.py:2"),
        Import("not_installed", where="train.py:3"),
        Import("not_needed", required=False),
        Import("json", ("decoder", "nothing"), where="train.py:4"),
        Import("called", call="fails"),
        Import("json", call="there_is_none"),
    )
    warm = WarmSpec("broken", str(tmp_path), preload=preload, sys_path=(str(tmp_path),))
    worker = connect_or_start(warm)
    hello = worker.wait_ready()
    told = [(problem.module, problem.where, problem.error) for problem in hello.problems]
    assert told == [
        ("broken", "train.py:2", "RuntimeError: no licence"),
        ("not_installed", "train.py:3", "ModuleNotFoundError: No module named 'not_installed'"),
        ("json", "train.py:4", "ModuleNotFoundError: No module named 'json.nothing'"),
        ("called", "", "OSError: no library"),
    ]
    assert 'broken.py", line 2, in f' in hello.problems[0].traceback
    assert run(worker, spec("rc.print_result(1)"))[1].state == TrialState.FINISHED
    worker.close()


def test_imports_that_kill_the_process_are_an_error(tmp_path):
    (tmp_path / "deadly.py").write_text("import os\nprint('about to die')\nos._exit(9)\n")
    warm = WarmSpec("deadly", str(tmp_path), preload=(Import("deadly"),), sys_path=(str(tmp_path),))
    with pytest.raises(ScriptError, match="about to die"):
        connect_or_start(warm)


def test_imports_that_hang_are_an_error(tmp_path):
    (tmp_path / "hangs.py").write_text("import os, time\nopen('pid', 'w').write(f'{os.getpid()}\\n')\ntime.sleep(600)")
    warm = WarmSpec("hangs", str(tmp_path), preload=(Import("hangs"),), sys_path=(str(tmp_path),))
    process = WarmProcess.start(warm)
    with pytest.raises(ScriptError, match=r"longer than 0\.1 s"):
        process.wait_ready(timeout=0.1)
    (pid,) = pids(tmp_path / "pid")
    process.close()
    assert left(pid) == []


@pytest.mark.parametrize(("workingdir", "what"), [("none", "No such file"), ("file", "Not a directory")])
def test_a_working_folder_that_is_none(tmp_path, workingdir, what):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=what):
        connect_or_start(WarmSpec("nowhere", str(tmp_path / workingdir)))


def test_of_a_supervisor_that_is_killed_the_log_says_so_after_the_last_client(tmp_path):
    """What the process that imports printed stays to be read, as nobody else says why a client was left."""
    warm = WarmSpec(name="lost", workingdir=str(tmp_path), preload=STDLIB)
    only = connect_or_start(warm)
    process = psutil.Process(only.wait_ready().pid)
    (supervisor,) = process.children()
    supervisor.kill()
    process.wait(30)
    assert f"the process that serves a client, {supervisor.pid}, ended with -9" in warm.log.read_text()
    only.close()
    again = connect_or_start(warm)  # and what was left is in nobody's way
    assert "ended with -9" not in warm.log.read_text()
    again.close()
