"""The proposer passive: one trial in the very process of the command."""

import json
import os
import subprocess
import sys

from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import command, digits_experiment, number_experiment, raycompress

SCRIPT = """
import os, sys
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
print("pid", os.getpid(), "ray" in sys.modules)
answer = input("how much? ")
os.environ["LEFT"] = "1"
os.chdir("/")
rc.report(score=float(answer), x=config.x)
"""


def passive(folder, script, **keys):
    x = [{"name": "x", "type": "float", "range": [0, 1]}]
    return number_experiment(folder, script, parameter_config=x, proposer="passive", **keys)


def test_the_script_runs_in_the_commands_own_process_and_reads_from_its_terminal(tmp_path):
    path = passive(tmp_path, SCRIPT)
    driver = subprocess.Popen(
        command("launch", path), cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = driver.communicate(b"0.25\n", timeout=120)
    assert driver.returncode == 0, err.decode()
    assert f"pid {driver.pid} False" in out.decode()
    assert "every range at its middle" in err.decode()
    (folder,) = (tmp_path / "raycompress_results").iterdir()
    record = SearchRecord.open(folder)
    (trial,) = record.records.values()
    assert (trial.number, trial.values, trial.sample) == (1, {"score": 0.25, "x": 0.5}, {"x": 0.5})
    assert record.state == "complete"
    assert json.loads((folder / "trials" / "0001" / "config.json").read_text()) == trial.config


def test_a_failing_script_is_told_with_its_frame(tmp_path):
    done = raycompress(tmp_path, "launch", passive(tmp_path, "import sys\nraise ValueError('on purpose')\n"))
    assert done.code == 1
    assert done.record.records[1].state is TrialState.FAILED
    assert "ValueError: on purpose (script.py:2)" in done.err


def test_ctrl_c_is_stopped(tmp_path):
    script = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    done = raycompress(tmp_path, "launch", passive(tmp_path, script))
    assert done.code == 130
    assert done.record.records[1].state is TrialState.STOPPED
    assert done.record.state == "stopped"


def test_a_model_is_kept_and_verified(tmp_path):
    done = raycompress(tmp_path, "launch", digits_experiment(tmp_path, proposer="passive"))
    assert done.code == 0, done.err
    record = done.record
    assert record.best_number == 1
    assert record.verified["relative_difference"] < 1e-4
    assert (record.folder.best_link / "model.pth").exists()


def test_a_debugger_works(tmp_path):
    path = passive(tmp_path, "import raycompress as rc\nvalue = 0.1\nbreakpoint()\nrc.report(score=value)\n")
    words = [sys.executable, "-m", "raycompress", "launch", str(path)]
    typed = "value = 0.75\ncontinue\n"
    # a Ray that another test has used in this process has set PYTHONBREAKPOINT to its own
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONBREAKPOINT"}
    done = subprocess.run(
        words, cwd=tmp_path, input=typed, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "raycompress_results").iterdir()
    assert SearchRecord.open(folder).best.score == 0.75
