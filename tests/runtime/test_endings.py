"""Every way in which a trial can end, and what its log then holds."""

import re
from pathlib import Path

import pytest

from raycompress.runtime.client import TrialSpec
from raycompress.runtime.log import CappedLog
from raycompress.states import TrialState
from tests.support.trials import left, pids, run


def test_a_result(worker, spec):
    messages, ending = run(worker, spec("rc.report(accuracy=0.5)\nrc.report(accuracy=0.75, loss=1)\nprint('bye')"))
    assert messages == [
        {"type": "result", "values": {"accuracy": 0.5}},
        {"type": "result", "values": {"accuracy": 0.75, "loss": 1}},
    ]
    assert (ending.state, ending.cause, ending.exit_code) == (TrialState.FINISHED, "", 0)
    assert ending.values == {"accuracy": 0.75, "loss": 1}
    assert ending.log.read_text() == "bye\n"


@pytest.mark.parametrize(
    ("source", "state", "cause", "code"),
    [
        ("raise ValueError('too\\nbad')", TrialState.FAILED, "ValueError: too bad (train.py:2)", 1),
        (
            "def fit():\n    json.loads('{')\nimport json\nfit()",
            TrialState.FAILED,
            "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) "
            "(train.py:3 in fit)",
            1,
        ),
        ("import sys\ndef f():\n    sys.exit(3)\nf()", TrialState.FAILED, "exit code 3 (train.py:4 in f)", 3),
        ("import sys; sys.exit(256)", TrialState.FAILED, "exit code 0 (train.py:2)", 1),
        ("import sys; sys.exit('no data')", TrialState.FAILED, "no data (train.py:2)", 1),
        ("import os; os._exit(3)", TrialState.FAILED, "exit code 3", 3),
        ("rc.print_result(1)\nimport os; os._exit(0)", TrialState.FAILED, "exit code 0 by os._exit or exec, before "
         "its result and model could be checked", 0),
        ("raise KeyboardInterrupt", TrialState.FAILED, "KeyboardInterrupt (train.py:2)", 1),
        ("def f(:", TrialState.FAILED, "SyntaxError: invalid syntax (train.py, line 2) (train.py:2)", 1),
        ("import torch_that_is_not", TrialState.FAILED, "ModuleNotFoundError: No module named 'torch_that_is_not' "
         "(train.py:2)", 1),
        ("pass", TrialState.NO_RESULT, "the script reported no result", 0),
        ("rc.print_result(1)\nrc.print_result(float('nan'))", TrialState.NOT_A_NUMBER, "result is nan", 0),
        ("rc.report(a=1, b=float('-inf'))", TrialState.NOT_A_NUMBER, "b is -inf", 0),
        (
            "rc.print_result({'accuracy': 1})",
            TrialState.BAD_RESULT,
            "result is no number but a dict; report a number, or a list of numbers whose first is the objective "
            "(train.py:2)",
            1,
        ),
        ("rc.print_result(1)\nimport sys; sys.exit(0)", TrialState.FINISHED, "", 0),
        ("rc.print_result(1)\nimport sys; sys.exit()", TrialState.FINISHED, "", 0),
    ],
)  # fmt: skip
def test_endings_of_its_own(worker, spec, source, state, cause, code):
    _, ending = run(worker, spec(source))
    assert (ending.state, ending.cause, ending.exit_code, ending.signal) == (state, cause, code, None)


@pytest.mark.parametrize(
    ("source", "number", "name"),
    [
        ("import ctypes; ctypes.string_at(0)", 11, "SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", 9, "SIGKILL"),
        ("import os; os.abort()", 6, "SIGABRT"),
        ("import os; os.kill(os.getpid(), 15)", 15, "SIGTERM"),
    ],
)
def test_signals(worker, spec, source, number, name):
    _, ending = run(worker, spec("rc.print_result(1)\nprint('here')\n" + source))
    assert (ending.state, ending.cause) == (TrialState.KILLED, f"killed by signal {number} ({name})")
    assert (ending.signal, ending.exit_code, ending.values) == (number, None, {"result": 1})
    assert ending.log.read_text() == "here\n"


@pytest.mark.parametrize(
    "source",
    [
        "import time; time.sleep(600)",
        "import signal, time\nfor n in (2, 15, 1): signal.signal(n, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "while True: print('busy')",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()",
    ],
)
def test_a_hang_meets_its_timeout(worker, spec, source, tmp_path):
    note = "import os; open('pid', 'w').write(f'{os.getpid()}\\n')\n"
    _, ending = run(worker, spec(note + source, timeout_s=0.4))
    assert (ending.state, ending.cause) == (TrialState.TIMED_OUT, "no result within 0.4 s (trial_timeout_s)")
    assert left(*pids(tmp_path / "pid")) == []


def test_a_hang_after_its_result_is_a_timeout_too(worker, spec):
    _, ending = run(worker, spec("rc.print_result(1)\nimport time; time.sleep(600)", timeout_s=0.4))
    assert (ending.state, ending.values) == (TrialState.TIMED_OUT, {"result": 1})
    assert ending.cause == "not at its end within 0.4 s (trial_timeout_s)"


def test_a_trial_that_cannot_start(worker, spec, tmp_path):
    missing = TrialSpec("trial", "none.py", {}, str(tmp_path), str(tmp_path / "trial"))
    _, ending = run(worker, missing)
    assert ending.state == TrialState.FAILED
    assert ending.cause == f"cannot run the script: No such file or directory: {tmp_path / 'none.py'}"
    (tmp_path / "file").touch()
    _, ending = run(worker, spec("", folder="file/trial"))
    assert ending.state == TrialState.FAILED
    assert ending.cause.startswith("the trial could not be started: [Errno 20] Not a directory")


def test_a_traceback_shows_the_users_frames_only(worker, spec):
    _, ending = run(worker, spec("def fit():\n    raise ValueError('bad')\nprint('first')\nfit()"))
    folder = Path(ending.log).parent.parent
    text = re.sub(r"^ *[~^]+\n", "", ending.log.read_text(), flags=re.M)  # which Python 3.13 writes under a call
    assert text == (
        "first\nTraceback (most recent call last):\n"
        f'  File "{folder}/train.py", line 5, in <module>\n    fit()\n'
        f"  File \"{folder}/train.py\", line 3, in fit\n    raise ValueError('bad')\nValueError: bad\n"
    )


def test_100_mb_of_output_leave_a_capped_log(worker, spec):
    source = """
import sys
print("FIRST")
for i in range(100):
    sys.stdout.write("x" * (1 << 20))
print("LAST")
rc.print_result(1)
"""
    _, ending = run(worker, spec(source, log_limit=1 << 20))
    text = ending.log.read_text()
    assert ending.state == TrialState.FINISHED
    total = len("FIRST\n") + (100 << 20) + len("LAST\n")
    assert f"\n[... {total - (1 << 20)} bytes left out ...]\n" in text
    assert text.startswith("FIRST\n")
    assert text.endswith("xLAST\n")
    assert (1 << 20) < len(text) < (1 << 20) + 100


def test_output_below_the_limit_is_kept_whole(worker, spec):
    source = "import os\nfor i in range(4000): print(i)\nos.system('echo shell; echo wrong >&2')\nrc.print_result(1)"
    _, ending = run(worker, spec(source, log_limit=100_000))
    assert ending.log.read_text() == "".join(f"{i}\n" for i in range(4000)) + "shell\nwrong\n"


def test_output_without_a_newline_is_there_after_os_exit(worker, spec):
    _, ending = run(worker, spec("import os, sys\nprint('done\\nhalf', end='', flush=True)\nos._exit(3)"))
    assert ending.log.read_text() == "done\nhalf"


def test_a_log_on_a_full_disk_is_told_and_blocks_nobody():
    log = CappedLog(Path("/dev/full"), 1 << 20)
    for _ in range(3):
        log.write(b"x" * (1 << 20))
    log.close()
    assert log.problem == "its log is incomplete: No space left on device"


@pytest.mark.parametrize("limit", [0, 1, 10, 1000])
def test_small_logs(tmp_path, limit):
    log = CappedLog(tmp_path / "log.txt", limit)
    for _ in range(100):
        log.write(b"0123456789")
    log.close()
    text = (tmp_path / "log.txt").read_text()
    assert text == "0123456789" * 100 if limit == 1000 else f"\n[... {1000 - limit} bytes left out ...]\n" in text
