import subprocess
import sys

import pytest

from raycompress.cli.main import VERBS
from tests.support.launching import raycompress

HEAVY = ("ray", "torch", "tensorflow", "nni", "optuna", "pandas")


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import raycompress",
        "import raycompress; raycompress.BasicConfig, raycompress.report, raycompress.experiment",
        "from raycompress.cli.main import cli; cli.main(['--help'], standalone_mode=False)",
        *[
            f"from raycompress.cli.main import cli; cli.main(['{verb}', '--help'], standalone_mode=False)"
            for verb in VERBS
        ],
    ],
)
def test_nothing_heavy_is_loaded(code):
    assert not modules_after(code) & set(HEAVY)


def test_help_names_every_verb(tmp_path):
    done = raycompress(tmp_path, "--help")
    assert done.code == 0
    for verb in VERBS:
        assert f"  {verb} " in done.out


def test_an_unknown_verb_is_answered_with_the_near_one(tmp_path):
    done = raycompress(tmp_path, "lanch", "exp.json")
    assert done.code == 2
    assert 'did you mean "launch"' in done.err


def test_a_missing_argument_is_exit_code_2_without_traceback(tmp_path):
    done = raycompress(tmp_path, "launch")
    assert done.code == 2
    assert "Traceback" not in done.err
