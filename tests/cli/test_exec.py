"""`raycompress exec`: a plain script runs as python would run it, with `aup` in place."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launching import command, raycompress


@pytest.fixture
def write(tmp_path):
    def write(source: str, name: str = "plain.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return path

    return write


SEES = """
import json, os, pickle, sys, __main__
import helper
class Net: pass
assert __main__.Net is Net and isinstance(pickle.loads(pickle.dumps(Net())), Net)
print(json.dumps([__name__, __file__, sys.argv, sys.path[0], os.getcwd(), helper.VALUE, __doc__]))
"""


def test_a_script_sees_what_python_shows_it(tmp_path, write):
    write("VALUE = 41\n", "src/helper.py")
    script = write(SEES, "src/plain.py")
    words = ("src/plain.py", "--epochs", "3", "--help", "-x", "--", "config.json")
    python = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    done = raycompress(tmp_path, "exec", *words)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == json.loads(python.stdout)
    assert json.loads(done.out)[1] == str(script)


def test_aup_is_there_before_a_file_of_that_name(tmp_path, write):
    write("raise ImportError('the other one')", "aup.py")
    write("import aup, sys\nprint(aup.BasicConfig(a=1).a, 'torch' in sys.modules)\naup.print_result(0.5)")
    done = raycompress(tmp_path, "exec", "plain.py")
    assert (done.out, done.err) == ("1 False\nresult: 0.5\n", "")


@pytest.mark.parametrize(
    ("ending", "code", "err"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('said')", 1, "said\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_its_exit_code_passes(tmp_path, write, ending, code, err):
    write(f"import sys\n{ending}")
    done = raycompress(tmp_path, "exec", "plain.py")
    assert (done.code, done.err) == (code, err)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    1 / 0\nf()",
        "def f(:",
        "import click\nraise click.UsageError('of the script')",
        "import raycompress as rc\nrc.report()",
        "raise BrokenPipeError",
        "import sys\nsys.excepthook = lambda *_: print('its own hook', file=sys.stderr)\n1 / 0",
    ],
)
def test_its_traceback_is_the_one_of_python(tmp_path, write, source):
    script = write(source)
    python = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    done = raycompress(tmp_path, "exec", script)
    assert (done.code, done.out, done.err) == (python.returncode, python.stdout, python.stderr)
    assert done.code == 1


def test_ctrl_c_ends_it_with_its_traceback(tmp_path, write):
    write("print(1)\nraise KeyboardInterrupt")
    done = raycompress(tmp_path, "exec", "plain.py")
    assert done.code == 130
    assert "plain.py" in done.err
    assert done.err.endswith("KeyboardInterrupt\n")


def test_a_missing_script_is_answered_with_the_near_one(tmp_path, write):
    write("", "src/train_digits.py")
    done = raycompress(tmp_path, "exec", "src/train_digit.py")
    assert done.code == 2
    assert done.err == (
        'error: there is no such script\n where: src/train_digit.py\n   fix: did you mean "src/train_digits.py"?\n'
    )
    assert "this is a folder" in raycompress(tmp_path, "exec", "src").err
    assert raycompress(tmp_path, "exec").code == 2


UTILITIES = """
import torch, aup
from torch import nn
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8 * 16, 4)
    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.conv1(x)))).flatten(1))
model, data = Net().eval(), torch.ones(1, 1, 8, 8)
def test(model):
    with torch.no_grad():
        return float(model(data).norm()), "a tuple"
analyzer = aup.compression.sensitivity_analysis.SensitivityAnalysis(model=model, val_func=test, sparsities=[0.25, 0.5])
print(sorted(analyzer.analysis(val_args=[model])))
analyzer.export("sensitivity.csv")
aup.compression.shape_dependency.ChannelDependency(model, data).export("dependency.csv")
print(aup.compression.counter.count_flops_params(model, (1, 1, 8, 8))[:2])
"""


@pytest.mark.engine
def test_the_utilities_of_an_old_script_run_without_an_experiment(tmp_path, write):
    write(UTILITIES)
    done = subprocess.run(command("exec", "plain.py"), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    params = 8 * 9 + 8 + 8 * 8 * 9 + 8 + 4 * 128 + 4
    flops = 8 * 9 * 36 + 8 * 8 * 9 * 16 + 4 * 128
    assert done.stdout == f"['conv1', 'conv2']\n({flops}, {params})\n"
    rows = (tmp_path / "sensitivity.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["layername", "conv1", "conv2"]
    assert rows[0] == "layername,0.25,0.5"
    assert (tmp_path / "dependency.csv").read_text().startswith("Dependency Set,Layers\nSet 1,")
