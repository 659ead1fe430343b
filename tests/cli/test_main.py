import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raycompress.cli.main import VERBS
from tests.support.experiments import BASE
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


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "POSIX"}, {"PYTHONUTF8": "1"}])
def test_a_folder_in_any_script_is_named_in_any_locale(tmp_path, locale):
    folder = tmp_path / "Pr\u00fcf \u65e5\u672c"
    folder.mkdir()
    (folder / "exp.json").write_text(json.dumps({**BASE, "script": "none.py"}))
    command = [sys.executable, "-m", "raycompress", "validate", "exp.json"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **locale}, capture_output=True, check=False)
    assert done.returncode == 2
    assert f"there is no script {folder}/none.py" in done.stderr.decode()


def test_an_output_that_is_full_is_told_without_a_traceback():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "raycompress", "compressors"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "error: what was found cannot be printed: No space left on device\n"
