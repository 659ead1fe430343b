"""What a person sees of a search: a table on a terminal, plain lines elsewhere."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import termios

import pyte
import pytest
from rich.console import Console

from raycompress.cli.view.live import Progress, _summary, _table
from tests.support.launching import command, number_experiment
from tests.support.shared_ray import run_here

EPOCHS = """
import sys, time
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])

def train():
    if config.x == 0.75:
        raise ValueError("too large for this")

for epoch in range(3):
    time.sleep(0.4)
    rc.report(accuracy=config.x / 3 * (epoch + 1))
train()
"""
GRID = {
    "proposer": "sequence",
    "n_parallel": 2,
    "resource_args": {"track_intermediate_results": True},
    "job_failure": {"ignore_fail": True},
}


def xs(*values):
    return {"parameter_config": [{"name": "x", "type": "choice", "range": list(values)}], **GRID}


def watched(folder, path, *, until=None, columns=80):
    """Launch on a terminal; return every screen that differs, the lines sent, and the exit code."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(command("launch", path), cwd=folder, env=environment, stdout=slave, stderr=slave)
    os.close(slave)
    screen = pyte.HistoryScreen(columns, 24, history=1000)
    stream, sent, screens = pyte.ByteStream(screen), b"", []
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        stream.feed(piece)
        sent += piece
        screens.append([line.rstrip() for line in screen.display])
        if until is not None and until in "\n".join(screens[-1]):
            process.send_signal(signal.SIGINT)
            until = None
    os.close(master)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent.decode())
    return screens, re.split(r"[\r\n]+", text), process.wait(60)


def test_a_terminal_shows_every_running_trial_the_best_and_each_failure_once(tmp_path):
    path = number_experiment(tmp_path, EPOCHS, **xs(0.25, 0.75, 0.5, 0.125))
    screens, lines, code = watched(tmp_path, path)
    assert code == 0, "\n".join(screens[-1])
    assert max(map(len, lines)) <= 80
    seen = "\n".join("\n".join(screen) for screen in screens)
    assert re.search(r"trial +state +step +score +time +proposal", seen)
    assert re.search(r"1 +running +1 +0\.083333 +\S+ s +0\.25\n", seen)  # the last intermediate result
    assert re.search(r"[1-3]/4 done, \d running.*\n.* \d:\d\d gone, about \d:\d\d left", seen)
    assert not re.search(r"0/4 done.*\n.*left", seen)
    end = "\n".join(screens[-1])
    assert re.search(r"3 \* +finished +0\.5 ", end)
    assert " ".join(end.split()).count("ValueError: too large for this (script.py:8 in train)") == 1
    assert "4/4 done, 1 failed, best 0.5 (trial 3)" in end
    assert not re.search(r"about .* left", end.split("4/4")[1])


def test_ctrl_c_says_how_to_go_on(tmp_path):
    path = number_experiment(tmp_path, EPOCHS, **xs(*(n / 100 for n in range(40))))
    screens, _, code = watched(tmp_path, path, until="2/40 done")
    end = " ".join(screens[-1])
    assert code == 4, end
    assert re.search("[12] stopped", end)  # one of the two that ran may end as the key is pressed
    assert "raycompress resume raycompress_results/numbers-" in end


def test_elsewhere_there_are_plain_lines(tmp_path):
    done = run_here(tmp_path, "launch", number_experiment(tmp_path, EPOCHS, **xs(0.75, 0.25, 0.75)))
    assert done.code == 0, done.err
    assert "\x1b" not in done.err
    lines = done.err.splitlines()
    (first,) = [line for line in lines if "too large" in line]
    assert re.fullmatch(r"\[\d/3\] trial \d failed: ValueError: too large for this \(script\.py:8 in train\)", first)
    assert re.search(r"^\[\d/3\] trial \d failed as trial \d did$", done.err, re.M)
    assert re.search(r"^    log: raycompress_results/numbers-[\d-]+/trials/000\d/log\.txt$", done.err, re.M)
    assert len([line for line in lines if re.match(r"\[\d/3\] trial 2: accuracy 0\.25$", line)]) == 1
    # Tune has loggers of its own, which come with libraries that Ray itself brings
    written = {path.name for path in done.record.folder.logs.rglob("*")}
    assert not [name for name in written if "tfevents" in name or name in ("progress.csv", "result.json")]


def progress(*events, n_trials=6, n_parallel=2, goal="max"):
    made = Progress({"event": "experiment", "t": 0.0, "n_trials": n_trials, "n_parallel": n_parallel, "goal": goal})
    for event in events:
        made.add(event)
    return made


def started(number, t):
    return {"event": "started", "t": t, "trial": number, "sample": {}, "baseline": number == 0}


def ended(number, t, seconds, score=None, state="finished", cause=""):
    facts = {"score": score, "values": None, "state": state, "cause": cause, "seconds": seconds}
    return {"event": "ended", "t": t, "trial": number, **facts}


def test_the_time_left_is_unknown_before_a_trial_has_ended_and_at_the_end():
    begun = [started(1, 0.0), started(2, 0.0)]
    assert progress(*begun).seconds_left(5.0) is None
    over = [*begun, ended(1, 10.0, 10.0), {"event": "finished", "t": 11.0, "reason": "stopped"}]
    assert progress(*over).seconds_left(12.0) is None


def test_the_time_left_is_that_of_the_slots():
    events = [started(1, 0.0), started(2, 0.0), ended(1, 10.0, 10.0), started(3, 10.0)]
    # trial 2 is over its time, trial 3 has 6 s left, three wait for two slots
    assert progress(*events).seconds_left(14.0) == pytest.approx((6 + 3 * 10) / 2)
    # the last trial is not divided among the slots
    assert progress(*events, n_trials=3).seconds_left(14.0) == pytest.approx(6)
    # one that waits takes its whole time
    assert progress(*events, n_trials=4, n_parallel=20).seconds_left(14.0) == pytest.approx(10)


def test_the_best_is_the_one_that_is_kept_and_without_models_that_of_the_best_result():
    events = [started(n, 0.0) for n in (0, 1, 2, 3)]
    events += [ended(0, 1.0, 1.0, 9.0), ended(1, 1.0, 1.0, 0.5), ended(2, 1.0, 1.0, 0.7)]
    assert progress().best is None
    assert progress(*events).best == 2
    assert progress(*events, goal="min").best == 1
    assert progress(*events, {"event": "promoted", "t": 1.0, "trial": 1, "score": 0.5}).best == 1


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_table_fits_and_leaves_out_no_trial_that_runs(columns):
    sample = {f"layer{n}.sparsity": n / 7 for n in range(40)}
    events = [{**started(n, 0.0), "sample": sample} for n in range(30)]
    events += [ended(n, 1.0, 1.0, n / 100) for n in range(2, 30)]
    made = progress(*events, n_trials=40)
    console = Console(width=columns, file=io.StringIO())
    console.print(_table(made, 5.0, 6, columns), *_summary(made, 5.0))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert [line.split()[0] for line in lines[1:7]] == ["0", "1", "26", "27", "28", "29"]
    assert "dense model" in lines[1]
    assert "29 *" in lines[6]
