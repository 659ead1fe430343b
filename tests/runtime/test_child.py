"""What a script sees in a forked child, and what of ours runs beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raycompress.runtime.client import WarmProcess, WarmSpec
from raycompress.runtime.preload import find_imports
from raycompress.states import TrialState
from tests.support.trials import run


def test_a_script_runs_as_if_python_had_been_started_for_it(worker, spec, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "helper.py").write_text("VALUE = 41\n")
    source = """
import os, sys, json, pickle, __main__
import helper
class Net: pass
assert __name__ == "__main__" and __main__.Net is Net
assert isinstance(pickle.loads(pickle.dumps(Net())), Net)
json.dump({
    "argv": sys.argv, "path0": sys.path[0], "cwd": os.getcwd(), "file": __file__, "stdin": sys.stdin.read(),
    "session": os.getsid(0) == os.getpid(), "set": os.environ.get("SET"), "unset": os.environ.get("HOME"),
}, open("seen.json", "w"))
rc.print_result(helper.VALUE)
"""
    trial = spec(
        source, name="src/train.py", script_args=("--epochs", "3"), env={"SET": "1", "HOME": None}, config={"lr": 0.1}
    )
    _, ending = run(worker, trial)
    assert (ending.state, ending.values) == (TrialState.FINISHED, {"result": 41}), ending.log.read_text()
    script = str(tmp_path / "src" / "train.py")
    config = tmp_path / "trial" / "config.json"
    assert json.loads((tmp_path / "seen.json").read_text()) == {
        "argv": [script, "--epochs", "3", str(config)],
        "path0": str(tmp_path / "src"),
        "cwd": str(tmp_path),
        "file": script,
        "stdin": "",
        "session": True,
        "set": "1",
        "unset": None,
    }
    assert json.loads(config.read_text()) == {"lr": 0.1}


def test_one_script_by_hand_and_as_a_trial(worker, spec, tmp_path):
    source = """
@rc.experiment
def main(config):
    rc.save_model(lambda: open("saved", "w").close())
    return config.a / 2
if __name__ == "__main__":
    main()
"""
    _, ending = run(worker, spec(source, save_model=False))
    assert ending.values == {"result": 0.5}
    assert ending.log.read_text() == ""
    assert not (tmp_path / "saved").exists()
    config = str(tmp_path / "trial" / "config.json")
    by_hand = subprocess.run(
        [sys.executable, "train.py", config], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert by_hand.stdout == "result: 0.5\n"
    assert (tmp_path / "saved").exists()


def test_what_one_trial_changes_the_next_does_not_see(worker, spec, tmp_path):
    look = """
import os, sys, random, json
rc.report(a=random.random())
print(os.getcwd(), sys.argv, os.environ.get("X"), hasattr(json, "spoilt"))
"""
    spoil = """
os.chdir("/"); os.environ["X"] = "1"; random.seed(1); json.spoilt = 1
sys.argv.append("x"); sys.path.clear()
"""
    _, first = run(worker, spec(look + spoil))
    before = first.log.read_text()
    _, second = run(worker, spec(look + spoil))
    assert second.state == TrialState.FINISHED
    assert second.log.read_text() == before
    assert first.values != second.values  # fresh entropy each


def test_equal_seeds_give_equal_numbers(worker, spec):
    source = "import random\nrc.report(a=random.random(), b=hash('text') % 1000)"
    values = [run(worker, spec(source, seed=seed))[1].values for seed in (7, 7, 8)]
    assert values[0] == values[1]
    assert values[0]["a"] != values[2]["a"]


def test_what_python_does_at_its_end_is_done(worker, spec):
    source = """
import atexit, threading, time, weakref, tempfile
from concurrent.futures import ThreadPoolExecutor
atexit.register(print, "atexit")
atexit.register(lambda: 1 / 0)
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
pool = ThreadPoolExecutor(1); pool.submit(print, "pool").result()
rc.print_result(1)
"""
    _, ending = run(worker, spec(source))
    text = ending.log.read_text()
    assert ending.state == TrialState.FINISHED
    assert text.startswith("pool\nthread\n")
    assert "ZeroDivisionError" in text
    assert text.endswith("atexit\n")


def test_spawned_workers_and_their_helpers(worker, spec, tmp_path):
    """multiprocessing starts a python of its own for each worker, and a process that removes leaked memory."""
    source = """
import multiprocessing
from multiprocessing.shared_memory import SharedMemory
def work(i): return i * i
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        rc.print_result(sum(pool.map(work, range(4))))
    open("leaked", "w").write(SharedMemory(create=True, size=64).name)
"""
    _, ending = run(worker, spec(source))
    assert (ending.state, ending.values) == (TrialState.FINISHED, {"result": 14}), ending.log.read_text()
    assert not Path("/dev/shm", (tmp_path / "leaked").read_text()).exists()


SIZES = {"params": 1, "flops": 2, "size_bytes": 4}
CANDIDATE = {"type": "candidate", "before": SIZES, "after": SIZES, "removed": {"conv": [1, 2]}, "notes": []}
HOOKS = """
from raycompress.script import context
trial = context.current()
"""


@pytest.mark.parametrize("asked", [False, True])
def test_a_script_knows_whether_latencies_are_asked_for(worker, spec, asked):
    _, ending = run(worker, spec(HOOKS + "rc.report(latency=int(trial.latency))", latency=asked))
    assert ending.values == {"latency": int(asked)}


@pytest.mark.parametrize("mode", ["inspect", "verify"])
def test_the_end_of_an_inspection_is_a_good_end(worker, spec, mode):
    source = HOOKS + (
        "trial.send({'type': 'progress', 'done': 1, 'total': 2, 'layer': 'conv'})\n"
        "try:\n    raise context.EndOfInspection\nexcept Exception:\n    print('swallowed')\nprint('after')"
    )
    messages, ending = run(worker, spec(source, mode=mode))
    assert messages == [{"type": "progress", "done": 1, "total": 2, "layer": "conv"}]
    assert (ending.state, ending.cause) == (TrialState.FINISHED, "")
    assert ending.log.read_text() == ""


def test_a_script_that_inspection_never_stopped_ends_well(worker, spec):
    messages, ending = run(worker, spec("rc.print_result(1)", mode="inspect"))
    assert (messages, ending.state, ending.values) == ([], TrialState.FINISHED, None)


def test_hooks_at_the_end_run_after_a_good_end_and_can_fail_the_trial(worker, spec):
    hooks = HOOKS + f"trial.on_finish.append(lambda: trial.send({CANDIDATE}))\n"
    messages, ending = run(worker, spec(hooks + "rc.print_result(1)\nimport sys; sys.exit(0)"))
    assert messages[-1] == CANDIDATE
    assert ending.candidate == messages[-1]
    _, ending = run(worker, spec(hooks + "rc.print_result(1)\nraise SystemExit(2)"))
    assert (ending.state, ending.candidate) == (TrialState.FAILED, None)
    failing = HOOKS + (
        "from raycompress.errors import CompressionError\n"
        "def check(): raise CompressionError('weights changed', fix='report again')\n"
        "trial.on_finish.append(check)\nrc.print_result(1)"
    )
    _, ending = run(worker, spec(failing))
    assert (ending.state, ending.cause) == (
        TrialState.FAILED,
        "weights changed; report again (train.py:6 in check)",
    )


def test_the_trial_knows_what_it_is(worker, spec, tmp_path):
    source = HOOKS + "print(trial.mode, trial.candidate, trial.save_model, trial.bundle)\nrc.print_result([1, 2])"
    trial = spec(source, mode="baseline", result_labels=("accuracy", "loss"), bundle="/b", save_model=False)
    _, ending = run(worker, trial)
    assert ending.log.read_text() == f"baseline {tmp_path}/trial/candidate False /b\n"
    assert ending.values == {"accuracy": 1, "loss": 2}


def test_garbage_and_a_flood_of_messages_do_no_harm(worker, spec):
    source = (
        "import os\nfor fd in range(3, 40):\n    try: os.write(fd, b'garbage\\n')\n    except OSError: pass\n"
        "for i in range(20000): rc.print_result(i)"
    )
    messages, ending = run(worker, spec(source))
    assert (ending.state, ending.values) == (TrialState.FINISHED, {"result": 19999})
    assert len(messages) == 20000
    assert (
        "unreadable message: b'garbage'" in ending.log.read_text()
        or "unreadable message: garbage" in ending.log.read_text()
    )


@pytest.mark.engine
def test_torch_trains_in_forked_children(tmp_path, spec):
    source = """
import numpy, torch
numpy.ones((300, 300)) @ numpy.ones((300, 300))
def main():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        loss = model(torch.randn(16, 1, 8, 8)).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    rc.report(loss=loss, threads=torch.get_num_threads(), noise=numpy.random.rand())
main()
"""
    trial = spec(source, threads=2, seed=5, timeout_s=60)
    script = tmp_path / "train.py"
    warm = WarmSpec("torch", str(tmp_path), preload=find_imports(script, tmp_path))
    process = WarmProcess.start(warm)
    hello = process.wait_ready()
    assert (hello.problems, hello.probe) == ((), "")
    worker = process.connect()
    endings = [run(worker, trial)[1] for _ in range(2)]
    worker.close()
    assert [ending.state for ending in endings] == [TrialState.FINISHED] * 2, endings[0].log.read_text()
    assert endings[0].values["threads"] == 2
    assert endings[0].values == endings[1].values
